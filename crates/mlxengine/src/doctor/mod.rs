//! Whether everything is in order here: what a report of a fault needs, and the remedy where there is one.
//!
//! ```no_run
//! use mlxengine::doctor::{self, Options};
//! use mlxengine::hub::HubConfig;
//!
//! let options = Options::new(HubConfig::new("models"));
//! let diagnosis = doctor::examine(&options, &mut |_| {});
//! for check in diagnosis.wrong() {
//!     eprintln!("{}: {}", check.name, check.said);
//! }
//! ```

mod cache;
mod hub;
mod model;

use std::path::PathBuf;

use mlxengine_engine::EngineError;
use mlxengine_hub::{Cache, HubConfig, HubError, human};
use serde::Serialize;

use crate::device::{self, Calibration, Device, Machine};
use crate::source::ModelPaths;

/// What is examined.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the Hub is, who asks, and the cache. Its time-outs are not used: the examination has shorter ones.
    pub hub: HubConfig,
    /// Where models are looked for by name.
    pub paths: ModelPaths,
    /// The file in which measured speeds are kept.
    pub calibration: Option<PathBuf>,
    /// Whether speeds are measured also if they are kept.
    pub calibrate: bool,
    /// A model that is looked at.
    pub model: Option<String>,
    /// The revision of the sources that the program was built from, if it knows.
    pub revision: Option<String>,
}

impl Options {
    /// This cache and Hub, and nothing more.
    pub fn new(hub: HubConfig) -> Self {
        let paths = ModelPaths { hub_caches: vec![hub.cache.clone()], ..ModelPaths::default() };
        Self { hub, paths, calibration: None, calibrate: false, model: None, revision: None }
    }
}

/// How this program was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Its version.
    pub version: &'static str,
    /// `release` or `debug`.
    pub profile: &'static str,
    /// Architecture, system and its variant, as in `x86_64-linux-gnu`.
    pub target: String,
    /// Features of the library.
    pub features: Vec<&'static str>,
    /// The revision of its sources, if it was built from a clone.
    pub revision: Option<String>,
}

impl Build {
    /// That of this library; a program knows the revision of its sources itself.
    pub fn of(revision: Option<String>) -> Self {
        let variant = match () {
            () if cfg!(target_env = "gnu") => "-gnu",
            () if cfg!(target_env = "musl") => "-musl",
            () if cfg!(target_env = "msvc") => "-msvc",
            () => "",
        };
        let features = [("demo", cfg!(feature = "demo")), ("stream", cfg!(feature = "stream"))];
        Self {
            version: env!("CARGO_PKG_VERSION"),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            target: format!("{}-{}{variant}", std::env::consts::ARCH, std::env::consts::OS),
            features: features.into_iter().filter_map(|(name, on)| on.then_some(name)).collect(),
            revision,
        }
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In order.
    Ok,
    /// Worth knowing, and not in the way.
    Warning,
    /// Something is wrong.
    Failed,
    /// Not looked at, for the reason that is said.
    Skipped,
}

/// A check, and how it came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, in a word or two.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found, in a sentence.
    pub said: String,
    /// What can be done, where something is not in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, said: impl Into<String>) -> Self {
        Self { name, state, said: said.into(), remedy: None }
    }

    fn ok(name: &'static str, said: impl Into<String>) -> Self {
        Self::new(name, State::Ok, said)
    }

    fn warning(name: &'static str, said: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(name, State::Warning, said) }
    }

    fn failed(name: &'static str, said: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(name, State::Failed, said) }
    }

    fn skipped(name: &'static str, said: impl Into<String>) -> Self {
        Self::new(name, State::Skipped, said)
    }

    fn hub_error(name: &'static str, error: &HubError) -> Self {
        Self { remedy: error.remedy(), ..Self::new(name, State::Failed, error.message()) }
    }

    fn engine_error(name: &'static str, error: &EngineError) -> Self {
        Self { remedy: error.remedy().map(str::to_owned), ..Self::new(name, State::Failed, error.message()) }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Whether nothing is wrong; warnings do not count.
    pub ok: bool,
    /// How the program was built.
    pub build: Build,
    /// What this machine has.
    pub machine: Machine,
    /// What computes.
    pub device: Device,
    /// How fast it is.
    pub calibration: Calibration,
    /// What was looked at.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// The checks that failed.
    pub fn wrong(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.state == State::Failed)
    }
}

