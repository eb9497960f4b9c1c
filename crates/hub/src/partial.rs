//! A file that has come in part.
//!
//! `BLOB.incomplete` always holds the first bytes of the file and nothing else, so its length says how far it is, whoever
//! wrote it and however that ended. Ranges that come before their turn wait in files of their own, `BLOB.incomplete.START`,
//! of which the same holds, and are appended in order. So nothing needs a journal, and bytes are hashed as they are appended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{During, Result};
use crate::hash::{Hasher, hash_file, read_into};
use crate::name::BlobId;

/// The first bytes of a file.
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    pub(crate) side: Side,
    /// How many bytes there are.
    pub(crate) len: u64,
    hasher: Option<Hasher>,
}

impl Partial {
    /// What is there of a blob; more than `size` bytes are not of it.
    pub(crate) fn open(blob_path: &Path, blob: &BlobId, size: Option<u64>) -> Result<Self> {
        let path = with_end(blob_path, ".incomplete");
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).during("open", &path)?;
        if size.is_some_and(|size| file.metadata().is_ok_and(|known| known.len() > size)) {
            file.set_len(0).during("write", &path)?;
        }
        // The hash of git begins with the size, so without one it is made at the end.
        let mut hasher = size.and_then(|size| Hasher::new(blob, size));
        let mut len = 0;
        read_into(&mut file, |bytes| {
            if let Some(hasher) = &mut hasher {
                hasher.update(bytes);
            }
            len += bytes.len() as u64;
            Ok(())
        })
        .during("read", &path)?;
        let side = Side { first: path.clone() };
        let mut partial = Self { path, file, side, len, hasher };
        partial.absorb(size)?;
        Ok(partial)
    }

    /// Appends ranges that go on where the first bytes end, and removes those that are contained.
    fn absorb(&mut self, size: Option<u64>) -> Result<()> {
        let mut parts = parts(&self.path);
        parts.sort();
        for (start, path) in parts {
            let end = start + fs::metadata(&path).during("read", &path)?.len();
            if size.is_some_and(|size| end > size) || end <= self.len {
                fs::remove_file(&path).during("remove", &path)?;
            } else if start <= self.len {
                self.append_part(start, &path)?;
            }
        }
        Ok(())
    }

    /// Appends bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).during("write", &self.path)?;
        self.len += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }

    /// Appends a range, from where the bytes here end, and removes it.
    pub(crate) fn append_part(&mut self, start: u64, part: &Path) -> Result<()> {
        let mut file = File::open(part).during("read", part)?;
        file.seek(SeekFrom::Start(self.len - start)).during("read", part)?;
        let mut failed = None;
        let read = read_into(&mut file, |bytes| {
            self.append(bytes).map_err(|error| {
                failed = Some(error);
                io::Error::other("not written")
            })
        });
        failed.map_or(Ok(()), Err)?;
        read.during("read", part)?;
        fs::remove_file(part).during("remove", part)
    }

    /// Throws everything away.
    pub(crate) fn discard(&mut self, blob: &BlobId, size: Option<u64>) -> Result<()> {
        self.file.set_len(0).during("write", &self.path)?;
        self.len = 0;
        self.hasher = size.and_then(|size| Hasher::new(blob, size));
        self.side.remove()
    }

    /// What the bytes are, in the manner of `blob`.
    pub(crate) fn hash(&mut self, blob: &BlobId) -> Result<Option<BlobId>> {
        match self.hasher.take() {
            Some(hasher) => Ok(Some(hasher.finish())),
            None => hash_file(&self.path, blob).during("read", &self.path),
        }
    }

    /// Gives the file its name, once its bytes are on the disk.
    pub(crate) fn complete(self, blob_path: &Path) -> Result<()> {
        self.file.sync_all().during("write", &self.path)?;
        self.side.remove()?;
        drop(self.file);
        fs::rename(&self.path, blob_path).during("write", blob_path)?;
        // The name has to be on the disk as well; where folders cannot be opened, the system sees to it.
        if let Some(Ok(folder)) = blob_path.parent().map(File::open) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// Removes the file, which is known to be bad.
    pub(crate) fn remove(self) -> Result<()> {
        self.side.remove()?;
        drop(self.file);
        remove(&self.path)
    }
}

/// What lies beside the first bytes.
#[derive(Clone)]
pub(crate) struct Side {
    first: PathBuf,
}

impl Side {
    /// The file of the range that begins at `start`.
    pub(crate) fn part(&self, start: u64) -> PathBuf {
        with_end(&self.first, &format!(".{start}"))
    }

    /// By which word of the server the bytes are known to go together, if it gave one.
    pub(crate) fn tag(&self) -> Option<String> {
        fs::read_to_string(self.tag_path()).ok().filter(|tag| !tag.is_empty())
    }

    /// Remembers the server's word, for other processes too.
    pub(crate) fn set_tag(&self, tag: Option<&str>) -> Result<()> {
        let path = self.tag_path();
        match tag.filter(|tag| is_strong(tag)) {
            Some(tag) => fs::write(&path, tag).during("write", &path),
            None => remove(&path),
        }
    }

    fn tag_path(&self) -> PathBuf {
        with_end(&self.first, ".etag")
    }

    fn remove(&self) -> Result<()> {
        for (_, part) in parts(&self.first) {
            remove(&part)?;
        }
        remove(&self.tag_path())
    }
}

/// Bytes of a blob that are here, in one piece or several.
pub(crate) fn here(blob_path: &Path) -> u64 {
    let len = |path: &Path| fs::metadata(path).map_or(0, |known| known.len());
    let first = with_end(blob_path, ".incomplete");
    len(&first) + parts(&first).iter().map(|(_, part)| len(part)).sum::<u64>()
}

/// The ranges beside the first bytes.
fn parts(first: &Path) -> Vec<(u64, PathBuf)> {
    let (Some(folder), Some(name)) = (first.parent(), first.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let start = |entry: &fs::DirEntry| entry.file_name().to_str()?.strip_prefix(name)?.strip_prefix('.')?.parse().ok();
    entries.filter_map(|entry| Some((start(&entry)?, entry.path()))).collect()
}

/// Whether a tag promises the same bytes and not only the same meaning.
fn is_strong(tag: &str) -> bool {
    tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"')
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during("remove", path),
        _ => Ok(()),
    }
}
