//! Models of other engines: GGUF files become MLX checkpoints.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use mlxengine_engine::{EngineError, ErrorKind, Result};
use mlxengine_models::gguf::Model;
use mlxengine_tensor::gguf::File;

pub use mlxengine_models::gguf::{Inexact, Progress, Report, is_gguf};

/// Writes the model of a GGUF file as an MLX checkpoint into a new directory, and says what was lost. Floats, Q4_0, Q4_1, Q5_0,
/// Q5_1, Q8_0 and MXFP4 stay what they are. Memory stays small; until all is written, the directory does not exist.
///
/// # Errors
/// If the file is damaged, or has an architecture, tokenizer, encoding or key that is not known; if the directory exists or
/// cannot be written; if `progress` says to stop.
pub fn import(file: &Path, directory: &Path, progress: impl FnMut(Progress) -> ControlFlow<()>) -> Result<Report> {
    write(&open(file)?, file, directory, progress)
}

/// The checkpoint of a GGUF file in a directory of such, written now if it is not there. A file that changes is another file.
///
/// # Errors
/// Those of [`import`].
pub fn imported(
    file: &Path,
    imports: &Path,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<(PathBuf, Option<Report>)> {
    let opened = open(file)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let directory = imports.join(format!("{stem}-{:016x}", fingerprint(file, &opened)?));
    if directory.is_dir() {
        return Ok((directory, None));
    }
    match write(&opened, file, &directory, progress) {
        Ok(report) => Ok((directory, Some(report))),
        // Another process was faster.
        Err(_) if directory.is_dir() => Ok((directory, None)),
        Err(error) => Err(error),
    }
}

fn open(file: &Path) -> Result<File> {
    File::open(file).map_err(|e| mlxengine_models::Error::from(e).into())
}

fn write(
    opened: &File,
    file: &Path,
    directory: &Path,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report> {
    let report = Model::read(opened).and_then(|model| model.write(directory, progress));
    report.map_err(EngineError::from).map_err(|e| match e.kind() {
        ErrorKind::Cancelled | ErrorKind::Io | ErrorKind::InvalidParameter => e,
        _ => e.in_context(format!("cannot import {}", file.display())),
    })
}

/// What tells two files, or two states of one, apart: size, time of the last change, everything before the weights.
fn fingerprint(file: &Path, opened: &File) -> Result<u64> {
    let unreadable = |e: std::io::Error| {
        EngineError::new(ErrorKind::Io, format!("cannot read {}: {e}", file.display())).with_source(e)
    };
    let metadata = std::fs::metadata(file).map_err(unreadable)?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let numbers = [metadata.len().to_le_bytes(), (changed.as_nanos() as u64).to_le_bytes()];
    // FNV-1a: it has to tell files of one user apart, not to withstand anybody.
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    Ok(numbers.as_flattened().iter().chain(opened.header()).fold(0xcbf2_9ce4_8422_2325, hash))
}
