//! Several models in one process: each loaded once, and the one that was used longest ago let go when there is no room.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mlxengine_engine::{EngineError, ErrorKind, Result};
use mlxengine_hub::{Cancel, Event, HubConfig, HubError, ModelDownloader, RepoId, Wanted};
use mlxengine_models::{Checkpoint, Source};

use crate::configuration::MemoryPlan;
use crate::cost::ModelCost;
use crate::engine::{InferenceEngine, LlmEngine, LoadOptions};
use crate::memory::{human, memory};
use crate::source::ModelSource;

/// The context that a model gets room for where nobody asks for one.
const USUAL_CONTEXT: usize = 4096;
/// Of all memory, the part that [`ModelManager::relieve`] wants to be available.
const SPARE: u64 = 20;

/// How much a [`ModelManager`] holds at most; what is not given is bounded by memory alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManagerLimits {
    /// Models at once.
    pub models: Option<usize>,
    /// Bytes of their plans together: weights, caches, activations.
    pub bytes: Option<u64>,
}

/// A model that a [`ModelManager`] holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What it was asked for as, at first.
    pub name: String,
    /// What it was given room for.
    pub memory: MemoryPlan,
    /// Whether an answer is under way.
    pub busy: bool,
    /// Since it was last asked for.
    pub idle: Duration,
}

/// Loads models by name, and keeps those that are used. Any number of threads may ask it.
///
/// An engine that it gave out and let go later refuses new answers, so it is asked again for each answer; what is loaded it
/// gives at once.
///
/// ```
/// use mlxengine::{LoadOptions, LlmEngine, ManagerLimits, ModelManager, Prompt};
///
/// let manager = ModelManager::new(LoadOptions::default(), ManagerLimits { models: Some(2), bytes: None });
/// let answer = manager.load("demo")?.generate(Prompt::chat("What is the capital of France?"), &Default::default())?;
/// assert!(answer.text.contains("Paris"));
/// assert_eq!(manager.loaded()[0].name, "demo");
/// assert!(manager.unload("demo")? && manager.loaded().is_empty());
/// # Ok::<(), mlxengine::EngineError>(())
/// ```
pub struct ModelManager {
    options: LoadOptions,
    limits: ManagerLimits,
    hub: Option<HubConfig>,
    slots: Mutex<HashMap<String, Slot>>,
    /// A load has ended.
    ended: Condvar,
}

enum Slot {
    /// Somebody loads it; what comes of it is for all who wait.
    Loading {
        outcome: Arc<Outcome>,
        memory: Option<MemoryPlan>,
    },
    Ready {
        name: String,
        engine: InferenceEngine,
        memory: MemoryPlan,
        used: Instant,
    },
}

type Outcome = OnceLock<std::result::Result<InferenceEngine, Failure>>;

/// An error that several threads get.
#[derive(Clone)]
struct Failure {
    kind: ErrorKind,
    message: String,
    remedy: Option<String>,
}

impl From<&EngineError> for Failure {
    fn from(error: &EngineError) -> Self {
        let remedy = error.remedy().map(str::to_owned);
        Self { kind: error.kind(), message: error.message().to_owned(), remedy }
    }
}

impl From<Failure> for EngineError {
    fn from(Failure { kind, message, remedy }: Failure) -> Self {
        let error = EngineError::new(kind, message);
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }
}

impl Slot {
    fn memory(&self) -> Option<&MemoryPlan> {
        match self {
            Slot::Loading { memory, .. } => memory.as_ref(),
            Slot::Ready { memory, .. } => Some(memory),
        }
    }
}

impl ModelManager {
    /// Holds nothing yet. Models are looked for and loaded as `options` say, and none is fetched.
    #[must_use]
    pub fn new(options: LoadOptions, limits: ManagerLimits) -> Self {
        Self { options, limits, hub: None, slots: Mutex::default(), ended: Condvar::new() }
    }

    /// The same, but models that are not here are fetched from this Hub.
    #[must_use]
    pub fn fetching_from(mut self, hub: HubConfig) -> Self {
        if !self.options.paths.hub_caches.contains(&hub.cache) {
            self.options.paths.hub_caches.push(hub.cache.clone());
        }
        self.hub = Some(hub);
        self
    }

