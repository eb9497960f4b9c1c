//! Locks between processes, at the places where `huggingface_hub` has them: `.locks/models--org--name/BLOB.lock`.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::error::{During, Result};
use crate::http::sleep;
use crate::progress::Cancel;

/// How often one who waits looks again.
const LOOK: Duration = Duration::from_millis(50);

/// A lock that is held until it is dropped, or the process ends, however it ends. Its file stays: without it, two who wait
/// could hold locks on different files of one name.
pub(crate) struct Lock {
    _file: Option<File>,
}

/// Takes the lock, and says through `waiting` once if another holds it.
pub(crate) async fn lock(path: &Path, cancel: &Cancel, waiting: impl Fn()) -> Result<Lock> {
    let mut said = false;
    loop {
        if let Some(lock) = try_lock(path)? {
            return Ok(lock);
        }
        if !std::mem::replace(&mut said, true) {
            waiting();
        }
        sleep(LOOK, cancel).await?;
    }
}

/// Takes the lock if nobody holds it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<Lock>> {
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = match file {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(path);
                std::fs::create_dir_all(folder).during("make the folder", folder)?;
                continue;
            }
            other => other.during("open", path)?,
        };
        match file.try_lock() {
            // Somebody may have removed the file between; then this is a lock on nothing.
            Ok(()) if !is_at(&file, path) => {}
            Ok(()) => return Ok(Some(Lock { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => return Ok(None),
            // A file system without locks: the names of files are still right, since they are given at the end.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                return Ok(Some(Lock { _file: None }));
            }
            Err(TryLockError::Error(error)) => return Err(error).during("lock", path),
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| a.ino() == b.ino() && a.dev() == b.dev();
    matches!((file.metadata(), std::fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    // An open file cannot be removed there.
    true
}
