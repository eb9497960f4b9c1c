//! The engine of MLXEngine: what turns a loaded model into text.
//!
//! - [`message`]: the turns of a conversation, as the OpenAI chat API writes them.
//! - [`text`]: tokenizer, streaming detokenizers, stop strings and chat templates.
//! - [`sample`]: generation parameters, penalties, filters and the random draw.
//! - [`model`]: weights, tokenizer and template of a checkpoint, together.
//! - [`generate`]: from a prompt to an answer, with drafts, and many at once; [`sequence`]: what has been read, reused.
//! - [`evaluate`]: how likely texts are to a model.
//! - [`answer`]: thoughts, text and calls of tools in what a model says; [`constrain`]: grammars that it has to obey.
//! - [`error`]: the one error type, with a kind, a sentence and a remedy.
//!
//! Nothing here reads the environment, the network or standard input, and nothing prints.

pub mod answer;
pub mod constrain;
pub mod error;
pub mod evaluate;
pub mod generate;
pub mod message;
pub mod model;
pub mod sample;
pub mod sequence;
pub mod text;

pub use answer::{AnswerFormat, AnswerParser, Piece, ToolFormat, Tools};
pub use constrain::{Constrainer, Constraint, Grammar, ThinkingBudget, Thoughts, ToolChoice};
pub use error::{EngineError, ErrorKind, Result};
pub use generate::{
    Batch, BatchEvent, BatchOptions, CancelToken, Draft, DraftSource, FinishReason, Finished, GenerateOptions,
    Generation, Request, Speculation, Stats, Step,
};
pub use message::{Content, ContentPart, Function, ImageUrl, Message, Role, ToolCall};
pub use model::{Adapted, LoadedModel};
pub use sample::{GenerateParams, LogitsProcessor, Sampled, Sampler};
pub use sequence::Sequence;
pub use text::{
    Capabilities, ChatTemplate, ChatTemplates, Detokenizer, EndToken, RenderOptions, StopScanner, Tokenizer,
    TokenizerFiles,
};
