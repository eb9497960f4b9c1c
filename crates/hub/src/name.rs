//! Names: of repositories, revisions, files and blobs. What comes from the net is hostile until it has passed here.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{HubError, Result};

/// `org/name`, or the `name` of an old repository that has no owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoId(String);

impl RepoId {
    /// Reads a name as people write it.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part.len() <= 128
                && !part.starts_with(['.', '-'])
                && !part.ends_with('.')
                && !part.contains("..")
                && part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
        };
        // Folders write the slash as `--`, so an owner with that in its name would be read back as another.
        let clear = parts.len() < 2 || !(parts[0].contains("--") || parts[0].ends_with('-'));
        if parts.len() <= 2 && parts.iter().all(plain) && clear {
            return Ok(Self(text.to_owned()));
        }
        Err(HubError::invalid(format!("`{}` is no model's name", text.escape_debug()), "write it as org/name"))
    }

    /// `org/name`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder in the cache: `models--org--name`.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The repository that has this folder in the cache.
    #[must_use]
    pub fn of_folder(folder: &str) -> Option<Self> {
        Self::parse(&folder.strip_prefix("models--")?.replacen("--", "/", 1)).ok()
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a branch, tag or commit, which becomes a path below `refs`.
///
/// # Errors
/// If it could not be one.
pub fn check_revision(revision: &str) -> Result<&str> {
    let wrong = escapes(revision).is_some() || revision.starts_with('-');
    if wrong {
        let what = format!("`{}` is no revision", revision.escape_debug());
        return Err(HubError::invalid(what, "give a branch, a tag or a commit"));
    }
    Ok(revision)
}

/// Whether this is a commit's hash in full.
#[must_use]
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Checks the name of a file in a repository, which becomes a path below a snapshot.
///
/// # Errors
/// If it would be written elsewhere, or means something else than a file on some system.
pub fn check_file(name: &str) -> Result<&str> {
    let wrong = escapes(name).or_else(|| name.split('/').find_map(reserved));
    wrong.map_or(Ok(name), |why| Err(HubError::HostileName { name: name.escape_debug().to_string(), why }))
}

/// Whether a name is meant to be written elsewhere: nobody calls a file so by mistake.
pub(crate) fn is_attack(name: &str) -> bool {
    name.starts_with(['/', '\\']) || name.contains('\0') || name.split(['/', '\\']).any(|part| part == "..")
}

/// Why a path with slashes may leave its folder, if it may.
fn escapes(path: &str) -> Option<&'static str> {
    let parts = || path.split('/');
    match path {
        "" => Some("it is empty"),
        _ if path.len() > 1024 => Some("it is too long"),
        _ if path.chars().any(char::is_control) => Some("it has control characters"),
        _ if path.starts_with('/') => Some("it is absolute"),
        _ if path.contains('\\') => Some("it has a backslash"),
        _ if path.contains(':') => Some("it has a colon, as drives and streams have"),
        _ if parts().any(|part| part == ".." || part == ".") => Some("it leaves its folder"),
        _ if parts().any(str::is_empty) => Some("it has an empty part"),
        _ if parts().any(|part| part.len() > 255) => Some("it is too long"),
        _ => None,
    }
}

/// Why a part of a path is no file's name on Windows.
fn reserved(part: &str) -> Option<&'static str> {
    let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let port = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|n| matches!(n, "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9"))
    };
    if matches!(&*stem, "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || port("COM") || port("LPT") {
        return Some("it is a device's name");
    }
    part.ends_with(['.', ' ']).then_some("it ends with a dot or a space")
}

/// What the name of a blob says about its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BlobId {
    /// SHA-256 of the bytes: a large file.
    Sha256(String),
    /// SHA-1 as git makes it, over `blob SIZE`, a zero and the bytes: a small file.
    Git(String),
    /// A server's own name for the bytes, which says nothing about them.
    Opaque(String),
}

impl BlobId {
    /// Reads an `ETag`, an object id, or the name of a file below `blobs`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.len() {
            64 if hex => Some(BlobId::Sha256(text.to_ascii_lowercase())),
            40 if hex => Some(BlobId::Git(text.to_ascii_lowercase())),
            1..=128 if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') => {
                Some(BlobId::Opaque(text.to_owned()))
            }
            _ => None,
        }
    }

    /// The name of the blob's file.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            BlobId::Sha256(id) | BlobId::Git(id) | BlobId::Opaque(id) => id,
        }
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlobId::Sha256(_) => "SHA-256 ",
            BlobId::Git(_) => "git SHA-1 ",
            BlobId::Opaque(_) => "",
        })?;
        f.write_str(self.as_str())
    }
}

/// `path` below `folder`: a name that was checked, with the system's separators.
pub(crate) fn below(folder: &Path, name: &str) -> PathBuf {
    name.split('/').fold(folder.to_owned(), |path, part| path.join(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for (name, folder) in [
            ("mlx-community/Qwen3-0.6B-4bit", "models--mlx-community--Qwen3-0.6B-4bit"),
            ("gpt2", "models--gpt2"),
            ("órg/nämé.1", "models--órg--nämé.1"),
            ("a/b--c", "models--a--b--c"),
        ] {
            let id = RepoId::parse(name).unwrap();
            assert_eq!((id.folder().as_str(), RepoId::of_folder(folder)), (folder, Some(id)), "{name}");
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "../b", "a/..", "a b/c", "a/.b", "-a/b", "a--b/c", "a/b\0", "a\\b"] {
            assert!(RepoId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_file_names() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/./b",
            "a//b",
            "a\\..\\b",
            "C:/x",
            "C:x",
            "x:stream",
            "a\0b",
            "a\nb",
            "nul",
            "CON.json",
            "a/aux.txt",
            "com1",
            "LPT9.x",
            "a.",
            "a ",
            "..",
            ".",
            "a/",
            "\u{1b}[2J",
            "\u{9b}",
        ] {
            assert!(matches!(check_file(bad), Err(HubError::HostileName { .. })), "{bad:?}");
        }
        for good in ["config.json", "1_Pooling/config.json", "ü.json", ".gitattributes", "a..b", "console.txt", "com"]
        {
            assert!(check_file(good).is_ok(), "{good}");
        }
        assert!(check_file(&"a".repeat(256)).is_err() && check_file(&"a/".repeat(600)).is_err());
    }

    #[test]
    fn revisions() {
        assert!(["main", "refs/pr/1", "v1.0", "8-bit"].iter().all(|r| check_revision(r).is_ok()));
        assert!(["", "..", "a/../b", "/x", "-x", "a\nb"].iter().all(|r| check_revision(r).is_err()));
    }

    #[test]
    fn blobs() {
        let sha = "a".repeat(64);
        assert_eq!(BlobId::parse(&format!("\"{sha}\"")), Some(BlobId::Sha256(sha.clone())));
        assert_eq!(BlobId::parse(&format!("sha256:{sha}")), Some(BlobId::Sha256(sha)));
        assert_eq!(BlobId::parse(&format!("W/\"{}\"", "B".repeat(40))), Some(BlobId::Git("b".repeat(40))));
        assert_eq!(BlobId::parse("\"abc-5\""), Some(BlobId::Opaque("abc-5".into())));
        assert!(["", "\"\"", "../x", "a/b", "a.b"].iter().all(|tag| BlobId::parse(tag).is_none()));
    }
}
