//! Making room in the cache.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::bundle::identify;
use crate::cache::Cache;
use crate::error::{During, HubError, Result};
use crate::layout::{files_below, make_cache};
use crate::lock;
use crate::models::{remove_unused_blobs, unused_blobs};
use crate::name::{RepoId, check_file};
use crate::plain::{PlainFolder, commit_of};

/// What may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// Models that nobody used for so long.
    pub older_than: Option<Duration>,
    /// The models that nobody used for longest, until all together have at most these bytes.
    pub max_size: Option<u64>,
    /// Revisions that no branch or tag names any more, blobs of no revision, and files that came in part.
    pub unused: bool,
}

/// Something that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The model.
    pub repo: RepoId,
    /// What of it.
    pub what: PrunedPart,
    /// Bytes that it frees, as far as no other revision has them.
    pub bytes: u64,
    /// Why it goes.
    pub why: &'static str,
}

/// A part of a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrunedPart {
    /// All of it.
    Model,
    /// A revision.
    Revision(String),
    /// Blobs of no revision, and files that came in part.
    Leftovers,
}

impl Cache {
    /// What would go, in the order in which it goes. Nothing is removed.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn plan_prune(&self, prune: &Prune) -> Result<Vec<Pruned>> {
        let mut models = self.list()?;
        let mut plan = Vec::new();
        let whole = |name: &str, bytes, why| {
            Ok::<_, HubError>(Pruned { repo: RepoId::parse(name)?, what: PrunedPart::Model, bytes, why })
        };
        if let Some(age) = prune.older_than {
            let limit = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
            // What has no time of use has come in part, if at all.
            let old = |used: Option<SystemTime>| used.is_some_and(|used| used < limit);
            for model in models.iter().filter(|model| old(model.last_used)) {
                plan.push(whole(&model.name, model.bytes, "not used for long")?);
            }
            models.retain(|model| !old(model.last_used));
        }
        if prune.unused {
            for model in &models {
                self.plan_unused(&RepoId::parse(&model.name)?, &mut plan);
            }
        }
        if let Some(most) = prune.max_size {
            let freed = |name: &str, plan: &[Pruned]| -> u64 {
                plan.iter().filter(|part| part.repo.as_str() == name).map(|part| part.bytes).sum()
            };
            let mut left: u64 =
                models.iter().map(|model| model.bytes - freed(&model.name, &plan).min(model.bytes)).sum();
            models.sort_by_key(|model| Reverse(model.last_used));
            while let Some(model) = models.pop().filter(|_| left > most) {
                let bytes = model.bytes - freed(&model.name, &plan).min(model.bytes);
                plan.retain(|part| part.repo.as_str() != model.name);
                plan.push(whole(&model.name, model.bytes, "to make room")?);
                left -= bytes;
            }
        }
        Ok(plan)
    }

    fn plan_unused(&self, repo: &RepoId, plan: &mut Vec<Pruned>) {
        let Some(model) = self.model(repo) else { return };
        let unnamed = |refs: &[String]| refs.is_empty();
        let named = model.revisions.iter().any(|revision| !unnamed(&revision.refs));
        // A model that was fetched by its commit has no name at all, and is used so.
        for revision in model.revisions.iter().filter(|revision| named && unnamed(&revision.refs)) {
            let kept = model.revisions.iter().filter(|other| other.commit != revision.commit);
            let kept: Vec<PathBuf> = kept.flat_map(|other| blobs(&other.path)).collect();
            let own = blobs(&revision.path).into_iter().filter(|blob| !kept.contains(blob));
            let bytes = own.filter_map(|blob| Some(fs::metadata(blob).ok()?.len())).sum();
            if let Some(commit) = &revision.commit {
                let what = PrunedPart::Revision(commit.clone());
                plan.push(Pruned { repo: repo.clone(), what, bytes, why: "no branch or tag names it" });
            }
        }
        let bytes: u64 = unused_blobs(&self.folder(repo)).iter().map(|(_, bytes)| bytes).sum();
        if bytes > 0 {
            plan.push(Pruned { repo: repo.clone(), what: PrunedPart::Leftovers, bytes, why: "of no revision" });
        }
    }

    /// Removes what a plan says, and says how many bytes that freed. What another process is fetching stays.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn prune(&self, plan: &[Pruned]) -> Result<u64> {
        let mut freed = 0;
        for part in plan {
            let removed = match &part.what {
                PrunedPart::Model => self.remove(&part.repo, None),
                PrunedPart::Revision(commit) => self.remove(&part.repo, Some(commit)),
                PrunedPart::Leftovers => {
                    let folder = self.folder(&part.repo);
                    crate::models::hold(&folder).and_then(|_locks| remove_unused_blobs(&folder))
                }
            };
            match removed {
                Ok(bytes) => freed += bytes,
                Err(HubError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(freed)
    }

    /// Gives a model in the cache a second name there. The bytes are shared where the disk can.
    ///
    /// # Errors
    /// If there is no such model, the name is taken, or it cannot be written.
    pub fn copy(&self, from: &RepoId, revision: &str, to: &RepoId) -> Result<()> {
        let snapshot = self.find(from, revision)?;
        self.add(&files_below(&snapshot.path), Some(&snapshot.commit), to)
    }

    /// Takes a folder of plain files into the cache under a name. The bytes are copied: a folder may be changed later.
    ///
    /// # Errors
    /// If the name is taken, or it cannot be written.
    pub fn copy_folder(&self, from: &PlainFolder, to: &RepoId) -> Result<()> {
        self.add(&from.files(), None, to)
    }

    /// Adds a model of these files; those of a snapshot, which has a commit, are shared.
    fn add(&self, files: &[(String, PathBuf)], commit: Option<&str>, to: &RepoId) -> Result<()> {
        if self.model(to).is_some_and(|model| !model.revisions.is_empty()) {
            let what = format!("there is a model {to} in the cache already");
            return Err(HubError::invalid(what, "give another name, or remove it first"));
        }
        let target = self.folder(to);
        make_cache(self.root())?;
        fs::create_dir_all(target.blobs()).during("make the folder", &target.path)?;
        let mut known = Vec::new();
        for (file, path) in files {
            check_file(file)?;
            known.push((file.clone(), identify(path)?));
        }
        let commit = commit.map_or_else(|| commit_of(&known), str::to_owned);
        for ((file, blob), (_, path)) in known.iter().zip(files) {
            let place = target.blob(blob);
            let _lock = lock::try_lock(&target.lock(blob))?.ok_or_else(|| HubError::Busy { repo: to.to_string() })?;
            if !place.exists() {
                let real = path.canonicalize().during("read", path)?;
                let is_link = fs::symlink_metadata(path).is_ok_and(|known| known.is_symlink());
                let shared = is_link && fs::hard_link(&real, &place).is_ok();
                if !shared {
                    copy_whole(&real, &place)?;
                }
            }
            target.link(&commit, file, blob)?;
        }
        target.set_ref("main", &commit)
    }
}

/// A copy that has its name only once it is whole.
fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    let mut new = to.as_os_str().to_owned();
    new.push(".incomplete");
    let new = PathBuf::from(new);
    let copied = fs::copy(from, &new).and_then(|_| fs::rename(&new, to)).during("write", to);
    if copied.is_err() {
        let _ = fs::remove_file(&new);
    }
    copied
}

/// The files behind the links of a snapshot.
fn blobs(snapshot: &Path) -> Vec<PathBuf> {
    let files = files_below(snapshot);
    files.into_iter().filter_map(|(_, path)| path.canonicalize().ok()).collect()
}
