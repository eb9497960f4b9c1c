//! Read-only bytes that tensors share: a mapped file, a part of the program itself, or memory.

use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::{FileError, mapped};

/// Shared read-only bytes; cloning and slicing copy nothing.
#[derive(Clone)]
pub struct Bytes {
    source: Source,
    range: Range<usize>,
}

#[derive(Clone)]
enum Source {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// Maps a file; its bytes are read from disk only when they are used.
    pub fn map(path: &Path) -> Result<Self, FileError> {
        Ok(match mapped::map(path)? {
            Some(map) => Self { range: 0..map.len(), source: Source::Mapped(Arc::new(map)) },
            None => Self::from_static(&[]),
        })
    }

    /// Bytes that are part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { source: Source::Static(bytes), range: 0..bytes.len() }
    }

    /// A part of these bytes.
    ///
    /// # Panics
    /// If the range is not inside.
    #[track_caller]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        Self { source: self.source.clone(), range: self.range.start + range.start..self.range.start + range.end }
    }

    /// Whether these bytes are a file's pages, which the operating system can drop and read again.
    pub fn is_mapped(&self) -> bool {
        matches!(self.source, Source::Mapped(_))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { range: 0..bytes.len(), source: Source::Owned(Arc::new(bytes)) }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.source {
            Source::Mapped(map) => map,
            Source::Static(bytes) => bytes,
            Source::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.source {
            Source::Mapped(_) => "mapped",
            Source::Static(_) => "static",
            Source::Owned(_) => "owned",
        };
        write!(f, "{} {kind} bytes", self.len())
    }
}
