//! What the user typed, resolved with the environment. Nothing else reads the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mlxengine::hub::{ENDPOINT, HubConfig, Token, read_token};
use mlxengine::{
    CacheOptions, EngineError, ErrorKind, GenerateOptions, GenerateParams, KvQuantization, LoadOptions, ModelPaths,
    ModelRegistry, ModelSource, Precision, RenderOptions, device,
};
use serde_json::Value;

use crate::arguments::{Defaults, Exactness, GenerationArguments, LoadArguments, SamplingArguments, Think, typed_path};
use crate::device_arguments::DeviceArguments;
use crate::failure::{Result, invalid};

/// A variable of the environment.
struct Variable {
    name: &'static str,
    meaning: &'static str,
}

const ISA: Variable = Variable { name: "MLXENGINE_ISA", meaning: "instruction set of the kernels, as --isa" };
const THREADS: Variable = Variable { name: "MLXENGINE_THREADS", meaning: "threads that compute, as --threads" };
const MODELS: Variable = Variable {
    name: "MLXENGINE_MODELS",
    meaning: "directories with models as org/name, separated as in PATH; mlx://org/name is looked for there",
};
const REGISTRY: Variable =
    Variable { name: "MLXENGINE_REGISTRY", meaning: "a file of models of your own with short names, as --registry" };
const CHAT_URL: Variable = Variable { name: "LLM_CHAT_API_URL", meaning: "the model of `chat`, as mlx://org/name" };
const HF_HUB_CACHE: Variable =
    Variable { name: "HF_HUB_CACHE", meaning: "the Hub's cache, shared with other programs" };
const HF_HOME: Variable = Variable { name: "HF_HOME", meaning: "the folder of that cache, as `hub` in it" };
const XDG_CACHE_HOME: Variable = Variable {
    name: "XDG_CACHE_HOME",
    meaning: "the folder of that cache, as `huggingface/hub` in it, and of our own [~/.cache]",
};
const HF_ENDPOINT: Variable =
    Variable { name: "HF_ENDPOINT", meaning: "the address of the Hub [https://huggingface.co]" };
const HF_TOKEN: Variable = Variable { name: "HF_TOKEN", meaning: "who asks the Hub; wins over `login`" };
const HF_TOKEN_PATH: Variable =
    Variable { name: "HF_TOKEN_PATH", meaning: "the file in which `login` keeps the token [`token` in HF_HOME]" };
const HF_HUB_OFFLINE: Variable =
    Variable { name: "HF_HUB_OFFLINE", meaning: "if 1, on, yes or true: the network is not used" };
const NO_COLOR: Variable = Variable { name: "NO_COLOR", meaning: "if set and not empty: no colours" };
const TERM: Variable = Variable { name: "TERM", meaning: "if `dumb`: no colours and no bars" };

/// Every variable that is read, in the order of the help.
const VARIABLES: [&Variable; 14] = [
    &ISA,
    &THREADS,
    &MODELS,
    &REGISTRY,
    &CHAT_URL,
    &HF_HUB_CACHE,
    &HF_HOME,
    &XDG_CACHE_HOME,
    &HF_ENDPOINT,
    &HF_TOKEN,
    &HF_TOKEN_PATH,
    &HF_HUB_OFFLINE,
    &NO_COLOR,
    &TERM,
];

impl Variable {
    /// Its value; an empty one counts as none, as programs of the shell expect.
    fn read(&self) -> Option<OsString> {
        std::env::var_os(self.name).filter(|value| !value.is_empty())
    }

    fn text(&self) -> Result<Option<String>> {
        let text = |value: OsString| {
            value.into_string().map_err(|_| invalid(format!("the variable {} is not UTF-8", self.name)))
        };
        Ok(self.read().map(text).transpose()?)
    }

    fn refuse(&self, value: &str, expected: &str) -> EngineError {
        EngineError::new(
            ErrorKind::InvalidParameter,
            format!("the variable {} is `{value}`, and must be {expected}", self.name),
        )
        .with_remedy("change or unset it")
    }
}

