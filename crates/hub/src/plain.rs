//! Models in folders of plain files: unpacked, converted, or fetched by Python with `local_dir`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cache::missing;
use crate::error::{During, HubError, Result};
use crate::hash::{hash_file, hash_text};
use crate::layout::files_below;
use crate::name::BlobId;
use crate::progress::Cancel;
use crate::verify::{Checked, Condition};

/// A folder of plain files that is a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainFolder {
    path: PathBuf,
}

impl PlainFolder {
    /// The model in this folder.
    ///
    /// # Errors
    /// If the folder has no model's configuration.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if path.join("config.json").is_file() || path.join("model_index.json").is_file() {
            return Ok(Self { path });
        }
        let what = format!("{} is no model: it has no config.json", path.display());
        Err(HubError::invalid(what, "give the folder of a model, or its name"))
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its files with their paths from there, in order. What is hidden belongs to the tools that put it there.
    #[must_use]
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        let mut files = files_below(&self.path);
        files.retain(|(name, _)| !name.split('/').any(|part| part.starts_with('.')));
        files
    }

    /// Reads every file whose hash is known from Python's notes, and compares; of other weights it checks that none of their bytes
    /// is missing. `each` hears of each file.
    ///
    /// # Errors
    /// If a file cannot be read, or `cancel` stops it.
    pub fn verify(&self, each: &mut dyn FnMut(&Checked), cancel: &Cancel) -> Result<Vec<Checked>> {
        let mut all = Vec::new();
        let files = self.files();
        let absent = missing(&self.path).into_iter().filter(|name| !files.iter().any(|(file, _)| file == name));
        let absent: Vec<(String, PathBuf)> = absent.map(|name| (name.clone(), self.path.join(name))).collect();
        for (file, path) in files.iter().chain(&absent) {
            if cancel.is_cancelled() {
                return Err(HubError::Cancelled);
            }
            let condition = if path.is_file() { self.condition(file, path)? } else { Condition::Missing };
            let checked = Checked { commit: String::new(), file: file.clone(), condition };
            each(&checked);
            all.push(checked);
        }
        Ok(all)
    }

    fn condition(&self, file: &str, path: &Path) -> Result<Condition> {
        if let Some(blob) = self.noted(file) {
            return Ok(match hash_file(path, &blob).during("read", path)? {
                Some(found) if found != blob => Condition::Bad { expected: blob.to_string(), found: found.to_string() },
                Some(_) => Condition::Good,
                None => Condition::Unknown,
            });
        }
        let there = fs::metadata(path).during("read", path)?.len();
        Ok(match promised_length(path) {
            Some(promised) if file.ends_with(".safetensors") && promised != there => {
                Condition::Bad { expected: format!("{promised} bytes"), found: format!("{there} bytes") }
            }
            _ => Condition::Unknown,
        })
    }

    /// What Python noted when it fetched a file: the commit, the hash, the time, a line each.
    fn noted(&self, file: &str) -> Option<BlobId> {
        let notes = self.path.join(".cache/huggingface/download").join(format!("{file}.metadata"));
        let text = fs::read_to_string(notes).ok()?;
        BlobId::parse(text.lines().nth(1)?).filter(|blob| !matches!(blob, BlobId::Opaque(_)))
    }
}

/// The length of a file in the format safetensors, by its own header: its length, the header, the last tensor's end.
fn promised_length(path: &Path) -> Option<u64> {
    /// The format allows no longer header.
    const LONGEST: u64 = 100_000_000;
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    let mut header = Vec::new();
    file.take(length.min(LONGEST)).read_to_end(&mut header).ok()?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    let ends = header.as_object()?.iter().filter(|(name, _)| *name != "__metadata__");
    let end = ends.map(|(_, tensor)| tensor["data_offsets"][1].as_u64()).collect::<Option<Vec<u64>>>()?;
    (8 + length).checked_add(end.into_iter().max().unwrap_or(0))
}

/// A commit for files that have none: it is another if any name or byte is.
pub(crate) fn commit_of(files: &[(String, BlobId)]) -> String {
    let lines: String = files.iter().map(|(name, blob)| format!("{name}\n{blob}\n")).collect();
    hash_text(&lines)[..40].to_owned()
}
