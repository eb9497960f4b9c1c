//! Hashes of files, as their names among the blobs promise them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::name::BlobId;

/// A hash in the making.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    /// The hash that a blob's name promises of `size` bytes; none if it promises nothing.
    pub(crate) fn new(blob: &BlobId, size: u64) -> Option<Self> {
        match blob {
            BlobId::Sha256(_) => Some(Hasher::Sha256(Sha256::new())),
            BlobId::Git(_) => Some(Hasher::Git(Sha1::new_with_prefix(format!("blob {size}\0")))),
            BlobId::Opaque(_) => None,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Git(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> BlobId {
        match self {
            Hasher::Sha256(hasher) => BlobId::Sha256(hex(&hasher.finalize())),
            Hasher::Git(hasher) => BlobId::Git(hex(&hasher.finalize())),
        }
    }
}

/// What the bytes of a file are, in the manner of `blob`; none if that promises nothing.
pub(crate) fn hash_file(path: &Path, blob: &BlobId) -> io::Result<Option<BlobId>> {
    let mut file = File::open(path)?;
    let Some(mut hasher) = Hasher::new(blob, file.metadata()?.len()) else { return Ok(None) };
    read_into(&mut file, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(Some(hasher.finish()))
}

/// The SHA-256 of a text, for names of things that have none.
pub(crate) fn hash_text(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Hands the rest of a reader to `each`, piece by piece.
pub(crate) fn read_into(from: &mut impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => each(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_lfs() {
        let hash = |blob: BlobId| {
            let mut hasher = Hasher::new(&blob, 6).unwrap();
            hasher.update(b"hello\n");
            hasher.finish()
        };
        // `printf 'hello\n' | git hash-object --stdin` and `| sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(hash(BlobId::Git(String::new())), BlobId::Git(git.into()));
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(hash(BlobId::Sha256(String::new())), BlobId::Sha256(sha.into()));
        assert_eq!(hash_text("hello\n"), sha);
    }
}
