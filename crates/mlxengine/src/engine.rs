//! The engine: a loaded model behind one interface.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use mlxengine_engine::{
    AnswerParser, CancelToken, EngineError, ErrorKind, FinishReason, GenerateOptions, GenerateParams, Generation,
    LoadedModel, LogitsProcessor, Message, Piece, RenderOptions, Result, Sequence, Stats, Step, ToolCall, Tools,
    answer,
};
use mlxengine_models::{Checkpoint, KvQuantization, Precision};
use serde::{Deserialize, Serialize};

use crate::configuration::{MemoryPlan, ModelConfiguration};
use crate::cost::ModelCost;
use crate::features::{Feature, Features};
use crate::source::{ModelPaths, ModelSource};

/// What a model is asked to continue.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// A conversation, written down by the model's chat template.
    Chat {
        /// The turns.
        messages: Vec<Message>,
        /// What the template is told beside them.
        options: RenderOptions,
    },
    /// Plain text to continue, with the tokenizer's own special tokens.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// One turn of a person.
    pub fn chat(text: impl Into<String>) -> Self {
        Self::messages(vec![Message::user(text.into())])
    }

    /// A conversation that the model answers.
    pub fn messages(messages: Vec<Message>) -> Self {
        Prompt::Chat { messages, options: RenderOptions { add_generation_prompt: true, ..RenderOptions::default() } }
    }

    /// Plain text to continue.
    pub fn text(text: impl Into<String>) -> Self {
        Prompt::Text(text.into())
    }

    /// Its tokens.
    pub(crate) fn encode(self, model: &LoadedModel) -> Result<Vec<u32>> {
        match self {
            Prompt::Chat { messages, options } => model.encode_chat(&messages, &options),
            Prompt::Text(text) => model.tokenizer.encode(&text, true),
            Prompt::Tokens(tokens) => Ok(tokens),
        }
    }
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Layers that are ready.
    pub done: usize,
    /// All layers.
    pub total: usize,
}

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Where models are looked for by name.
    pub paths: ModelPaths,
    /// Longest sequence, in tokens; the model's own limit if that is less. A context that is asked for must fit in memory.
    pub context: Option<usize>,
    /// How caches are kept, and how prompts are read.
    pub generate: GenerateOptions,
    /// How exactly products are computed.
    pub precision: Precision,
    /// Memory that may be used, in bytes; what the machine has available if not given.
    pub memory: Option<u64>,
    /// Whether a model is loaded that does not fit. What does not stay in memory of its weights is read from the disk again for
    /// each token.
    pub overcommit: bool,
    /// Most bytes that the caches of a sequence may take: the context is as long as fits.
    pub cache_memory: Option<u64>,
    /// Adapters by name, in MLX's layout or PEFT's; [`GenerateParams::adapter`] chooses one.
    pub adapters: Vec<(String, PathBuf)>,
}

/// An answer as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// The text, without thoughts and calls.
    pub text: String,
    /// What the model thought before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The tools that it wants called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish: FinishReason,
    /// What was computed, and how fast.
    pub stats: Stats,
    /// The tokens with their log-probabilities.
    pub tokens: Vec<(u32, f32)>,
}

impl Generated {
    pub(crate) fn new(pieces: Vec<Piece>, finish: FinishReason, stats: Stats, tokens: Vec<(u32, f32)>) -> Self {
        let message = answer::message(pieces);
        let text = message.content.text();
        Self { text, reasoning: message.reasoning, tool_calls: message.tool_calls, finish, stats, tokens }
    }
}

/// One interface for every kind of model and every backend.
pub trait LlmEngine: Send + Sync {
    /// What the model is.
    fn configuration(&self) -> &ModelConfiguration;

    /// What it can do here.
    fn features(&self) -> &Features;

    /// Starts an answer; nothing is computed before its first step is asked for.
    ///
    /// # Errors
    /// If the prompt or a parameter does not fit, or the model was unloaded.
    fn stream(&self, prompt: Prompt, params: &GenerateParams) -> Result<TokenStream>;

    /// Generates a whole answer.
    ///
    /// # Errors
    /// Those of [`LlmEngine::stream`] and of its steps.
    fn generate(&self, prompt: Prompt, params: &GenerateParams) -> Result<Generated> {
        self.stream(prompt, params)?.finish()
    }

