//! Tells the program the revision of its sources. git itself is not needed: its files are read, where there are any.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let found = repository(Path::new(env!("CARGO_MANIFEST_DIR"))).and_then(|folder| revision(&folder));
    println!("cargo:rustc-env=MLXENGINE_REVISION={}", found.unwrap_or_default());
}

/// The folder of git's files; in a second work tree `.git` is a file that names it.
fn repository(sources: &Path) -> Option<PathBuf> {
    let git = sources.ancestors().nth(2)?.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let text = fs::read_to_string(&git).ok()?;
    Some(git.parent()?.join(text.strip_prefix("gitdir:")?.trim()))
}

fn revision(git: &Path) -> Option<String> {
    let head = git.join("HEAD");
    println!("cargo:rerun-if-changed={}", head.display());
    let text = fs::read_to_string(&head).ok()?;
    let Some(name) = text.trim().strip_prefix("ref: ") else { return hash(&text) };
    // Branches are common to all work trees.
    let common = fs::read_to_string(git.join("commondir")).map_or(git.to_owned(), |path| git.join(path.trim()));
    let (loose, packed) = (common.join(name), common.join("packed-refs"));
    for path in [&loose, &packed].into_iter().filter(|path| path.is_file()) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let of_list = || {
        let list = fs::read_to_string(&packed).ok()?;
        list.lines().find_map(|line| hash(line.strip_suffix(name)?))
    };
    fs::read_to_string(loose).ok().and_then(|text| hash(&text)).or_else(of_list)
}

/// The first twelve digits, which are enough for people.
fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    (text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text[..12].to_owned())
}
