//! The file in which a token is kept, the same that Python's `hf auth login` writes.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::config::Token;
use crate::error::{During, Result};

/// The token in a file, if there is one.
#[must_use]
pub fn read_token(path: &Path) -> Option<Token> {
    Token::new(&fs::read_to_string(path).ok()?)
}

/// Keeps a token in a file that nobody else may read.
///
/// # Errors
/// If it cannot be written.
pub fn write_token(path: &Path, token: &Token) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).during("make the folder", folder)?;
    }
    // A new file takes its place: one that others may read, or have open, is not written into.
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = Path::new(&new);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let _ = fs::remove_file(new);
    let written = options.open(new).and_then(|mut file| file.write_all(token.reveal().as_bytes()));
    written.during("write", new)?;
    fs::rename(new, path).during("write", path)
}

/// Forgets the token, and says whether there was one.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_token(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        other => other.during("remove", path).map(|()| true),
    }
}
