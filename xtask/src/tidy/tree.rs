//! The files of the repository.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use super::Violation;
use super::tokens::{self, Token};

/// A text file.
pub struct File {
    /// Path from the root, with forward slashes.
    pub path: String,
    pub text: String,
    /// Tokens of a Rust file; empty for all others.
    pub tokens: Vec<Token>,
    /// Line and message of the token that is none.
    unreadable: Option<(usize, String)>,
}

impl File {
    fn new(path: String, text: String) -> Self {
        let (tokens, unreadable) = match path.ends_with(".rs").then(|| tokens::read(&text)) {
            Some(Ok(tokens)) => (tokens, None),
            Some(Err(error)) => (Vec::new(), Some(error)),
            None => (Vec::new(), None),
        };
        Self { path, text, tokens, unreadable }
    }

    /// The lines with their numbers, from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(i, line)| (i + 1, line))
    }

    /// Whether the whole file is for tests, examples or tools, which may print and read the environment.
    pub fn is_for_developers(&self) -> bool {
        const FOLDERS: [&str; 3] = ["xtask/", "fuzz/", "crates/testkit/"];
        const INNER: [&str; 3] = ["/tests/", "/benches/", "/examples/"];
        FOLDERS.iter().any(|folder| self.path.starts_with(folder))
            || INNER.iter().any(|folder| self.path.contains(folder))
            || ["tests.rs", "build.rs"].contains(&self.name())
    }

    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// All text files that git tracks or would track.
pub struct Tree {
    pub files: Vec<File>,
    paths: BTreeSet<String>,
}

impl Tree {
    /// Reads the files below `root`: git's list of them, or all of them where there is no git.
    pub fn read(root: &Path) -> io::Result<Self> {
        let paths = match git_paths(root) {
            Some(paths) => paths,
            None => walk(root)?,
        };
        let mut tree = Self { files: Vec::new(), paths: BTreeSet::new() };
        for path in paths {
            let full = root.join(&path);
            if !full.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                continue;
            }
            if let Ok(text) = String::from_utf8(fs::read(full)?) {
                tree.files.push(File::new(path.clone(), text));
            }
            tree.paths.insert(path);
        }
        Ok(tree)
    }

    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let paths = files.iter().map(|(path, _)| path.to_string()).collect();
        let files = files.iter().map(|(path, text)| File::new(path.to_string(), text.to_string())).collect();
        Self { files, paths }
    }

    /// The Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// Whether `path` is a file, or a folder that holds one.
    pub fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.paths.contains(path) || self.paths.range(folder.clone()..).next().is_some_and(|p| p.starts_with(&folder))
    }
}

/// Files that cannot be read as Rust: the compiler says the same, but only about files that some crate includes.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let unreadable = tree.files.iter().filter_map(|file| Some((file, file.unreadable.as_ref()?)));
    unreadable.map(|(file, (line, message))| Violation::new(&file.path, *line, "syntax", message)).collect()
}

fn git_paths(root: &Path) -> Option<Vec<String>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(root).output().ok()?;
    let names = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let mut paths: Vec<_> = names.split_terminator('\0').map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    Some(paths)
}

fn walk(root: &Path) -> io::Result<Vec<String>> {
    let mut paths = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if !entry.file_type()?.is_dir() {
                paths.push(path.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/"));
            } else if !["target", ".git"].iter().any(|skipped| entry.file_name() == *skipped) {
                folders.push(path);
            }
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    #[test]
    fn files_and_folders_are_found() {
        let tree = Tree::of(&[("a/b.md", ""), ("a-b", "")]);
        assert!(tree.has("a") && tree.has("a/") && tree.has("a/b.md") && tree.has("a-b"));
        assert!(!tree.has("b.md") && !tree.has("a/b"));
    }

    #[test]
    fn an_unclosed_brace_is_named() {
        let said = said(check, &[("a.rs", "fn f() {\n")]);
        assert!(said.len() == 1 && said[0].starts_with("a.rs:1: syntax: "), "{said:?}");
    }

    #[test]
    fn the_walk_sees_this_file() {
        let found = walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
        assert!(found.contains(&"tidy/tree.rs".to_owned()), "{found:?}");
    }
}
