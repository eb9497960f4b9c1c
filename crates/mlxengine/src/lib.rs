//! MLXEngine: language models in MLX or Hugging Face format, on this machine, with nothing sent anywhere.
//!
//! ```
//! use mlxengine::{ChatSession, GenerateParams, InferenceEngine, LlmEngine, Prompt};
//!
//! # fn main() -> mlxengine::Result<()> {
//! let engine = InferenceEngine::load("demo")?; // or a directory, or mlx://org/name
//! let answer = engine.generate(Prompt::chat("What is the capital of France?"), &GenerateParams::default())?;
//! assert!(answer.text.contains("Paris"));
//!
//! let chat = ChatSession::new(&engine);
//! chat.send("My name is Ada.")?;
//! let reply = chat.send("What is my name?")?;
//! assert!(reply.text.contains("Ada"));
//! # Ok(())
//! # }
//! ```
//!
//! - [`InferenceEngine`] loads a model and implements [`LlmEngine`]; clones share the weights, and any number of threads
//!   may use them.
//! - [`TokenStream`] is an answer as it comes: an iterator (with the feature `stream`, also a `futures::Stream`).
//! - [`ChatSession`] keeps a conversation and reads nothing twice.
//! - [`ModelConfiguration`] says what a checkpoint is; [`Features`] what it can do here.
//! - [`ModelRegistry`] knows models by short names, and what they need.
//! - [`mod@gguf`] makes checkpoints of the files of other engines.
//! - [`mod@device`] says what this machine has and how fast it is, [`mod@doctor`] whether all is in order.
//! - [`mod@bench`] measures a model's speed on this machine.
//! - Every failure is an [`EngineError`]: a kind, one sentence, a remedy.

mod batch;
pub mod bench;
mod card;
mod configuration;
mod cost;
#[cfg(feature = "demo")]
mod demo;
pub mod device;
pub mod doctor;
mod engine;
mod evaluate;
mod explain;
mod features;
mod fit;
mod fuse;
pub mod gguf;
mod manager;
pub mod memory;
mod predict;
mod registry;
mod session;
mod source;
#[cfg(feature = "stream")]
pub mod stream;
mod transcript;

pub use configuration::{EndTokenInfo, MemoryPlan, ModelConfiguration, ModelKind, StorageShare};
pub use cost::ModelCost;
pub use engine::{Generated, InferenceEngine, LlmEngine, LoadOptions, LoadProgress, Prompt, TokenStream};
pub use evaluate::{Choice, Example, PerplexityOptions, Question};
pub use explain::{Explanation, TokenPiece, Turn, explain};
pub use features::{Feature, Features};
pub use fuse::{Agreement, FuseOptions, FuseReport, fuse};
pub use manager::{Held, ManagerLimits, ModelManager};
pub use mlxengine_engine::answer::message;
pub use mlxengine_engine::evaluate::{Likelihood, Perplexity};
pub use mlxengine_engine::text::probe::{Parting, ThinkingSwitch};
pub use mlxengine_engine::{
    AnswerFormat, AnswerParser, Batch, BatchEvent, BatchOptions, CancelToken, Capabilities, Constraint, Content,
    ContentPart, Draft, DraftSource, EngineError, ErrorKind, FinishReason, Finished, Function, GenerateOptions,
    GenerateParams, Grammar, LogitsProcessor, Message, Piece, RenderOptions, Result, Role, Sequence, Speculation,
    Stats, Step, ToolCall, ToolChoice, ToolFormat, Tools,
};
/// Models from the Hugging Face Hub: find, fetch, verify, keep.
pub use mlxengine_hub as hub;
pub use mlxengine_models::families::{FAMILIES, Family};
pub use mlxengine_models::{CacheOptions, KvQuantization, Loss, Precision};
pub use predict::Prediction;
pub use registry::{
    Ability, Bytes, Found, LayerCache, ModelRegistry, Purpose, Query, Recommendation, RegistryEntry, RegistryMemory,
    Storage, Verdict, Wish,
};
pub use session::{ChatSession, ReplyStream};
pub use source::{ModelPaths, ModelSource};
pub use transcript::Format;
