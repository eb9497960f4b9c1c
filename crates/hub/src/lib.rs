//! Models from the Hugging Face Hub: find, fetch, verify, keep.
//!
//! ```no_run
//! use mlxengine_hub::{Cancel, HubConfig, ModelDownloader, RepoId, Wanted};
//!
//! # fn main() -> mlxengine_hub::Result<()> {
//! let config = HubConfig::new("/home/ada/.cache/huggingface/hub");
//! let repo = RepoId::parse("mlx-community/Qwen3-0.6B-4bit")?;
//! let snapshot = ModelDownloader::new(&config)?.ensure(&repo, "main", &Wanted::Needed, &|_| {}, &Cancel::default())?;
//! assert!(snapshot.path.join("config.json").is_file());
//! # Ok(())
//! # }
//! ```
//!
//! - [`HuggingFaceApi`] asks the Hub: search, facts, files, cards, who you are.
//! - [`ModelDownloader`] makes a revision whole on this machine: resumed where it was cut, verified before a file has its name.
//! - [`Cache`] is what is here, in the layout that Python's `huggingface_hub` shares: list, verify, remove, prune, copy.
//! - [`export`] and [`Cache::import`] carry a model to a machine without a network.
//! - Every failure is a [`HubError`]: a situation and its remedy.
//!
//! Calls block, and may be made from any thread. The environment is not read: a [`HubConfig`] says all. One exception is
//! proxies, which are those of the system and of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.

mod api;
mod bundle;
mod cache;
mod card;
mod config;
mod download;
mod error;
mod failure;
mod fetch;
mod files;
mod hash;
mod health;
mod http;
mod layout;
mod lock;
mod models;
mod name;
mod partial;
mod progress;
mod prune;
mod retry;
mod throttle;
mod token_file;
mod verify;

pub use api::{Access, HuggingFaceApi, ModelInfo, RemoteFile, Search, Sort, User};
pub use bundle::{Bytes, export, is_bundle};
pub use cache::Cache;
pub use card::ModelCard;
pub use config::{ENDPOINT, HubConfig, Token, Transfer};
pub use download::{ModelDownloader, Snapshot, Wanted};
pub use error::{HubError, Result, human};
pub use files::{Need, need};
pub use health::{Ailment, Health};
pub use models::{Description, LocalModel, LocalRevision};
pub use name::{BlobId, RepoId, check_file, check_revision, is_commit};
pub use progress::{Cancel, Event, Listener};
pub use prune::{Prune, Pruned, PrunedPart};
pub use token_file::{read_token, remove_token, write_token};
pub use verify::{Checked, Condition};
