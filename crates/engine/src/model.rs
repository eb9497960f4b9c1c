//! A loaded model: weights, tokenizer, chat template, and which tokens end an answer. Immutable; sessions share it.

use std::path::Path;
use std::sync::OnceLock;

use mlxengine_models::{Adapter, CacheOptions, Checkpoint, LanguageModel, Precision, decoder};
use serde_json::Value;

use crate::answer::{AnswerFormat, ToolFormat};
use crate::constrain::{Constrainer, Constraint, Grammar, ThinkingBudget, Thoughts};
use crate::error::{EngineError, ErrorKind, Result};
use crate::message::Message;
use crate::text::probe::generation_prompt;
use crate::text::{ChatTemplate, ChatTemplates, EndToken, RenderOptions, TemplateFiles, Tokenizer, TokenizerFiles};

/// A model and everything that turns text into its tokens and back.
pub struct LoadedModel {
    /// The network.
    pub network: Box<dyn LanguageModel>,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// The chat templates that the checkpoint brings.
    pub templates: ChatTemplates,
    /// The tokens that end an answer.
    pub end_tokens: Vec<EndToken>,
    /// How it writes thoughts and calls of tools.
    pub answer_format: AnswerFormat,
    /// What `tool_parser_type` in `tokenizer_config.json` says: a [`ToolFormat`]'s name, or one that nobody here knows and
    /// that is as good as none.
    pub tool_parser: Option<String>,
    /// `generation_config.json`: what the model's makers advise.
    pub generation_config: Option<Value>,
    /// The same network under each adapter.
    pub adapters: Vec<Adapted>,
    checkpoint: Checkpoint,
    precision: Precision,
    fingerprint: OnceLock<u64>,
    /// What grammars are compiled with, once one is.
    constrainer: OnceLock<Constrainer>,
}

/// A model's network under an adapter. What lies in the checkpoint's files is shared with the plain one.
pub struct Adapted {
    /// What requests call it.
    pub name: String,
    /// The network.
    pub network: Box<dyn LanguageModel>,
    fingerprint: u64,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel").field("tokenizer", &self.tokenizer).field("end_tokens", &self.end_tokens).finish()
    }
}

impl From<mlxengine_models::Error> for EngineError {
    fn from(e: mlxengine_models::Error) -> Self {
        use mlxengine_models::ErrorKind as K;
        let kind = match e.kind() {
            K::NotFound => ErrorKind::NotFound,
            K::UnsupportedModel => ErrorKind::UnsupportedModel,
            K::UnsupportedQuantization => ErrorKind::UnsupportedQuantization,
            K::InvalidOption => ErrorKind::InvalidParameter,
            K::Io => ErrorKind::Io,
            K::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::InvalidCheckpoint,
        };
        EngineError::new(kind, e.to_string())
    }
}

impl LoadedModel {
    /// Loads the model of a checkpoint; `progress` hears of each layer as `(done, all)`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the architecture or quantization is not supported.
    pub fn load(checkpoint: &Checkpoint, precision: Precision, progress: impl FnMut(usize, usize)) -> Result<Self> {
        let texts = TextFiles::read(checkpoint)?;
        let tokenizer = texts.tokenizer(checkpoint)?;
        let templates = texts.templates();
        let generation_config = checkpoint.source.json("generation_config.json")?;
        let config = Value::Object(checkpoint.config.values().clone());
        let template = templates.select(None, false).ok();
        let end_tokens = tokenizer.end_tokens(generation_config.as_ref(), Some(&config), template);
        let network = decoder::load(checkpoint, precision, progress)?;
        let calling = templates.select(None, true).ok();
        let tool_parser = texts.tool_parser();
        let declared = tool_parser.as_deref().and_then(ToolFormat::named);
        let answer_format = calling.map(|t| AnswerFormat::detect(t, &tokenizer, declared)).unwrap_or_default();
        Ok(Self {
            network,
            tokenizer,
            templates,
            end_tokens,
            answer_format,
            tool_parser,
            generation_config,
            adapters: Vec::new(),
            checkpoint: checkpoint.clone(),
            precision,
            fingerprint: OnceLock::new(),
            constrainer: OnceLock::new(),
        })
    }

    /// Loads an adapter, which requests choose by this name.
    ///
    /// # Errors
    /// If there is none in the directory, a change of it belongs to no module of this model, or the name is taken.
    pub fn load_adapter(&mut self, name: &str, directory: &Path) -> Result<()> {
        if self.adapters.iter().any(|adapter| adapter.name == name) {
            let message = format!("two adapters are called {name}");
            return Err(EngineError::new(ErrorKind::InvalidInput, message).with_remedy("give one as NAME=DIRECTORY"));
        }
        let adapter = Adapter::open(directory)?;
        let network = decoder::load_adapted(&self.checkpoint, Some(&adapter), self.precision, |_, _| {})?;
        self.adapters.push(Adapted { name: name.to_owned(), network, fingerprint: adapter.fingerprint() });
        Ok(())
    }

