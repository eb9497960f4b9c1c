//! What a folder says about its model, without loading it, and lists of models.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::cache::{Cache, missing};
use crate::error::{During, HubError, Result};
use crate::layout::{Folder, files_below};
use crate::lock;
use crate::name::{BlobId, RepoId};

/// A model on this machine.
#[derive(Clone, Debug)]
pub struct LocalModel {
    /// What it is called: `org/name`.
    pub name: String,
    /// Its folder: a repository's in a cache, or one of plain files.
    pub path: PathBuf,
    /// Bytes on the disk, each counted once.
    pub bytes: u64,
    /// When it was last read or written, as far as the system knows.
    pub last_used: Option<SystemTime>,
    /// Its revisions; a folder of plain files has one without a commit.
    pub revisions: Vec<LocalRevision>,
    /// Bytes of files that have come in part.
    pub partial: u64,
}

/// A revision of a model on this machine.
#[derive(Clone, Debug)]
pub struct LocalRevision {
    /// Its commit, if it is one.
    pub commit: Option<String>,
    /// Branches and tags that were this commit when they were last fetched.
    pub refs: Vec<String>,
    /// Its folder.
    pub path: PathBuf,
    /// The bytes of its files.
    pub bytes: u64,
    /// Its files, with their sizes.
    pub files: Vec<(String, u64)>,
    /// When one of its files was last read or written.
    pub last_used: Option<SystemTime>,
    /// What is missing of it.
    pub missing: Vec<String>,
    /// What it is.
    pub description: Description,
}

/// What a checkpoint's configuration says at first sight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// `chat`, `text`, `vision`, `embedding`, `rerank`, `diffusion` or `adapter`, where it is clear.
    pub kind: Option<&'static str>,
    /// The type of model, as `qwen3`.
    pub model_type: Option<String>,
    /// How its weights are kept, as `4-bit, groups of 64` or `bfloat16`.
    pub quantization: Option<String>,
}

impl Description {
    /// Reads the files of a checkpoint.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let json = |name: &str| -> Option<Value> { serde_json::from_slice(&fs::read(folder.join(name)).ok()?).ok() };
        let there = |name: &str| folder.join(name).is_file();
        let config = json("config.json").unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let architecture = config["architectures"][0].as_str().unwrap_or_default();
        let template = || {
            there("chat_template.jinja")
                || there("chat_template.json")
                || json("tokenizer_config.json").is_some_and(|config| !config["chat_template"].is_null())
        };
        let kind = match () {
            () if there("model_index.json") => Some("diffusion"),
            () if there("adapter_config.json") => Some("adapter"),
            () if config["vision_config"].is_object() => Some("vision"),
            () if there("modules.json") => Some("embedding"),
            () if architecture.ends_with("ForSequenceClassification") => Some("rerank"),
            () if config.is_null() => None,
            () if template() => Some("chat"),
            () if architecture.ends_with("ForCausalLM") => Some("text"),
            () => None,
        };
        Self { kind, model_type: text(&config["model_type"]), quantization: quantization(&config) }
    }
}

fn quantization(config: &Value) -> Option<String> {
    let settings = ["quantization", "quantization_config"].iter().map(|key| &config[*key]).find(|s| s.is_object());
    if let Some(settings) = settings {
        let bits = settings["bits"].as_u64().map(|bits| format!("{bits}-bit"));
        let group = settings["group_size"].as_u64().map(|size| format!("groups of {size}"));
        let method = ["quant_method", "mode"].iter().find_map(|key| settings[*key].as_str());
        let method = method.filter(|method| *method != "affine").map(str::to_owned);
        let words: Vec<String> = [bits, group, method].into_iter().flatten().collect();
        return (!words.is_empty()).then(|| words.join(", "));
    }
    let dtype =
        ["dtype", "torch_dtype"].iter().find_map(|key| config[*key].as_str().or(config["text_config"][*key].as_str()));
    dtype.map(str::to_owned)
}

impl LocalRevision {
    fn read(path: PathBuf, commit: Option<String>, refs: Vec<String>) -> Self {
        let files = files_below(&path);
        let known: Vec<_> = files.iter().map(|(name, path)| (name, fs::metadata(path).ok())).collect();
        let mut missing = missing(&path);
        // A link whose blob is gone.
        missing.extend(known.iter().filter(|(_, file)| file.is_none()).map(|(name, _)| (*name).clone()));
        missing.sort();
        missing.dedup();
        let last_used = known.iter().flat_map(|(_, file)| file).filter_map(used).max();
        let files: Vec<(String, u64)> =
            known.into_iter().map(|(name, file)| (name.clone(), file.map_or(0, |file| file.len()))).collect();
        let bytes = files.iter().map(|(_, bytes)| bytes).sum();
        Self { description: Description::of(&path), commit, refs, path, bytes, files, last_used, missing }
    }
}

fn used(file: &fs::Metadata) -> Option<SystemTime> {
    file.accessed().into_iter().chain(file.modified()).max()
}

impl LocalModel {
    /// A folder of plain files.
    #[must_use]
    pub fn of_folder(name: &str, path: PathBuf) -> Self {
        let revision = LocalRevision::read(path.clone(), None, Vec::new());
        let (bytes, last_used) = (revision.bytes, revision.last_used);
        Self { name: name.to_owned(), path, bytes, last_used, revisions: vec![revision], partial: 0 }
    }

