//! The one place that maps files into memory.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::FileError;

/// Maps a file read-only. An empty file gives `None`, because it cannot be mapped.
pub(crate) fn map(path: &Path) -> Result<Option<Mmap>, FileError> {
    let fail = |e: std::io::Error| FileError::io(format!("cannot read {}: {e}", path.display()), e);
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(FileError::new(format!("cannot read {}: it is not a file", path.display())));
    }
    if metadata.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the mapping is read-only and private to this process. Another process that cuts the file short while it is
    // mapped would make later reads fault; checkpoints are written once and renamed into place, and every engine that
    // maps weights rests on that.
    let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
    Ok(Some(map))
}