    /// The network under an adapter, or the plain one.
    ///
    /// # Errors
    /// If there is no adapter of this name, with those that there are.
    pub fn under(&self, adapter: Option<&str>) -> Result<&dyn LanguageModel> {
        match adapter {
            None => Ok(&*self.network),
            Some(name) => Ok(&*self.adapter(name)?.network),
        }
    }

    fn adapter(&self, name: &str) -> Result<&Adapted> {
        self.adapters.iter().find(|adapter| adapter.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
            let there =
                if names.is_empty() { "none is loaded".to_owned() } else { format!("there are {}", names.join(", ")) };
            EngineError::new(ErrorKind::NotFound, format!("there is no adapter {name}: {there}"))
        })
    }

    /// A text that tells this model under an adapter from every other.
    ///
    /// # Errors
    /// If there is no adapter of this name.
    pub fn identity(&self, adapter: Option<&str>) -> Result<String> {
        let model = self.fingerprint.get_or_init(|| self.checkpoint.fingerprint());
        Ok(match adapter {
            None => format!("{model:016x}"),
            Some(name) => format!("{model:016x}+{:016x}", self.adapter(name)?.fingerprint),
        })
    }

    /// Bytes that the loaded adapters take beside the checkpoint.
    pub fn adapter_bytes(&self) -> usize {
        let reports = self.adapters.iter().filter_map(|adapter| adapter.network.record().adapter.as_ref());
        reports.map(|report| report.bytes).sum()
    }

    /// A conversation as the text that the model was trained on.
    ///
    /// # Errors
    /// If there is no template, or it refuses the conversation.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        for message in messages {
            message.require_text_only()?;
        }
        self.template(options.tools.is_some())?.render(messages, options)
    }

    /// The chat template, the one for tools where there are some and it has its own.
    ///
    /// # Errors
    /// If there is none, or it does not compile.
    pub fn template(&self, tools: bool) -> Result<ChatTemplate> {
        ChatTemplate::new(self.templates.select(None, tools)?, self.tokenizer.special_tokens())
    }

    /// A conversation as tokens.
    ///
    /// # Errors
    /// Those of [`LoadedModel::render`] and of the tokenizer.
    pub fn encode_chat(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>> {
        self.tokenizer.encode(&self.render(messages, options)?, false)
    }

    /// What compiles grammars for this model; made when it is first asked for, which takes a moment.
    ///
    /// # Errors
    /// If no token ends the model's answers.
    pub fn constrainer(&self) -> Result<&Constrainer> {
        if let Some(constrainer) = self.constrainer.get() {
            return Ok(constrainer);
        }
        let ends: Vec<u32> = self.end_tokens.iter().map(|end| end.id).collect();
        let constrainer = Constrainer::new(&self.tokenizer, self.network.spec().vocab, &ends)?;
        Ok(self.constrainer.get_or_init(|| constrainer))
    }

    /// A grammar for the answer to `prompt`, after the thoughts that the prompt or the model begins.
    ///
    /// # Errors
    /// If the grammar cannot be enforced.
    pub fn constraint(&self, grammar: &Grammar, prompt: &[u32]) -> Result<Constraint> {
        let constraint = self.constrainer()?.compile(grammar)?;
        if matches!(grammar, Grammar::Whole(_)) {
            return Ok(constraint);
        }
        Ok(match self.thoughts(prompt)? {
            Some(thoughts) => constraint.after(thoughts),
            None => constraint,
        })
    }

    /// What ends the thoughts of the answer to `prompt` after `budget` tokens; `None` if nothing can begin thoughts there.
    ///
    /// # Errors
    /// If the model marks no thoughts, so that there is nothing that could be bounded.
    pub fn thinking_budget(&self, budget: usize, prompt: &[u32]) -> Result<Option<ThinkingBudget>> {
        let Some(end) = self.answer_format.reasoning_end() else {
            let message =
                "thoughts cannot be bounded: the model's chat template and vocabulary have no markers of thoughts";
            return Err(EngineError::new(ErrorKind::Unsupported, message).with_remedy("leave the thinking budget out"));
        };
        let thoughts = self.thoughts(prompt)?;
        thoughts.map(|thoughts| ThinkingBudget::new(&self.tokenizer, thoughts, &end, budget)).transpose()
    }

    /// The thoughts before the answer to `prompt` that the prompt has begun, or that the model may begin.
    fn thoughts(&self, prompt: &[u32]) -> Result<Option<Thoughts>> {
        // As long as the markers that may stand at the end of a prompt.
        const TAIL: usize = 32;
        let Some(markers) = self.answer_format.reasoning() else { return Ok(None) };
        let tail = self.tokenizer.decode(&prompt[prompt.len().saturating_sub(TAIL)..], false)?;
        let tail = tail.trim_end();
        let channels = matches!(self.answer_format, AnswerFormat::Channels) && tail.ends_with("<|start|>assistant");
        if channels || tail.ends_with(markers.start.trim_end()) {
            return Ok(Some(Thoughts::Begun { end: markers.end }));
        }
        // Only where an answer begins may thoughts come first: not in plain text, and not behind empty thoughts.
        let begins = generation_prompt(&self.template(false)?).unwrap_or_default();
        if begins.trim().is_empty() || !tail.ends_with(begins.trim_end()) || tail.ends_with(markers.end.trim_end()) {
            return Ok(None);
        }
        let start = self.tokenizer.encode(&markers.start, false)?;
        Ok(Some(Thoughts::Possible { start, end: markers.end }))
    }

    /// Whether a token ends an answer.
    pub fn ends_answer(&self, token: u32) -> bool {
        self.end_tokens.iter().any(|end| end.id == token)
    }

    /// Longest sequence that the model was made for.
    pub fn context(&self) -> Option<usize> {
        self.network.spec().context
    }

    /// Bytes that the caches of one sequence of `length` positions need; the most there can be, where a checkpoint claims a
    /// context beyond all bounds.
    pub fn cache_bytes(&self, length: usize, options: &CacheOptions) -> usize {
        self.network.cache_bytes(length, options)
    }
}

