//! The models on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::download::Snapshot;
use crate::error::{During, HubError, Result};
use crate::layout::Folder;
use crate::name::{RepoId, check_file, check_revision};

/// A cache in the Hub's own layout, shared with Python.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in this folder, which need not be there.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes that this user may still write to the disk it lies on, or will lie on.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn free_space(&self) -> Result<u64> {
        let absolute = std::path::absolute(&self.root).during("find", &self.root)?;
        let there = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(&absolute);
        fs4::available_space(there).during("look at the disk of", there)
    }

    pub(crate) fn folder(&self, repo: &RepoId) -> Folder {
        Folder::new(&self.root, repo)
    }

    /// The files of a revision, if all that its weights need are there.
    ///
    /// # Errors
    /// [`HubError::NotCached`] with the names of what is missing, or with none if nothing is there.
    pub fn find(&self, repo: &RepoId, revision: &str) -> Result<Snapshot> {
        let folder = self.folder(repo);
        let commit = folder.commit(check_revision(revision)?);
        let path = commit.as_deref().map(|commit| folder.snapshot(commit)).filter(|path| path.is_dir());
        let (Some(commit), Some(path)) = (commit, path) else {
            return Err(HubError::NotCached { repo: repo.to_string(), missing: Vec::new() });
        };
        let missing = missing(&path);
        if missing.is_empty() {
            Ok(Snapshot { path, commit })
        } else {
            Err(HubError::NotCached { repo: repo.to_string(), missing })
        }
    }
}

/// What a checkpoint's folder lacks: its configuration, or files that its index of weights names.
pub(crate) fn missing(snapshot: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    if !snapshot.join("config.json").is_file() && !snapshot.join("model_index.json").is_file() {
        missing.push("config.json".to_owned());
    }
    let index = fs::read(snapshot.join("model.safetensors.index.json")).ok();
    let index: Option<Value> = index.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let map = index.as_ref().and_then(|index| index.get("weight_map")?.as_object());
    let mut shards: Vec<&str> = map.into_iter().flat_map(|map| map.values().filter_map(Value::as_str)).collect();
    shards.sort_unstable();
    shards.dedup();
    let absent = |name: &&str| check_file(name).is_err() || !crate::name::below(snapshot, name).is_file();
    missing.extend(shards.into_iter().filter(absent).map(str::to_owned));
    missing
}