/// The part of the help about the environment.
pub fn variables_help() -> String {
    let line = |v: &&Variable| format!("  {:<18} {}", v.name, v.meaning);
    format!("Environment:\n{}", VARIABLES.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// What may be sent to a terminal beside text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Colours and weights of letters.
    pub colours: bool,
    /// Bars that are drawn over themselves.
    pub bars: bool,
}

/// What the terminal can do and the user allows.
pub fn abilities() -> Abilities {
    let bars = TERM.read().is_none_or(|term| term != "dumb");
    Abilities { colours: bars && NO_COLOR.read().is_none(), bars }
}

/// Whether a line can be changed on this terminal while it is typed. If not, the terminal itself shows what is typed.
pub fn edits_lines() -> bool {
    // Those that the editor leaves alone.
    TERM.read().is_none_or(|term| !["dumb", "cons25", "emacs"].iter().any(|plain| term.eq_ignore_ascii_case(plain)))
}

/// What does not depend on the command.
pub struct Settings {
    isa: Option<String>,
    threads: Option<usize>,
    paths: ModelPaths,
    /// Where models are put that this program writes.
    new_models: Option<PathBuf>,
    chat_url: Option<String>,
    home: Option<PathBuf>,
    hub: HubConfig,
    token_file: Option<PathBuf>,
    /// Where the measured speeds of this machine are kept.
    calibration: Option<PathBuf>,
}

impl Settings {
    /// Resolves the device's arguments with the environment; arguments win.
    pub fn read(arguments: &DeviceArguments) -> Result<Self> {
        let home = std::env::home_dir();
        let own = cache(home.as_deref()).map(|cache| cache.join("mlxengine"));
        let mut directories: Vec<PathBuf> = MODELS.read().iter().flat_map(std::env::split_paths).collect();
        let own_models = own.as_ref().map(|own| own.join("models"));
        let new_models = directories.first().or(own_models.as_ref()).cloned();
        directories.extend(own_models.filter(|models| models.is_dir()));
        let calibration = own.as_ref().map(|own| own.join("calibration.json"));
        let hub_home = hub_home(home.as_deref());
        let token_file = HF_TOKEN_PATH.read().map(PathBuf::from).or_else(|| Some(hub_home.as_ref()?.join("token")));
        let hub_cache = HF_HUB_CACHE.read().map(PathBuf::from).or_else(|| Some(hub_home.as_ref()?.join("hub")));
        Ok(Self {
            isa: isa(arguments)?,
            threads: threads(arguments)?,
            paths: ModelPaths {
                hub_caches: hub_cache.iter().cloned().collect(),
                directories,
                imports: own.map(|own| own.join("gguf")),
            },
            new_models,
            chat_url: CHAT_URL.text()?,
            home,
            hub: HubConfig {
                endpoint: HF_ENDPOINT.text()?.unwrap_or_else(|| ENDPOINT.to_owned()),
                token: token(token_file.as_deref())?,
                offline: HF_HUB_OFFLINE.text()?.is_some_and(|value| is_true(&value)),
                ..HubConfig::new(hub_cache.unwrap_or_default())
            },
            token_file,
            calibration,
        })
    }

    /// Where the Hub is, who asks, and where models are kept.
    pub fn hub(&self) -> Result<HubConfig> {
        if self.hub.cache.as_os_str().is_empty() {
            let remedy = format!("set {}", HF_HUB_CACHE.name);
            return Err(invalid("there is no home folder to keep models in").with_remedy(remedy).into());
        }
        Ok(self.hub.clone())
    }

    /// The file in which `login` keeps the token.
    pub fn token_file(&self) -> Result<&Path> {
        let none = || invalid("there is no home folder to keep a token in");
        Ok(self.token_file.as_deref().ok_or_else(|| none().with_remedy(format!("set {}", HF_TOKEN_PATH.name)))?)
    }

    /// Where the measured speeds of this machine are kept.
    pub fn calibration(&self) -> Option<&Path> {
        self.calibration.as_deref()
    }

    /// Whether the token is that of the environment, over which `login` has no power.
    pub fn has_token_of_environment(&self) -> bool {
        HF_TOKEN.read().is_some()
    }

    /// Chooses the instruction set and the threads for the process.
    pub fn configure_device(&self) -> Result<()> {
        Ok(device::configure(self.isa.as_deref(), self.threads)?)
    }

    /// The model that `chat` uses: the one named, the environment's, or the demo.
    pub fn chat_model(&self, named: Option<&str>) -> Result<String> {
        match (named, &self.chat_url) {
            (Some(model), _) => Ok(model.to_owned()),
            (None, Some(url)) if url.starts_with("mlx://") => Ok(url.clone()),
            (None, Some(url)) => Err(CHAT_URL.refuse(url, "the address of a model here, as in mlx://org/name").into()),
            (None, None) => Ok("demo".to_owned()),
        }
    }

    /// Where a new model of this name goes, and how it is called from then on.
    pub fn new_model(&self, name: &str) -> Result<NewModel> {
        if name.starts_with(['.', '/', '~']) {
            let directory = typed_path(name, self.home());
            return Ok(NewModel { address: directory.display().to_string(), directory });
        }
        let name = if name.contains('/') { name.to_owned() } else { format!("local/{name}") };
        let address = format!("mlx://{name}");
        ModelSource::parse(&address)?;
        let Some(models) = &self.new_models else {
            return Err(invalid("no directory for models is known").with_remedy("set MLXENGINE_MODELS to one").into());
        };
        Ok(NewModel { directory: models.join(name), address })
    }

    /// The user's own folder.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Where models are looked for by name.
    pub fn paths(&self) -> &ModelPaths {
        &self.paths
    }

    /// How a model is loaded.
    pub fn load_options(&self, arguments: &LoadArguments) -> LoadOptions {
        LoadOptions {
            paths: self.paths.clone(),
            context: arguments.context,
            generate: GenerateOptions {
                cache: CacheOptions { max_tokens: arguments.max_kv_size, quantize: quantization(arguments) },
                prefill_chunk: arguments.prefill_step_size.unwrap_or(GenerateOptions::default().prefill_chunk),
                ..GenerateOptions::default()
            },
            precision: match arguments.precision {
                Exactness::Exact => Precision::Exact,
                Exactness::Fast => Precision::Fast,
            },
            memory: None,
            overcommit: arguments.overcommit,
            cache_memory: arguments.cache_memory,
            adapters: arguments.adapters.clone(),
        }
    }
}

/// Lets models be called by the short names of the user's file as well.
pub fn add_models(file: Option<&Path>) -> Result<()> {
    if let Some(file) = file.map(Path::to_owned).or_else(|| path(&REGISTRY)) {
        let mut registry = ModelRegistry::builtin();
        registry.load(file)?;
        registry.make_current();
    }
    Ok(())
}

fn isa(arguments: &DeviceArguments) -> Result<Option<String>> {
    if arguments.isa.is_some() {
        return Ok(arguments.isa.clone());
    }
    let Some(name) = ISA.text()? else { return Ok(None) };
    let all = device::instruction_sets();
    if all.contains(&name.as_str()) {
        return Ok(Some(name));
    }
    Err(ISA.refuse(&name, &format!("one of {}", all.join(", "))).into())
}

fn threads(arguments: &DeviceArguments) -> Result<Option<usize>> {
    if arguments.threads.is_some() {
        return Ok(arguments.threads);
    }
    let Some(text) = THREADS.text()? else { return Ok(None) };
    match text.trim().parse() {
        Ok(threads) if (1..=device::MAX_THREADS).contains(&threads) => Ok(Some(threads)),
        _ => Err(THREADS.refuse(&text, &format!("a number from 1 to {}", device::MAX_THREADS)).into()),
    }
}

/// A model that is about to be written.
pub struct NewModel {
    /// Where.
    pub directory: PathBuf,
    /// How commands call it.
    pub address: String,
}

fn path(variable: &Variable) -> Option<PathBuf> {
    variable.read().map(PathBuf::from)
}

/// Where programs of the user keep what can be made again.
fn cache(home: Option<&Path>) -> Option<PathBuf> {
    path(&XDG_CACHE_HOME).or_else(|| Some(home?.join(".cache")))
}

/// The folder of the Hub's own tools.
fn hub_home(home: Option<&Path>) -> Option<PathBuf> {
    path(&HF_HOME).or_else(|| Some(cache(home)?.join("huggingface")))
}

/// The environment's token wins over the one that is kept, as in Python.
fn token(file: Option<&Path>) -> Result<Option<Token>> {
    let Some(text) = HF_TOKEN.text()? else { return Ok(file.and_then(read_token)) };
    let token = Token::new(&text);
    match token {
        None if !text.trim().is_empty() => {
            // Its value is a secret, so the message does not show it.
            let error = invalid(format!("the variable {} is no token", HF_TOKEN.name));
            Err(error.with_remedy("change or unset it").into())
        }
        None => Ok(file.and_then(read_token)),
        some => Ok(some),
    }
}

/// What counts as true in the Hub's variables.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

fn quantization(arguments: &LoadArguments) -> Option<KvQuantization> {
    let number = |text: &str| text.parse().expect("the parser accepts numbers alone");
    let group = arguments.kv_group_size.as_deref().map_or(64, number);
    // Both defaults are mlx-lm's.
    let start = arguments.quantized_kv_start.unwrap_or(5000);
    let bits = arguments.kv_bits.as_deref().map(number)?;
    Some(KvQuantization { bits: u32::try_from(bits).unwrap_or(u32::MAX), group, start: Some(start).filter(|n| *n > 0) })
}

/// The sampling parameters: `advised` are the model's.
pub fn params(arguments: &SamplingArguments, advised: &GenerateParams, unless_said: Defaults) -> GenerateParams {
    let mut params = match arguments.defaults.unwrap_or(unless_said) {
        Defaults::Model => advised.clone(),
        Defaults::Greedy => GenerateParams::default(),
    };
    macro_rules! take {
        ($($field:ident from $flag:ident),*) => { $(if let Some(value) = arguments.$flag { params.$field = value; })* };
    }
    take!(
        temperature from temp, top_p from top_p, top_k from top_k, min_p from min_p,
        min_tokens_to_keep from min_tokens_to_keep,
        xtc_probability from xtc_probability, xtc_threshold from xtc_threshold,
        repetition_penalty from repetition_penalty, repetition_context_size from repetition_context_size,
        presence_penalty from presence_penalty, presence_context_size from presence_context_size,
        frequency_penalty from frequency_penalty, frequency_context_size from frequency_context_size
    );
    params.max_tokens = arguments.max_tokens.or(params.max_tokens);
    params.seed = arguments.seed.or(params.seed);
    params.logit_bias.extend(arguments.logit_bias.iter().copied());
    params.stop.extend(arguments.stop.iter().cloned());
    params.ignore_eos |= arguments.ignore_eos;
    params
}

/// Flags that were given and mean nothing, because the likeliest token is always taken.
pub fn flags_without_effect(arguments: &SamplingArguments, params: &GenerateParams) -> Vec<&'static str> {
    let flags = [
        ("--top-p", arguments.top_p.is_some()),
        ("--top-k", arguments.top_k.is_some()),
        ("--min-p", arguments.min_p.is_some()),
        ("--min-tokens-to-keep", arguments.min_tokens_to_keep.is_some()),
        ("--xtc-probability", arguments.xtc_probability.is_some()),
    ];
    let given = flags.into_iter().filter(|(_, given)| *given && params.temperature == 0.0);
    given.map(|(flag, _)| flag).collect()
}