    /// Sees to it that a model is on this machine, and says where. What is fetched is verified before it has its name.
    ///
    /// # Errors
    /// If it is not here, and may not or cannot be fetched.
    pub fn ensure(
        &self,
        model: &str,
        listener: &(dyn Fn(&Event<'_>) + Sync),
        cancel: &Cancel,
    ) -> Result<Option<PathBuf>> {
        let source = ModelSource::parse(model)?;
        let directory = |source| match source {
            Source::Directory(path) => Some(path),
            Source::Embedded { .. } => None,
        };
        let here = source.resolve(&self.options.paths);
        match (here, source.on_hub(), self.hub.as_ref().filter(|hub| !hub.offline)) {
            (Err(_), Some((id, revision)), Some(hub)) => {
                let repo = RepoId::parse(&id).map_err(failed)?;
                let downloader = ModelDownloader::new(hub).map_err(failed)?;
                let snapshot =
                    downloader.ensure(&repo, &revision, &Wanted::Needed, listener, cancel).map_err(failed)?;
                Ok(Some(snapshot.path))
            }
            (here, ..) => here.map(directory),
        }
    }

    /// The model of a name: at once if it is loaded, else it is fetched, if that is allowed, and loaded. Threads that ask for one
    /// model get one, from one load. Where there is no room, models that nobody uses are let go, the one first that was asked
    /// for longest ago.
    ///
    /// # Errors
    /// Those of [`InferenceEngine::load_with`] and [`ModelManager::ensure`], and if there is no room beside models in use.
    pub fn load(&self, model: &str) -> Result<InferenceEngine> {
        let key = key(model)?;
        let outcome = {
            let mut slots = self.lock();
            match slots.get_mut(&key) {
                Some(Slot::Ready { engine, used, .. }) => {
                    *used = Instant::now();
                    return Ok(engine.clone());
                }
                Some(Slot::Loading { outcome, .. }) => {
                    let outcome = outcome.clone();
                    return self.wait(slots, &outcome);
                }
                None => {
                    let outcome = Arc::<Outcome>::default();
                    slots.insert(key.clone(), Slot::Loading { outcome: outcome.clone(), memory: None });
                    outcome
                }
            }
        };
        // Ends the load whatever happens, also where it panics.
        let mut loading = Loading { manager: self, key: &key, outcome: &outcome, result: None };
        let result = self.load_now(model, &key);
        loading.result = Some(result.as_ref().map(|(engine, _)| engine.clone()).map_err(Failure::from));
        if let Ok((engine, memory)) = &result {
            let ready =
                Slot::Ready { name: model.to_owned(), engine: engine.clone(), memory: *memory, used: Instant::now() };
            self.lock().insert(key.clone(), ready);
        }
        drop(loading);
        result.map(|(engine, _)| engine)
    }

    fn wait(&self, mut slots: MutexGuard<'_, HashMap<String, Slot>>, outcome: &Outcome) -> Result<InferenceEngine> {
        loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone().map_err(Into::into);
            }
            slots = self.ended.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn load_now(&self, model: &str, key: &str) -> Result<(InferenceEngine, MemoryPlan)> {
        self.ensure(model, &|_| {}, &Cancel::default())?;
        let checkpoint = Checkpoint::open(ModelSource::parse(model)?.resolve(&self.options.paths)?)?;
        let adapters = self.options.adapters.iter().map(|(_, directory)| directory.as_path());
        let cost = ModelCost::of_checkpoint(&checkpoint, self.options.precision)?.with_adapters(adapters);
        let usual = cost.context().map_or(USUAL_CONTEXT, |own| own.min(USUAL_CONTEXT));
        let plan = cost.plan(self.options.context.unwrap_or(usual), 1, &self.options.generate.cache);
        let memory = self.make_room(model, key, plan)?;
        let options = LoadOptions { memory: Some(memory), ..self.options.clone() };
        Ok((InferenceEngine::load_with(model, &options, |_| {})?, plan))
    }

    /// Lets models go until there is room for a plan, keeps the room, and says how much memory a load may use.
    fn make_room(&self, model: &str, key: &str, plan: MemoryPlan) -> Result<u64> {
        let mut slots = self.lock();
        loop {
            let held: Vec<&MemoryPlan> = slots.values().filter_map(Slot::memory).collect();
            let bytes: u64 = held.iter().map(|plan| plan.total()).sum();
            let free = self.free(&slots);
            let full = self.limits.models.is_some_and(|most| held.len() >= most);
            let heavy = self.limits.bytes.is_some_and(|most| bytes.saturating_add(plan.total()) > most);
            let short = plan.total() > free && !self.options.overcommit;
            if !(full || heavy || short) {
                if let Some(Slot::Loading { memory, .. }) = slots.get_mut(key) {
                    *memory = Some(plan);
                }
                return Ok(free);
            }
            if self.drop_oldest(&mut slots).is_none() {
                // The load says itself by which numbers it does not fit, and what would.
                if short && !full && !heavy && held_none(&slots, key) {
                    return Ok(free);
                }
                return Err(self.refuse(model, &plan, &slots));
            }
        }
    }

    /// Memory that models beside the held ones may use. Their weights are mapped files, whose pages the system counts as
    /// available, so they are taken off; so are the plans of loads under way.
    fn free(&self, slots: &HashMap<String, Slot>) -> u64 {
        let plans = slots.values().filter_map(Slot::memory);
        match self.options.memory {
            Some(most) => most.saturating_sub(plans.map(MemoryPlan::total).sum()),
            None => memory().available.saturating_sub(plans.map(|plan| plan.weights).sum()),
        }
    }

    fn refuse(&self, model: &str, plan: &MemoryPlan, slots: &HashMap<String, Slot>) -> EngineError {
        let mut names: Vec<&str> = slots
            .values()
            .filter_map(|slot| match slot {
                Slot::Ready { name, .. } => Some(name.as_str()),
                Slot::Loading { .. } => None,
            })
            .collect();
        names.sort_unstable();
        let limit = match (self.limits.models, self.limits.bytes) {
            (Some(most), _) if slots.len() > most => format!("at most {most} models are held"),
            (_, Some(most)) => format!("models may take {} together", human(most)),
            _ => format!("{} of memory are free beside those that are held", human(self.free(slots))),
        };
        let held = if names.is_empty() { String::new() } else { format!("; in use are {}", names.join(", ")) };
        let message = format!("there is no room for {model}, which needs {}: {limit}{held}", human(plan.total()));
        EngineError::new(ErrorKind::OutOfMemory, message)
            .with_remedy("wait until an answer has ended, unload a model, or raise the limit")
    }

    /// Lets the model go that was asked for longest ago and that nobody uses, and says which.
    fn drop_oldest(&self, slots: &mut HashMap<String, Slot>) -> Option<String> {
        let idle = slots.iter().filter_map(|(key, slot)| match slot {
            Slot::Ready { engine, used, .. } if !engine.is_busy() => Some((*used, key.clone())),
            _ => None,
        });
        let (_, key) = idle.min()?;
        match slots.remove(&key) {
            Some(Slot::Ready { name, engine, .. }) => {
                engine.unload();
                Some(name)
            }
            _ => None,
        }
    }

    /// Lets go of models that nobody uses, the one first that was asked for longest ago, until a twentieth of all memory is
    /// free beside the rest; says which. For whoever runs for long, to call now and then.
    pub fn relieve(&self) -> Vec<String> {
        let mut slots = self.lock();
        let spare = self.options.memory.unwrap_or_else(|| memory().total) / SPARE;
        let mut gone = Vec::new();
        while self.free(&slots) < spare {
            match self.drop_oldest(&mut slots) {
                Some(name) => gone.push(name),
                None => break,
            }
        }
        gone
    }

    /// Lets a model go; answers that are under way finish. `false` if it is not loaded.
    ///
    /// # Errors
    /// If this is no name of a model.
    pub fn unload(&self, model: &str) -> Result<bool> {
        let key = key(model)?;
        let mut slots = self.lock();
        let ready = matches!(slots.get(&key), Some(Slot::Ready { .. }));
        if ready && let Some(Slot::Ready { engine, .. }) = slots.remove(&key) {
            engine.unload();
        }
        Ok(ready)
    }

    /// What is loaded, the one first that was asked for last.
    pub fn loaded(&self) -> Vec<Held> {
        let slots = self.lock();
        let ready = slots.values().filter_map(|slot| match slot {
            Slot::Ready { name, engine, memory, used } => {
                Some(Held { name: name.clone(), memory: *memory, busy: engine.is_busy(), idle: used.elapsed() })
            }
            Slot::Loading { .. } => None,
        });
        let mut all: Vec<Held> = ready.collect();
        all.sort_by_key(|held| held.idle);
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A load under way; its end is told to all who wait.
struct Loading<'a> {
    manager: &'a ModelManager,
    key: &'a str,
    outcome: &'a Outcome,
    result: Option<std::result::Result<InferenceEngine, Failure>>,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut slots = self.manager.lock();
        let broken = || {
            let message = "the load of this model was broken off".to_owned();
            Err(Failure { kind: ErrorKind::Io, message, remedy: Some("load it again".to_owned()) })
        };
        let _ = self.outcome.set(self.result.take().unwrap_or_else(broken));
        if matches!(slots.get(self.key), Some(Slot::Loading { .. })) {
            slots.remove(self.key);
        }
        drop(slots);
        self.manager.ended.notify_all();
    }
}

/// Whether nothing is held but the load of `key`.
fn held_none(slots: &HashMap<String, Slot>, key: &str) -> bool {
    slots.keys().all(|other| other == key)
}

/// One text for all names of a model.
fn key(model: &str) -> Result<String> {
    let source = ModelSource::parse(model)?;
    Ok(match (source.on_hub(), source) {
        (Some((id, revision)), _) => format!("{id}@{revision}"),
        (None, ModelSource::Directory(path)) => {
            let path: &Path = &path;
            path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
        }
        (None, _) => "demo".to_owned(),
    })
}

fn failed(error: HubError) -> EngineError {
    let kind = match &error {
        HubError::Cancelled => ErrorKind::Cancelled,
        HubError::NotFound { .. } | HubError::NotCached { .. } => ErrorKind::NotFound,
        HubError::Corrupt { .. } => ErrorKind::InvalidCheckpoint,
        _ => ErrorKind::Io,
    };
    let failed = EngineError::new(kind, error.message());
    match error.remedy() {
        Some(remedy) => failed.with_remedy(remedy),
        None => failed,
    }
}