/// The files that say how text becomes tokens.
struct TextFiles {
    names: Vec<String>,
    tokenizer: Option<Vec<u8>>,
    tokenizer_config: Option<Value>,
    special_tokens_map: Option<Value>,
    template: Option<String>,
    template_json: Option<Value>,
    additional: Vec<(String, String)>,
}

impl TextFiles {
    fn read(checkpoint: &Checkpoint) -> Result<Self> {
        let source = &checkpoint.source;
        let text = |file: &str| -> Result<Option<String>> {
            let Some(bytes) = source.read(file)? else { return Ok(None) };
            let text = String::from_utf8(bytes);
            text.map(Some).map_err(|_| {
                EngineError::new(ErrorKind::InvalidCheckpoint, format!("{file} in {} is not UTF-8", source.name()))
            })
        };
        let names = source.files()?;
        let mut additional = Vec::new();
        if names.iter().any(|n| n == "additional_chat_templates")
            && let mlxengine_models::Source::Directory(directory) = source
        {
            let folder = mlxengine_models::Source::Directory(directory.join("additional_chat_templates"));
            for file in folder.files()? {
                let Some(name) = file.strip_suffix(".jinja") else { continue };
                if let Some(text) = text(&format!("additional_chat_templates/{file}"))? {
                    additional.push((name.to_owned(), text));
                }
            }
        }
        Ok(Self {
            tokenizer: source.read("tokenizer.json")?,
            tokenizer_config: source.json("tokenizer_config.json")?,
            special_tokens_map: source.json("special_tokens_map.json")?,
            template: text("chat_template.jinja")?,
            template_json: source.json("chat_template.json")?,
            names,
            additional,
        })
    }

    fn tokenizer(&self, checkpoint: &Checkpoint) -> Result<Tokenizer> {
        let files = TokenizerFiles {
            tokenizer_json: self.tokenizer.as_deref(),
            tokenizer_config: self.tokenizer_config.as_ref(),
            special_tokens_map: self.special_tokens_map.as_ref(),
            model_type: Some(checkpoint.config.model_type()),
            file_names: &self.names,
        };
        Tokenizer::from_files(&files).map_err(|e| e.in_context(checkpoint.source.name()))
    }

    /// How the checkpoint says that calls are written.
    fn tool_parser(&self) -> Option<String> {
        let name = self.tokenizer_config.as_ref()?.get("tool_parser_type")?;
        (!name.is_null()).then(|| name.as_str().map_or_else(|| name.to_string(), str::to_owned))
    }

    fn templates(&self) -> ChatTemplates {
        ChatTemplates::from_files(&TemplateFiles {
            chat_template_jinja: self.template.as_deref(),
            additional: &self.additional,
            chat_template_json: self.template_json.as_ref(),
            tokenizer_config: self.tokenizer_config.as_ref(),
        })
    }
}
