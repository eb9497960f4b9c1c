//! Where things are in a cache: the layout that `huggingface_hub` defined and all its users share.
//!
//! ```text
//! models--org--name/
//!   blobs/HASH                      the bytes, named by what they are
//!   blobs/HASH.incomplete           the first bytes of a file that is being fetched
//!   refs/main                       the commit that a branch or tag was when it was last fetched
//!   snapshots/COMMIT/config.json    links to blobs
//! .locks/models--org--name/HASH.lock
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{During, HubError, Result};
use crate::name::{BlobId, RepoId, below, is_commit};

/// A repository's folder in a cache.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub(crate) id: RepoId,
    pub(crate) path: PathBuf,
    pub(crate) locks: PathBuf,
}

impl Folder {
    pub(crate) fn new(cache: &Path, id: &RepoId) -> Self {
        let name = id.folder();
        Self { id: id.clone(), path: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    pub(crate) fn blob(&self, blob: &BlobId) -> PathBuf {
        self.blobs().join(blob.as_str())
    }

    pub(crate) fn lock(&self, blob: &BlobId) -> PathBuf {
        self.locks.join(format!("{}.lock", blob.as_str()))
    }

    pub(crate) fn refs(&self) -> PathBuf {
        self.path.join("refs")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.snapshots().join(commit)
    }

    /// The commit that a revision is, as far as the cache knows. A commit may be cut short, as git allows.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        let read = fs::read_to_string(below(&self.refs(), revision)).ok();
        let known = read.map(|text| text.trim().to_owned()).filter(|commit| is_plain(commit));
        known.or_else(|| {
            let hex = revision.len() >= 7 && revision.bytes().all(|b| b.is_ascii_hexdigit());
            let mut fits = self.commits().into_iter().filter(|commit| hex && commit.starts_with(revision));
            fits.next().filter(|_| fits.next().is_none())
        })
    }

    /// The commits that there are snapshots of.
    pub(crate) fn commits(&self) -> Vec<String> {
        let entries = fs::read_dir(self.snapshots()).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Branches and tags with the commits that they were, as in `("main", "0123…")`.
    pub(crate) fn all_refs(&self) -> Vec<(String, String)> {
        let read = |(name, path): (String, PathBuf)| Some((name, fs::read_to_string(path).ok()?.trim().to_owned()));
        files_below(&self.refs()).into_iter().filter_map(read).collect()
    }

    /// Says which commit a revision is. A commit needs no word for itself.
    pub(crate) fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = below(&self.refs(), revision);
        if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).during("make the folder", folder)?;
        let new = self.refs().join(passing_name(commit));
        fs::write(&new, commit).during("write", &new)?;
        fs::rename(&new, &path).during("write", &path)
    }

    /// Puts a file of a snapshot where it belongs: a link to its blob.
    pub(crate) fn link(&self, commit: &str, file: &str, blob: &BlobId) -> Result<()> {
        let snapshot = self.snapshot(commit);
        let path = below(&snapshot, file);
        let folder = path.parent().unwrap_or(&snapshot);
        fs::create_dir_all(folder).during("make the folder", folder)?;
        let real = |path: &Path| path.canonicalize().during("read", path);
        if !real(folder)?.starts_with(real(&snapshot)?) {
            return Err(HubError::HostileName { name: file.to_owned(), why: "a link leads out of its folder" });
        }
        let depth = file.split('/').count() + 1;
        let target: PathBuf = std::iter::repeat_n("..", depth).chain(["blobs", blob.as_str()]).collect();
        if fs::read_link(&path).is_ok_and(|known| known == target) {
            return Ok(());
        }
        let new = folder.join(passing_name(blob.as_str()));
        let _ = fs::remove_file(&new);
        link(&target, &self.blob(blob), &new).during("link", &path)?;
        fs::rename(&new, &path).during("link", &path)
    }
}

/// A name for what is about to get its own: one that no other process has, nor another thread of this one.
fn passing_name(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!(".{}-{}.{what}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(unix)]
fn link(target: &Path, _: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Links need a permission there that few have: a second name for the same bytes, or a copy, does as well.
#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(|_| ()))
}

/// Whether a text that should be a commit can be the name of a folder.
fn is_plain(commit: &str) -> bool {
    is_commit(commit) || (!commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// All files below a folder with their paths from there, with slashes. Links to folders are not followed.
pub(crate) fn files_below(folder: &Path) -> Vec<(String, PathBuf)> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<(String, PathBuf)>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), &name, found);
            } else {
                found.push((name, entry.path()));
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}

/// Makes a cache's folder, and says in it that backups may leave it out.
pub(crate) fn make_cache(root: &Path) -> Result<()> {
    fs::create_dir_all(root).during("make the folder", root)?;
    let tag = root.join("CACHEDIR.TAG");
    if !tag.exists() {
        fs::write(&tag, "Signature: 8a477f597d28d172789f06886806bc55\n").during("write", &tag)?;
    }
    Ok(())
}