    /// Whether the weights are held.
    fn is_loaded(&self) -> bool;

    /// Lets go of the weights. Answers that are under way finish.
    fn unload(&self);
}

/// A loaded language model. Clones share it, and any number of threads may use them.
#[derive(Clone)]
pub struct InferenceEngine {
    inner: Arc<Inner>,
    pub(crate) options: GenerateOptions,
}

struct Inner {
    configuration: ModelConfiguration,
    features: Features,
    cost: ModelCost,
    model: RwLock<Option<Arc<LoadedModel>>>,
}

impl std::fmt::Debug for InferenceEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InferenceEngine")
            .field("name", &self.inner.configuration.name)
            .field("loaded", &self.is_loaded())
            .finish()
    }
}

impl InferenceEngine {
    /// Loads a model: `demo`, a directory, or `mlx://org/name`.
    ///
    /// ```
    /// # use mlxengine::{InferenceEngine, LlmEngine};
    /// let engine = InferenceEngine::load("demo")?;
    /// assert_eq!(engine.configuration().family, "qwen3");
    /// assert!(InferenceEngine::load("no/such/directory").is_err());
    /// # Ok::<(), mlxengine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such model, its files are damaged, or it is of a kind that is not supported.
    pub fn load(model: &str) -> Result<Self> {
        Self::load_with(model, &LoadOptions::default(), |_| {})
    }

    /// Loads a model with options; `progress` hears of each layer.
    ///
    /// # Errors
    /// Those of [`InferenceEngine::load`], and if the context that is asked for does not fit in memory.
    pub fn load_with(model: &str, options: &LoadOptions, mut progress: impl FnMut(LoadProgress)) -> Result<Self> {
        let source = ModelSource::parse(model)?.resolve(&options.paths)?;
        let checkpoint = Checkpoint::open(source)?;
        let adapters = options.adapters.iter().map(|(_, directory)| directory.as_path());
        let cost = ModelCost::of_checkpoint(&checkpoint, options.precision)?.with_adapters(adapters);
        // Before anything is loaded.
        let context = cost.fit(options)?;
        let mut loaded =
            LoadedModel::load(&checkpoint, options.precision, |done, total| progress(LoadProgress { done, total }))?;
        for (name, directory) in &options.adapters {
            loaded.load_adapter(name, directory)?;
        }
        // Refuses cache options that this model cannot have, now and not at the first answer.
        Sequence::new(&*loaded.network, &options.generate.cache)?;
        if let Some(draft) = &options.generate.draft {
            draft.check(&loaded)?;
        }
        let configuration = ModelConfiguration::new(model, &checkpoint, &loaded, &cost)?;
        let features = features(&loaded);
        let options = GenerateOptions { context, ..options.generate.clone() };
        let model = RwLock::new(Some(Arc::new(loaded)));
        Ok(Self { inner: Arc::new(Inner { configuration, features, cost, model }), options })
    }

    /// The model itself: its tokenizer, its template, its network.
    ///
    /// # Errors
    /// If it was unloaded.
    pub fn model(&self) -> Result<Arc<LoadedModel>> {
        let model = self.inner.model.read().unwrap_or_else(|e| e.into_inner());
        model.clone().ok_or_else(|| {
            let message = format!("the model {} was unloaded", self.inner.configuration.name);
            EngineError::new(ErrorKind::NotFound, message).with_remedy("load it again")
        })
    }

    /// Memory that a sequence of `context` tokens needs, with this engine's caches.
    pub fn memory_plan(&self, context: usize) -> MemoryPlan {
        self.cost().plan(context, 1, &self.options.cache)
    }

    /// Whether an answer is under way, or somebody holds the model itself.
    pub fn is_busy(&self) -> bool {
        let model = self.inner.model.read().unwrap_or_else(|e| e.into_inner());
        model.as_ref().is_some_and(|model| Arc::strong_count(model) > 1)
    }

    /// What this model takes of a machine.
    pub fn cost(&self) -> &ModelCost {
        &self.inner.cost
    }