/// What is found, as it comes.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// How the program was built, and what this machine has.
    Here(&'a Build, &'a Machine),
    /// How fast it is.
    Speed(&'a Calibration),
    /// The outcome of a check.
    Check(&'a Check),
}

/// Looks at everything; `listener` hears of it as it comes. It takes some seconds, more where the Hub does not answer.
pub fn examine(options: &Options, listener: &mut dyn FnMut(Found<'_>)) -> Diagnosis {
    let build = Build::of(options.revision.clone());
    let machine = Machine::here(Some(&options.hub.cache));
    listener(Found::Here(&build, &machine));
    let (calibration, kept) = calibrate(options);
    listener(Found::Speed(&calibration));
    let mut checks = Vec::new();
    let mut add = |check: Check| {
        listener(Found::Check(&check));
        checks.push(check);
    };
    add(profile(&build));
    add(processor(&machine));
    add(memory(&machine));
    add(disk(options));
    add(kept);
    model::replay().into_iter().for_each(&mut add);
    add(cache::check(&Cache::new(&options.hub.cache)));
    hub::check(&options.hub).into_iter().for_each(&mut add);
    match &options.model {
        Some(model) => model::check(model, &options.paths, &mut add),
        None => add(Check::skipped("model", "none was named")),
    }
    let ok = checks.iter().all(|check| check.state != State::Failed);
    Diagnosis { ok, build, machine, device: device::current(), calibration, checks }
}

fn calibrate(options: &Options) -> (Calibration, Check) {
    const NAME: &str = "calibration";
    let file = options.calibration.as_deref();
    if let Some(known) = file.and_then(Calibration::read).filter(|_| !options.calibrate) {
        return (known, Check::ok(NAME, "measured before, and kept"));
    }
    let measured = Calibration::measure();
    let check = match file.map(|file| (file, measured.keep(file))) {
        None => Check::ok(NAME, "measured; there is no place to keep it"),
        Some((file, Ok(()))) => Check::ok(NAME, format!("measured, and kept in {}", file.display())),
        Some((file, Err(error))) => Check::warning(
            NAME,
            format!("measured, and cannot be kept: {}: {error}", file.display()),
            "make the folder writable, or each start that needs it measures again",
        ),
    };
    (measured, check)
}

fn profile(build: &Build) -> Check {
    let mut said = format!("mlxengine {}, {}, {}", build.version, build.profile, build.target);
    if let Some(revision) = &build.revision {
        said.push_str(&format!(", of {revision}"));
    }
    match build.profile {
        "release" => Check::ok("build", said),
        _ => Check::warning("build", format!("{said}: it is slow"), "build it with `cargo build --release`"),
    }
}

fn processor(machine: &Machine) -> Check {
    const NAME: &str = "processor";
    let Device { instruction_set, threads } = device::current();
    let said = format!("computes with {instruction_set} on {threads} threads");
    let best = machine.processor.instruction_sets.last().map(String::as_str);
    let usable = machine.processor.usable;
    if best.is_some_and(|best| best != instruction_set) {
        let remedy = "leave out --isa and unset MLXENGINE_ISA";
        return Check::warning(NAME, format!("{said}, and has {} too", best.unwrap_or_default()), remedy);
    }
    if threads > usable {
        let remedy = format!("leave out --threads and unset MLXENGINE_THREADS, or say {usable}");
        return Check::warning(NAME, format!("{said}, and this process may run {usable} at once"), remedy);
    }
    Check::ok(NAME, said)
}

fn memory(machine: &Machine) -> Check {
    /// A model of half a billion weights in 4 bits needs as much.
    const LITTLE: u64 = 500_000_000;
    let available = machine.memory.available;
    let said = format!("{} are available", human(available));
    match available {
        0..LITTLE => Check::warning("memory", said, "end other programs, or raise the limit of the group"),
        _ => Check::ok("memory", said),
    }
}

fn disk(options: &Options) -> Check {
    const LITTLE: u64 = 5_000_000_000;
    let path = options.hub.cache.display();
    match Cache::new(&options.hub.cache).free_space() {
        Err(error) => Check::hub_error("disk", &error),
        Ok(free @ 0..LITTLE) => Check::warning(
            "disk",
            format!("{} are free for {path}: models are larger", human(free)),
            "make room, with `mlxengine prune` for one, or set HF_HUB_CACHE to a larger disk",
        ),
        Ok(free) => Check::ok("disk", format!("{} are free for {path}", human(free))),
    }
}

#[cfg(test)]
mod tests;
