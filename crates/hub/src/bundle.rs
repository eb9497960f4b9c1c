//! Models on the way to machines without a network: one file that holds all files of a revision, verified at both ends.
//!
//! A bundle is a tar archive. Its first member, `mlxengine-bundle.json`, names every file with its size and the hash of its
//! bytes, as blobs are named; the files follow in that order below `files/`.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::download::Snapshot;
use crate::error::{During, HubError, Result};
use crate::fetch::whole;
use crate::hash::{Hasher, hash_file, read_into};
use crate::http::block_on;
use crate::layout::{Folder, files_below, make_cache};
use crate::lock;
use crate::name::{BlobId, RepoId, check_file, check_revision, is_commit};
use crate::partial::Partial;
use crate::plain::{PlainFolder, commit_of};
use crate::progress::Cancel;

const CONTENTS: &str = "mlxengine-bundle.json";
/// A table of contents is not longer.
const LONGEST: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    repo: String,
    revision: String,
    commit: String,
    files: Vec<Member>,
}

#[derive(Serialize, Deserialize)]
struct Member {
    name: String,
    size: u64,
    blob: String,
}

/// Hears of the bytes that are done, and of all.
pub type Bytes<'a> = &'a mut dyn FnMut(u64, u64);

/// Whether a file is a bundle, by its first bytes.
#[must_use]
pub fn is_bundle(path: &Path) -> bool {
    let mut start = [0; CONTENTS.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *CONTENTS.as_bytes()
}

/// What the bytes of a file are: its blob's name where that is a hash, else their SHA-256.
pub(crate) fn identify(path: &Path) -> Result<BlobId> {
    match crate::models::blob_of(path) {
        Some(blob) if !matches!(blob, BlobId::Opaque(_)) => Ok(blob),
        _ => {
            let hash = hash_file(path, &BlobId::Sha256(String::new())).during("read", path)?;
            Ok(hash.unwrap_or_else(|| BlobId::Opaque("none".to_owned())))
        }
    }
}

/// Writes a model's files into one file, `to`. Each is verified on the way; if one is damaged, nothing is left.
///
/// # Errors
/// If a file is damaged, or cannot be read or written, or `cancel` stops it.
pub fn export(
    repo: &RepoId,
    revision: &str,
    from: &Snapshot,
    to: &Path,
    bytes: Bytes<'_>,
    cancel: &Cancel,
) -> Result<()> {
    let contents = Contents::new(repo, revision, &from.commit);
    pack(contents, files_below(&from.path), to, bytes, cancel)
}

impl PlainFolder {
    /// Writes its files into one file, `to`, as [`export`] does.
    ///
    /// # Errors
    /// If a file cannot be read or written, or `cancel` stops it.
    pub fn export(&self, name: &RepoId, to: &Path, bytes: Bytes<'_>, cancel: &Cancel) -> Result<()> {
        pack(Contents::new(name, "main", ""), self.files(), to, bytes, cancel)
    }
}

impl Contents {
    fn new(repo: &RepoId, revision: &str, commit: &str) -> Self {
        let (repo, revision, commit) = (repo.to_string(), revision.to_owned(), commit.to_owned());
        Self { format: 1, repo, revision, commit, files: Vec::new() }
    }
}

/// Writes the files; contents without a commit get that of the files.
fn pack(
    mut contents: Contents,
    files: Vec<(String, PathBuf)>,
    to: &Path,
    bytes: Bytes<'_>,
    cancel: &Cancel,
) -> Result<()> {
    let mut known = Vec::new();
    for (name, path) in &files {
        check_file(name)?;
        let size = fs::metadata(path).during("read", path)?.len();
        let blob = identify(path)?;
        contents.files.push(Member { name: name.clone(), size, blob: blob.as_str().to_owned() });
        known.push((name.clone(), blob));
    }
    if contents.commit.is_empty() {
        contents.commit = commit_of(&known);
    }
    let paths: Vec<PathBuf> = files.into_iter().map(|(_, path)| path).collect();
    let mut new = to.as_os_str().to_owned();
    new.push(".incomplete");
    let new = PathBuf::from(new);
    let written = write_bundle(&contents, &paths, &new, bytes, cancel);
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written?;
    fs::rename(&new, to).during("write", to)
}

fn write_bundle(contents: &Contents, paths: &[PathBuf], to: &Path, bytes: Bytes<'_>, cancel: &Cancel) -> Result<()> {
    let file = File::create(to).during("write", to)?;
    let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    let text = serde_json::to_vec_pretty(contents).map_err(io::Error::from).during("write", to)?;
    let header = |size| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header
    };
    archive.append_data(&mut header(text.len() as u64), CONTENTS, &*text).during("write", to)?;
    let total = contents.files.iter().map(|member| member.size).sum();
    let mut done = 0;
    for (member, path) in contents.files.iter().zip(paths) {
        let blob = BlobId::parse(&member.blob).ok_or_else(|| damaged(&member.name, "a hash", &member.blob))?;
        let source = File::open(path).during("read", path)?;
        let mut source = Hashing {
            source,
            hasher: Hasher::new(&blob, member.size),
            failed: None,
            each: &mut |count| {
                done += count;
                bytes(done, total);
                !cancel.is_cancelled()
            },
        };
        let name = format!("files/{}", member.name);
        let appended = archive.append_data(&mut header(member.size), name, &mut source);
        if cancel.is_cancelled() {
            return Err(HubError::Cancelled);
        }
        if let Some(error) = source.failed.take() {
            return Err(error).during("read", path);
        }
        let found = source.hasher.take().map(Hasher::finish);
        appended.during("write", to)?;
        if let Some(found) = found.filter(|found| *found != blob) {
            let what = format!("{} in the cache is damaged: {blob} was promised, {found} is there", member.name);
            return Err(HubError::invalid(
                what,
                format!("repair it with `mlxengine verify --repair {}`", contents.repo),
            ));
        }
    }
    let file = archive.into_inner().and_then(|writer| writer.into_inner().map_err(io::IntoInnerError::into_error));
    file.and_then(|file| file.sync_all()).during("write", to)
}

