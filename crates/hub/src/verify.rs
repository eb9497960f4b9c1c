//! Whether the bytes in the cache are still those that their names promise, and making them so.

use std::fs;

use crate::cache::Cache;
use crate::download::{ModelDownloader, Wanted};
use crate::error::{During, HubError, Result};
use crate::hash::hash_file;
use crate::layout::files_below;
use crate::models::blob_of;
use crate::name::{BlobId, RepoId, check_file};
use crate::progress::{Cancel, Listener};

/// What is found about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its bytes have the hash that they should have.
    Good,
    /// They have another.
    Bad {
        /// What they should be.
        expected: String,
        /// What they are.
        found: String,
    },
    /// The file is named, and not there.
    Missing,
    /// It is there, and nothing says what its bytes should be.
    Unknown,
}

/// A file of a revision, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The commit; empty for a folder of plain files.
    pub commit: String,
    /// The file.
    pub file: String,
    /// What was found.
    pub condition: Condition,
}

impl Checked {
    /// Whether something is wrong.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self.condition, Condition::Bad { .. } | Condition::Missing)
    }
}

impl Cache {
    /// Reads every file of a model's revisions, or of one, and compares hashes; `each` hears of each file.
    ///
    /// # Errors
    /// If there is no such model or revision, a file cannot be read, or `cancel` stops it.
    pub fn verify(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
        each: &mut dyn FnMut(&Checked),
        cancel: &Cancel,
    ) -> Result<Vec<Checked>> {
        let folder = self.folder(repo);
        let commits = match revision {
            None => folder.commits(),
            Some(revision) => folder.commit(revision).into_iter().filter(|c| folder.snapshot(c).is_dir()).collect(),
        };
        if commits.is_empty() {
            return Err(HubError::NotCached { repo: repo.to_string(), missing: Vec::new() });
        }
        let mut all = Vec::new();
        for commit in commits {
            let snapshot = folder.snapshot(&commit);
            for (file, path) in files_below(&snapshot) {
                if cancel.is_cancelled() {
                    return Err(HubError::Cancelled);
                }
                let condition = match (path.is_file(), blob_of(&path)) {
                    (false, _) => Condition::Missing,
                    (true, None | Some(BlobId::Opaque(_))) => Condition::Unknown,
                    (true, Some(blob)) => match hash_file(&path, &blob).during("read", &path)? {
                        Some(found) if found != blob => {
                            Condition::Bad { expected: blob.to_string(), found: found.to_string() }
                        }
                        _ => Condition::Good,
                    },
                };
                all.push(Checked { commit: commit.clone(), file, condition });
                each(all.last().expect("it was just put there"));
            }
            let named = crate::cache::missing(&snapshot).into_iter();
            let new = named.filter(|file| !all.iter().any(|known| known.commit == commit && known.file == *file));
            let lost: Vec<Checked> =
                new.map(|file| Checked { commit: commit.clone(), file, condition: Condition::Missing }).collect();
            lost.iter().for_each(&mut *each);
            all.extend(lost);
        }
        Ok(all)
    }
}

impl ModelDownloader {
    /// Fetches again what [`Cache::verify`] found bad, and nothing else. The rest stays as it is.
    ///
    /// # Errors
    /// Those of [`ModelDownloader::ensure`].
    pub fn repair(&self, repo: &RepoId, checked: &[Checked], listener: Listener<'_>, cancel: &Cancel) -> Result<()> {
        let folder = self.cache().folder(repo);
        let mut commits: Vec<&str> = checked.iter().filter(|file| file.is_bad()).map(|file| &*file.commit).collect();
        commits.dedup();
        if !commits.is_empty() && self.is_offline() {
            return Err(HubError::Offline { what: format!("repairing {repo}") });
        }
        for commit in commits {
            let bad: Vec<&Checked> = checked.iter().filter(|file| file.commit == commit && file.is_bad()).collect();
            for file in &bad {
                let path = crate::name::below(&folder.snapshot(commit), check_file(&file.file)?);
                let Some(blob) = blob_of(&path).filter(|_| matches!(file.condition, Condition::Bad { .. })) else {
                    continue;
                };
                match fs::remove_file(folder.blob(&blob)) {
                    // Two files with the same bytes have one blob.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => other.during("remove", &folder.blob(&blob))?,
                }
            }
            let names = bad.into_iter().map(|file| file.file.clone()).collect();
            self.ensure(repo, commit, &Wanted::Named(names), listener, cancel)?;
        }
        Ok(())
    }
}
