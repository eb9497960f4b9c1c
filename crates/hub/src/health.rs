//! Whether a cache is in order, as far as that can be seen without reading every byte.

use std::fs;

use crate::cache::Cache;
use crate::error::{During, Result};
use crate::layout::files_below;
use crate::lock;
use crate::models::unused_blobs;
use crate::name::RepoId;

/// What a look at a cache found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Models that are there, whole or not.
    pub models: usize,
    /// The bytes of all of them.
    pub bytes: u64,
    /// What is not as it should be.
    pub ailments: Vec<Ailment>,
}

/// Something in a cache that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ailment {
    /// The cache cannot be written.
    ReadOnly {
        /// What the system says.
        why: String,
    },
    /// Files of a revision are links to bytes that are gone.
    Broken {
        /// `org/name`.
        model: String,
        /// The files.
        files: Vec<String>,
    },
    /// A revision lacks files that its weights need: fetching it was not finished.
    Incomplete {
        /// `org/name`.
        model: String,
        /// The files.
        files: Vec<String>,
    },
    /// Files have come in part.
    Partial {
        /// `org/name`.
        model: String,
        /// Their bytes.
        bytes: u64,
    },
    /// Bytes belong to no revision.
    Unused {
        /// `org/name`.
        model: String,
        /// How many.
        bytes: u64,
    },
    /// A branch or tag names a commit that is not there.
    Dangling {
        /// `org/name`.
        model: String,
        /// The branch or tag.
        name: String,
    },
    /// Another process is fetching a file now.
    Busy {
        /// `org/name`.
        model: String,
    },
    /// Locks are left of a model that is gone.
    StaleLocks {
        /// `org/name`.
        model: String,
    },
}

impl Cache {
    /// Looks for what is not in order. Nothing is changed, but for a file that is made and removed to see whether that is possible.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn health(&self) -> Result<Health> {
        let models = self.list()?;
        let mut health =
            Health { models: models.len(), bytes: models.iter().map(|model| model.bytes).sum(), ailments: Vec::new() };
        if self.root().is_dir() {
            health.ailments.extend(self.try_to_write());
        }
        for model in models {
            let repo = RepoId::parse(&model.name)?;
            let busy = self.is_busy(&repo);
            let named = || model.name.clone();
            if busy {
                health.ailments.push(Ailment::Busy { model: named() });
            }
            for revision in &model.revisions {
                let linked = |file: &String| revision.files.iter().any(|(name, _)| name == file);
                let (broken, absent): (Vec<_>, Vec<_>) = revision.missing.iter().cloned().partition(linked);
                if !broken.is_empty() {
                    health.ailments.push(Ailment::Broken { model: named(), files: broken });
                }
                if !absent.is_empty() {
                    health.ailments.push(Ailment::Incomplete { model: named(), files: absent });
                }
            }
            let folder = self.folder(&repo);
            let lost = folder.all_refs().into_iter().filter(|(_, commit)| !folder.snapshot(commit).is_dir());
            health.ailments.extend(lost.map(|(name, _)| Ailment::Dangling { model: named(), name }));
            if model.partial > 0 && !busy {
                health.ailments.push(Ailment::Partial { model: named(), bytes: model.partial });
            }
            let unused: u64 = unused_blobs(&folder).iter().map(|(_, bytes)| bytes).sum();
            let unused = unused.saturating_sub(model.partial);
            if unused > 0 && !busy {
                health.ailments.push(Ailment::Unused { model: named(), bytes: unused });
            }
        }
        health.ailments.extend(self.stale_locks());
        Ok(health)
    }

    fn try_to_write(&self) -> Option<Ailment> {
        let file = self.root().join(format!(".mlxengine-{}", std::process::id()));
        let written = fs::write(&file, "").and_then(|()| fs::remove_file(&file)).during("write to", self.root());
        written.err().map(|error| Ailment::ReadOnly { why: error.message() })
    }

    /// Whether another process holds the lock of one of its files.
    fn is_busy(&self, repo: &RepoId) -> bool {
        let locks = files_below(&self.folder(repo).locks);
        // Where a lock cannot even be opened, nobody fetches.
        locks.iter().any(|(_, path)| lock::try_lock(path).is_ok_and(|lock| lock.is_none()))
    }

    fn stale_locks(&self) -> Vec<Ailment> {
        let entries = fs::read_dir(self.root().join(".locks")).into_iter().flatten().flatten();
        let mut repos: Vec<RepoId> =
            entries.filter_map(|entry| RepoId::of_folder(entry.file_name().to_str()?)).collect();
        repos.sort();
        let gone = repos.into_iter().filter(|repo| {
            let folder = self.folder(repo);
            !folder.path.is_dir() && !files_below(&folder.locks).is_empty()
        });
        gone.map(|repo| Ailment::StaleLocks { model: repo.to_string() }).collect()
    }
}