/// A reader that hashes what passes.
struct Hashing<'a> {
    source: File,
    hasher: Option<Hasher>,
    failed: Option<io::Error>,
    /// Hears how many bytes passed, and says whether to go on.
    each: &'a mut dyn FnMut(u64) -> bool,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer) {
            Ok(count) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&buffer[..count]);
                }
                if (self.each)(count as u64) { Ok(count) } else { Err(io::Error::other("cancelled")) }
            }
            Err(error) => {
                // Told apart from errors of writing.
                self.failed = Some(io::Error::new(error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}

fn damaged(file: &str, expected: &str, found: &str) -> HubError {
    HubError::invalid(
        format!("the bundle is damaged at {file}: {expected} was promised, {found} came"),
        "copy it again from where it was made",
    )
}

impl Cache {
    /// Takes a bundle in. Each file gets its name only if its bytes are those that were promised.
    ///
    /// # Errors
    /// If it is no bundle, is damaged, or does not fit.
    pub fn import(&self, from: &Path, bytes: Bytes<'_>, cancel: &Cancel) -> Result<(RepoId, Snapshot)> {
        let no_bundle = |why: &str| {
            let what = format!("{} is no whole bundle of a model: {why}", from.display());
            HubError::invalid(what, "make one with `mlxengine export`")
        };
        let file = File::open(from).during("read", from)?;
        let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, file));
        let mut entries = archive.entries().during("read", from)?;
        let first = entries.next().and_then(io::Result::ok);
        let mut first = first
            .filter(|entry| *entry.path_bytes() == *CONTENTS.as_bytes() && entry.size() <= LONGEST)
            .ok_or_else(|| no_bundle("it does not begin with a list of files"))?;
        let mut text = Vec::new();
        first.read_to_end(&mut text).during("read", from)?;
        let contents: Contents = serde_json::from_slice(&text).map_err(|error| no_bundle(&error.to_string()))?;
        if contents.format != 1 {
            return Err(no_bundle(&format!("it is of format {}, which is newer than this program", contents.format)));
        }
        let repo = RepoId::parse(&contents.repo)?;
        check_revision(&contents.revision)?;
        if !is_commit(&contents.commit) {
            return Err(no_bundle("it names no commit"));
        }
        let folder = self.folder(&repo);
        make_cache(self.root())?;
        let total = contents.files.iter().fold(0u64, |sum, member| sum.saturating_add(member.size));
        let free = fs4::available_space(self.root()).during("look at the disk of", self.root())?;
        if total > free {
            return Err(HubError::DiskFull { path: self.root().to_owned(), room: Some((total, free)) });
        }
        let mut done = 0;
        for member in &contents.files {
            check_file(&member.name)?;
            let mut entry = entries
                .next()
                .ok_or_else(|| no_bundle("it is cut short"))?
                .map_err(|error| no_bundle(&error.to_string()))?;
            let plain = entry.header().entry_type().is_file() && entry.size() == member.size;
            if !plain || *entry.path_bytes() != *format!("files/{}", member.name).as_bytes() {
                return Err(no_bundle(&format!("{} does not come in its turn", member.name)));
            }
            take_in(&folder, member, &mut entry, cancel)?;
            done += member.size;
            bytes(done, total);
        }
        for member in &contents.files {
            let blob = BlobId::parse(&member.blob).ok_or_else(|| damaged(&member.name, "a hash", &member.blob))?;
            folder.link(&contents.commit, &member.name, &blob)?;
        }
        folder.set_ref(&contents.revision, &contents.commit)?;
        Ok((repo, Snapshot { path: folder.snapshot(&contents.commit), commit: contents.commit }))
    }
}

/// Takes one file in.
fn take_in(folder: &Folder, member: &Member, from: &mut impl Read, cancel: &Cancel) -> Result<()> {
    let blob = BlobId::parse(&member.blob).filter(|blob| !matches!(blob, BlobId::Opaque(_)));
    let blob = blob.ok_or_else(|| damaged(&member.name, "a hash", &member.blob))?;
    let path = folder.blob(&blob);
    let lock_path = folder.lock(&blob);
    let _lock = block_on(|| async { lock::lock(&lock_path, cancel, || {}).await })?;
    if whole(&path, Some(member.size)).is_some() {
        return Ok(());
    }
    fs::create_dir_all(folder.blobs()).during("make the folder", &folder.path)?;
    let mut partial = Partial::open(&path, &blob, Some(member.size))?;
    partial.discard(&blob, Some(member.size))?;
    let mut failed = None;
    let read = read_into(from, |bytes| {
        let error = if cancel.is_cancelled() { Err(HubError::Cancelled) } else { partial.append(bytes) }.err();
        failed = error;
        if failed.is_some() { Err(io::Error::other("not written")) } else { Ok(()) }
    });
    failed.map_or(Ok(()), Err)?;
    let ended = read.is_err() || partial.len != member.size;
    let found = partial.hash(&blob)?;
    if ended || found.as_ref() != Some(&blob) {
        partial.remove()?;
        return Err(damaged(
            &member.name,
            &blob.to_string(),
            &found.map_or_else(String::new, |found| found.to_string()),
        ));
    }
    partial.complete(&path)
}
