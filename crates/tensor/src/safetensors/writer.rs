//! Writing a safetensors file piece by piece, so that no tensor has to be in memory whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::dtype_on_disk;
use crate::{FileError, Spec};

/// A safetensors file under construction: its header is written, its tensors' bytes come in any order.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    /// Where each tensor begins, and how many bytes it has.
    places: BTreeMap<String, (u64, usize)>,
}

impl Writer {
    /// Creates the file with room for these tensors. They are laid out as the format's own library does: wide elements first, then
    /// by name.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path, tensors: &[(String, Spec)], metadata: &[(&str, &str)]) -> Result<Writer, FileError> {
        let mut order: Vec<&(String, Spec)> = tensors.iter().collect();
        order.sort_by(|(a, x), (b, y)| dtype_on_disk(y.dtype).cmp(&dtype_on_disk(x.dtype)).then(a.cmp(b)));
        let (mut header, mut end) = (Map::new(), 0);
        let metadata: Map<String, Value> =
            metadata.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
        header.insert("__metadata__".to_owned(), metadata.into());
        let mut places = BTreeMap::new();
        for (name, spec) in order {
            let (start, bytes) = (end, spec.bytes());
            end += bytes as u64;
            let entry = json!({"dtype": spec.dtype.name(), "shape": spec.shape.to_vec(), "data_offsets": [start, end]});
            header.insert(name.clone(), entry);
            places.insert(name.clone(), (start, bytes));
        }
        let mut header = Value::from(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let first = 8 + header.len() as u64;
        places.values_mut().for_each(|(start, _)| *start += first);
        let fail = |e| fail(path, e);
        let mut file = File::create(path).map_err(fail)?;
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(fail)?;
        file.write_all(&header).map_err(fail)?;
        file.set_len(first + end).map_err(fail)?;
        Ok(Writer { path: path.to_owned(), file, places })
    }

    /// Writes bytes of a tensor from its byte `offset` on.
    ///
    /// # Panics
    /// If there is no such tensor, or they are not inside of it.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn write(&mut self, tensor: &str, offset: usize, bytes: &[u8]) -> Result<(), FileError> {
        let (start, size) = self.places[tensor];
        assert!(offset + bytes.len() <= size, "bytes {offset}.. of `{tensor}`, which has {size}");
        let written = self.file.seek(SeekFrom::Start(start + offset as u64)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|e| fail(&self.path, e))
    }

    /// Waits until all of it is on the disk.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn finish(self) -> Result<(), FileError> {
        self.file.sync_all().map_err(|e| fail(&self.path, e))
    }
}

fn fail(path: &Path, error: std::io::Error) -> FileError {
    FileError::io(format!("cannot write {}: {error}", path.display()), error)
}
