//! The GGUF format: metadata by key, and tensors in blocks of many encodings.

mod blocks;
mod convert;
mod encoding;
mod reader;

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use crate::{Bytes, FileError, Shape};

pub use blocks::{GROUP, decode, groups};
pub use convert::{Deviation, Rows, Stored, convert};
pub use encoding::Encoding;

/// The first bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// A value of the metadata. Integers keep their sign, not their width.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Unsigneds(Vec<u64>),
    Signeds(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

/// A tensor of the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Its shape; the last axis is contiguous, and a whole number of blocks long.
    pub shape: Shape,
    /// Where its blocks lie in the file.
    pub range: Range<usize>,
}

/// What a file says about itself before its tensors begin.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Keys and values, in the file's order.
    pub metadata: Vec<(String, Value)>,
    /// The tensors, in the file's order.
    pub tensors: Vec<TensorInfo>,
    /// Bytes of all this, before the first tensor's.
    pub header: usize,
}

impl Layout {
    /// Reads everything but the tensors' numbers, from the bytes of the whole file.
    ///
    /// # Errors
    /// A file that is cut, damaged or contradicts itself; an encoding that is not read; a big-endian file.
    pub fn parse(bytes: &[u8]) -> Result<Layout, FileError> {
        reader::layout(bytes)
    }

    /// A value by its key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// A tensor by its name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// A GGUF file whose tensors stay where they lie.
#[derive(Clone, Debug)]
pub struct File {
    layout: Layout,
    bytes: Bytes,
}

impl File {
    /// Maps a file and reads what comes before its tensors.
    ///
    /// # Errors
    /// Those of [`Layout::parse`] and of the operating system, with the file's name.
    pub fn open(path: &Path) -> Result<File, FileError> {
        File::from_bytes(Bytes::map(path)?, path.display())
    }

    /// Reads bytes at hand; `name` is how errors call them.
    ///
    /// # Errors
    /// Those of [`Layout::parse`].
    pub fn from_bytes(bytes: Bytes, name: impl Display) -> Result<File, FileError> {
        let layout = Layout::parse(&bytes).map_err(|e| FileError::new(format!("cannot read {name}: {e}")))?;
        Ok(File { layout, bytes })
    }

    /// What the file says about itself.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The bytes before the tensors.
    pub fn header(&self) -> &[u8] {
        &self.bytes[..self.layout.header]
    }

    /// The blocks of a tensor of this file.
    pub fn blocks(&self, tensor: &TensorInfo) -> &[u8] {
        &self.bytes[tensor.range.clone()]
    }
}