    /// Longest sequence, prompt and answer together, if there is a limit.
    pub fn context(&self) -> Option<usize> {
        self.options.context.into_iter().chain(self.inner.configuration.context_length).min()
    }

    /// Names of the adapters that answers may be computed under.
    ///
    /// # Errors
    /// If the model was unloaded.
    pub fn adapters(&self) -> Result<Vec<String>> {
        Ok(self.model()?.adapters.iter().map(|adapter| adapter.name.clone()).collect())
    }

    /// What a prompt cache in a file has read, ours or mlx-lm's, to be continued under the adapter that it was read under.
    ///
    /// # Errors
    /// If the file is damaged, or was written for another model or adapter, as far as it says so or its sizes show it.
    pub fn load_sequence(&self, file: &Path, adapter: Option<&str>) -> Result<Sequence> {
        Sequence::load(&*self.model()?, adapter, file, &self.options.cache)
    }

    /// Writes what a sequence has read to a prompt cache, which mlx-lm reads too.
    ///
    /// # Errors
    /// If it has read nothing, or the file cannot be written.
    pub fn save_sequence(&self, sequence: &Sequence, file: &Path) -> Result<()> {
        sequence.save(&*self.model()?, file)
    }

    /// Reads a prompt and gives no answer; `progress` hears of tokens read as `(done, all)` and stops the reading by `false`.
    ///
    /// # Errors
    /// If the prompt does not fit, or the reading was stopped.
    pub fn read(
        &self,
        prompt: Prompt,
        adapter: Option<&str>,
        mut progress: impl FnMut(usize, usize) -> bool,
    ) -> Result<Sequence> {
        let model = self.model()?;
        let tokens = prompt.encode(&model)?;
        let mut sequence = Sequence::under(&model, adapter, &self.options.cache)?;
        let network = model.under(adapter)?;
        if let Some(most) = self.context().filter(|most| tokens.len() > *most) {
            let message = format!("the prompt has {} tokens, and at most {most} fit", tokens.len());
            return Err(EngineError::new(ErrorKind::ContextExceeded, message).with_remedy("shorten it"));
        }
        // The last token alone, as answers begin.
        let (before, last) = tokens.split_at(tokens.len().saturating_sub(1));
        for piece in before.chunks(self.options.prefill_chunk.max(1)).chain([last]).filter(|p| !p.is_empty()) {
            if !progress(sequence.tokens().len(), tokens.len()) {
                return Err(EngineError::new(ErrorKind::Cancelled, "the reading of the prompt was stopped"));
            }
            sequence.skip(network, piece);
        }
        sequence.mark();
        Ok(sequence)
    }

    /// Starts an answer that continues what `sequence` has read, as far as the prompt agrees with it.
    ///
    /// # Errors
    /// Those of [`LlmEngine::stream`].
    pub fn continue_from(
        &self,
        sequence: Option<Sequence>,
        prompt: Prompt,
        params: &GenerateParams,
    ) -> Result<TokenStream> {
        let model = self.model()?;
        let (tokens, parser) = match prompt {
            Prompt::Chat { messages, options } => {
                let text = model.render(&messages, &options)?;
                let tools = options.tools.map(Tools::from);
                let inside = model.answer_format.begins_reasoning(&text);
                let called = messages.iter().map(|message| message.tool_calls.len()).sum();
                let parser = AnswerParser::new(&model.answer_format, tools, inside).after_calls(called);
                (model.tokenizer.encode(&text, false)?, parser)
            }
            Prompt::Text(text) => (model.tokenizer.encode(&text, true)?, AnswerParser::plain()),
            Prompt::Tokens(tokens) => (tokens, AnswerParser::plain()),
        };
        let generation = Generation::new(model, sequence, tokens, params, &self.options)?;
        Ok(TokenStream { generation, parser, pieces: Vec::new(), ended: false })
    }
}

impl LlmEngine for InferenceEngine {
    fn configuration(&self) -> &ModelConfiguration {
        &self.inner.configuration
    }

    fn features(&self) -> &Features {
        &self.inner.features
    }

    fn stream(&self, prompt: Prompt, params: &GenerateParams) -> Result<TokenStream> {
        self.continue_from(None, prompt, params)
    }

