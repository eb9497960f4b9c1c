//! Models from the Hugging Face Hub: find, fetch, verify, keep.

mod api;
mod card;
mod config;
mod error;
mod failure;
mod files;
mod http;
mod name;
mod progress;
mod retry;

pub use api::{Access, HuggingFaceApi, ModelInfo, RemoteFile, Search, Sort, User};
pub use card::ModelCard;
pub use config::{ENDPOINT, HubConfig, Token, Transfer};
pub use error::{HubError, Result, human};
pub use files::{Need, need};
pub use name::{BlobId, RepoId, check_file, check_revision, is_commit};
pub use progress::{Cancel, Event, Listener};
