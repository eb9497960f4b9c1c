//! Every architecture that MLXEngine runs: how a configuration becomes a model and a checkpoint its weights.
//!
//! A layer is a value. [`families`] holds one small file per family that reads that family's `config.json` into a
//! [`spec::Decoder`]; [`decoder`] alone turns such a value and a [`Checkpoint`] into a running model. Models hold no mutable
//! state: what a sequence has seen lives in its [`State`].

pub mod adapters;
pub mod checkpoint;
pub mod config;
pub mod decoder;
mod depth;
mod ends;
mod error;
pub mod families;
pub mod gguf;
mod hadamard;
mod linear;
mod mixer;
mod mlp;
mod norm;
mod per_layer;
mod rope;
mod rounding;
pub mod spec;
mod stack;
pub mod state;
mod streams;
pub mod weights;

pub use adapters::{Adapter, AdapterReport, Fusion, Loss};
pub use checkpoint::{Checkpoint, Source};
pub use config::Config;
pub use decoder::{LanguageModel, Span};
pub use ends::Frame;
pub use error::{Error, ErrorKind};
pub use mlxengine_tensor::Precision;
pub use state::{CacheFile, CacheOptions, KvQuantization, SlotSpec, State};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