    fn is_loaded(&self) -> bool {
        self.inner.model.read().unwrap_or_else(|e| e.into_inner()).is_some()
    }

    fn unload(&self) {
        self.inner.model.write().unwrap_or_else(|e| e.into_inner()).take();
    }
}

/// An answer as it comes: an iterator of steps, one a token.
///
/// ```
/// # use mlxengine::{GenerateParams, InferenceEngine, LlmEngine, Prompt};
/// let engine = InferenceEngine::load("demo")?;
/// let mut stream = engine.stream(Prompt::chat("Count from one to five."), &GenerateParams::default())?;
/// for step in &mut stream {
///     print!("{}", step?.text);
/// }
/// println!(" ({:.0} tokens/s)", stream.stats().decode_speed());
/// # Ok::<(), mlxengine::EngineError>(())
/// ```
pub struct TokenStream {
    generation: Generation,
    parser: AnswerParser,
    /// What became certain and nobody has taken yet.
    pieces: Vec<Piece>,
    ended: bool,
}

impl TokenStream {
    /// What stops this answer from another thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.generation.cancel_token()
    }

    /// Uses a token of the caller's to stop this answer.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.generation = self.generation.with_cancel(cancel);
        self
    }

    /// Adds a change to the logits of one's own, run after the penalties.
    #[must_use]
    pub fn with_processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.generation = self.generation.with_processor(processor);
        self
    }

    /// Reports how much of the prompt has been read, as `(done, all)`.
    #[must_use]
    pub fn with_progress(mut self, progress: impl FnMut(usize, usize) + Send + 'static) -> Self {
        self.generation = self.generation.with_progress(Box::new(progress));
        self
    }

    /// Thoughts, text and calls that became certain with the steps since this was last asked. [`Step::text`] has them all as
    /// the model wrote them.
    pub fn take_pieces(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    /// No more of this answer is wanted: what was held back becomes certain.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.pieces.extend(self.parser.finish());
        }
    }

    /// What was computed so far, and how fast.
    pub fn stats(&self) -> Stats {
        self.generation.stats()
    }

    /// Why the answer ended, once it has.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.generation.finish()
    }

    /// The seed in use: given again, it gives the same text.
    pub fn seed(&self) -> u64 {
        self.generation.seed()
    }

    /// Ends the answer and hands out what was read, for [`InferenceEngine::continue_from`].
    pub fn into_sequence(self) -> Sequence {
        self.generation.into_sequence()
    }

    /// Generates what is left of the answer.
    ///
    /// # Errors
    /// The first of its steps.
    pub fn finish(mut self) -> Result<Generated> {
        let mut tokens = Vec::new();
        for step in &mut self {
            let step = step?;
            tokens.push((step.token, step.logprob));
        }
        let finish = self.finish_reason().unwrap_or(FinishReason::Cancelled);
        Ok(Generated::new(self.take_pieces(), finish, self.stats(), tokens))
    }
}

impl Iterator for TokenStream {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.generation.next();
        let last = match &step {
            Some(Ok(step)) => {
                self.pieces.extend(self.parser.push(&step.text));
                step.finish.is_some()
            }
            _ => true,
        };
        if last {
            self.end();
        }
        step
    }
}

fn features(model: &LoadedModel) -> Features {
    let mut features = vec![
        Feature::TextGeneration,
        Feature::Streaming,
        Feature::Logprobs,
        Feature::PrefixReuse,
        Feature::SpeculativeDecoding,
    ];
    if !model.templates.is_empty() {
        features.push(Feature::Chat);
    }
    let quantized = |s: &(mlxengine_models::weights::Storage, usize)| {
        matches!(s.0, mlxengine_models::weights::Storage::Quantized(_))
    };
    if model.network.record().storages().iter().any(quantized) {
        features.push(Feature::QuantizedWeights);
    }
    let smallest = KvQuantization { bits: 8, group: 32, start: None };
    let options = mlxengine_models::CacheOptions { quantize: Some(smallest), ..Default::default() };
    if model.network.state(&options).is_ok() {
        features.push(Feature::QuantizedCache);
    }
    if !model.adapters.is_empty() {
        features.push(Feature::Lora);
    }
    features.into_iter().collect()
}