    /// The models in `directory` that lie there as `org/name`.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Vec<Self> {
        let folders = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let mut found: Vec<(String, PathBuf)> = entries
                .filter(|entry| entry.path().is_dir())
                .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
                .filter(|(name, _)| !name.starts_with('.'))
                .collect();
            found.sort();
            found
        };
        let mut models = Vec::new();
        for (org, path) in folders(directory) {
            for (name, path) in folders(&path) {
                if path.join("config.json").is_file() || path.join("model_index.json").is_file() {
                    models.push(Self::of_folder(&format!("{org}/{name}"), path));
                }
            }
        }
        models
    }
}

impl Cache {
    /// The models in it, by name.
    ///
    /// # Errors
    /// If the folder is there and cannot be read.
    pub fn list(&self) -> Result<Vec<LocalModel>> {
        let entries = match fs::read_dir(self.root()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.during("read", self.root())?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<RepoId> = names.filter_map(|name| RepoId::of_folder(&name)).collect();
        ids.sort();
        Ok(ids.iter().filter_map(|id| self.model(id)).collect())
    }

    /// A model in it, whole or not.
    #[must_use]
    pub fn model(&self, repo: &RepoId) -> Option<LocalModel> {
        let folder = self.folder(repo);
        if !folder.path.is_dir() {
            return None;
        }
        let mut refs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, commit) in folder.all_refs() {
            refs.entry(commit).or_default().push(name);
        }
        let revisions: Vec<LocalRevision> = folder
            .commits()
            .into_iter()
            .map(|commit| {
                let refs = refs.get(&commit).cloned().unwrap_or_default();
                LocalRevision::read(folder.snapshot(&commit), Some(commit), refs)
            })
            .collect();
        let blobs = files_below(&folder.blobs());
        let size = |partial: bool| -> u64 {
            let chosen = blobs.iter().filter(|(name, _)| name.contains(".incomplete") == partial);
            chosen.filter_map(|(_, path)| Some(fs::metadata(path).ok()?.len())).sum()
        };
        // Where links are not possible, snapshots hold the bytes themselves.
        let plain = revisions.iter().flat_map(|revision| files_below(&revision.path));
        let plain: u64 = plain
            .filter_map(|(_, path)| fs::symlink_metadata(path).ok())
            .filter(fs::Metadata::is_file)
            .map(|file| file.len())
            .sum();
        Some(LocalModel {
            name: repo.to_string(),
            bytes: size(false) + size(true) + if cfg!(unix) { plain } else { 0 },
            partial: size(true),
            last_used: revisions.iter().filter_map(|revision| revision.last_used).max(),
            path: folder.path,
            revisions,
        })
    }

    /// Removes a model, or one revision of it, and says how many bytes that freed.
    ///
    /// # Errors
    /// If there is no such model or revision, or another process is fetching it.
    pub fn remove(&self, repo: &RepoId, revision: Option<&str>) -> Result<u64> {
        let Some(model) = self.model(repo) else {
            return Err(HubError::NotCached { repo: repo.to_string(), missing: Vec::new() });
        };
        let folder = self.folder(repo);
        let _locks = hold(&folder)?;
        let Some(revision) = revision else { return remove_folder(&folder, model.bytes) };
        let missing = || HubError::RevisionMissing { repo: repo.to_string(), revision: revision.to_owned() };
        let commit = folder.commit(revision).filter(|commit| folder.snapshot(commit).is_dir()).ok_or_else(missing)?;
        if model.revisions.len() == 1 {
            return remove_folder(&folder, model.bytes);
        }
        for (name, _) in folder.all_refs().into_iter().filter(|(_, of)| *of == commit) {
            let path = crate::name::below(&folder.refs(), &name);
            fs::remove_file(&path).during("remove", &path)?;
        }
        let snapshot = folder.snapshot(&commit);
        fs::remove_dir_all(&snapshot).during("remove", &snapshot)?;
        remove_unused_blobs(&folder)
    }
}

/// The locks of all files of a repository, so that nobody fetches one of them.
pub(crate) fn hold(folder: &Folder) -> Result<Vec<lock::Lock>> {
    let locks = files_below(&folder.locks);
    let taken = locks
        .iter()
        .map(|(_, path)| lock::try_lock(path)?.ok_or_else(|| HubError::Busy { repo: folder.id.to_string() }));
    taken.collect()
}

fn remove_folder(folder: &Folder, bytes: u64) -> Result<u64> {
    fs::remove_dir_all(&folder.path).during("remove", &folder.path)?;
    if folder.locks.is_dir() {
        fs::remove_dir_all(&folder.locks).during("remove", &folder.locks)?;
    }
    Ok(bytes)
}

/// The blob behind a file of a snapshot, if it is a link.
pub(crate) fn blob_of(path: &Path) -> Option<BlobId> {
    BlobId::parse(fs::read_link(path).ok()?.file_name()?.to_str()?)
}

/// Blobs that no snapshot has, and files that have come in part.
pub(crate) fn unused_blobs(folder: &Folder) -> Vec<(PathBuf, u64)> {
    let links = files_below(&folder.snapshots());
    let used: BTreeSet<String> = links
        .iter()
        .filter_map(|(_, path)| Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned()))
        .collect();
    // Without links nothing says which snapshot a blob is of.
    if used.is_empty() && !links.is_empty() {
        return Vec::new();
    }
    let blobs = files_below(&folder.blobs()).into_iter().filter(|(name, _)| !used.contains(name));
    blobs
        .filter_map(|(_, path)| Some((fs::metadata(&path).ok()?.len(), path)))
        .map(|(size, path)| (path, size))
        .collect()
}

pub(crate) fn remove_unused_blobs(folder: &Folder) -> Result<u64> {
    let mut freed = 0;
    for (path, size) in unused_blobs(folder) {
        fs::remove_file(&path).during("remove", &path)?;
        freed += size;
    }
    Ok(freed)
}