/// What the chat template is told.
pub fn render_options(arguments: &GenerationArguments) -> RenderOptions {
    let mut extra = arguments.chat_template_config.clone().unwrap_or_default();
    extra.extend(arguments.think.into_iter().flat_map(thinking));
    // Some templates tell the model, too.
    extra.extend(arguments.thinking_budget.map(|budget| ("thinking_budget".to_owned(), budget.into())));
    extra.extend(arguments.chat_template_arg.iter().cloned());
    let tools = arguments.structure.tools.clone().map(list);
    RenderOptions { add_generation_prompt: true, extra, tools, ..RenderOptions::default() }
}

/// A list as it is, anything else as the only element of one.
pub fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        other => vec![other],
    }
}

/// The variables by which templates are told how to think; each knows some of them.
pub fn thinking(how: Think) -> Vec<(String, Value)> {
    let on = how != Think::Off;
    let mut variables: Vec<(&str, Value)> = vec![("enable_thinking", on.into()), ("thinking", on.into())];
    match how {
        Think::On | Think::Off => {}
        Think::Low => variables.push(("reasoning_effort", "low".into())),
        Think::Medium => variables.push(("reasoning_effort", "medium".into())),
        Think::High => variables.push(("reasoning_effort", "high".into())),
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_defaults() {
        let advised = GenerateParams::default().with_temperature(0.6).with_top_k(20);
        let flags = SamplingArguments { temp: Some(0.1), stop: vec!["x".into()], ..SamplingArguments::default() };
        let model = params(&flags, &advised, Defaults::Model);
        assert_eq!((model.temperature, model.top_k, model.stop.len()), (0.1, 20, 1));
        assert_eq!(params(&flags, &advised, Defaults::Greedy).top_k, 0);
        let said = SamplingArguments { defaults: Some(Defaults::Greedy), ..flags };
        assert_eq!(params(&said, &advised, Defaults::Model).top_k, 0);
    }

    #[test]
    fn flags_that_mean_nothing_are_named() {
        let flags = SamplingArguments { top_p: Some(0.5), ..SamplingArguments::default() };
        assert_eq!(flags_without_effect(&flags, &GenerateParams::default()), ["--top-p"]);
        assert!(flags_without_effect(&flags, &GenerateParams::default().with_temperature(1.0)).is_empty());
    }

    #[test]
    fn the_help_names_every_variable() {
        let help = variables_help();
        assert!(VARIABLES.iter().all(|v| help.contains(v.name)));
    }

    #[test]
    fn a_quantized_cache_starts_as_in_mlx_lm() {
        let arguments = LoadArguments { kv_bits: Some("4".into()), ..LoadArguments::default() };
        assert_eq!(quantization(&arguments), Some(KvQuantization { bits: 4, group: 64, start: Some(5000) }));
        assert_eq!(quantization(&LoadArguments::default()), None);
    }
}
