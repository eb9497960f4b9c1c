//! Links between the repository's documents lead somewhere.

use super::Violation;
use super::tree::{File, Tree};

/// Links of Markdown files to files that do not exist.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let documents = tree.files.iter().filter(|file| file.path.ends_with(".md"));
    documents
        .flat_map(|file| links(file).into_iter().map(move |link| (file, link)))
        .filter_map(|(file, (line, target))| {
            let path = target.split('#').next().unwrap_or_default();
            let resolved = resolve(&file.path, path);
            let exists = resolved.as_deref().is_some_and(|path| path.is_empty() || tree.has(path));
            let broken =
                || Violation::new(&file.path, line, "link", format!("`{target}` leads to no file of the repository"));
            (!exists).then(broken)
        })
        .collect()
}

/// Lines and targets of links to files: neither to servers nor to headings of the same document.
fn links(file: &File) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut links = Vec::new();
    for (number, line) in file.lines() {
        let fence = ["```", "~~~"].iter().any(|mark| line.trim_start().starts_with(mark));
        fenced ^= fence;
        if !fenced && !fence {
            links.extend(targets(line).map(|target| (number, target)));
        }
    }
    links.retain(|(_, target)| !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:"));
    links
}

/// What `[text](target "title")` and `[name]: target` lead to, outside of `code`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let prose = line.split('`').step_by(2);
    let inline = prose.flat_map(|part| part.split("](").skip(1)).filter_map(|rest| rest.split([')', ' ']).next());
    // Where the text of a link is code, its target starts the next part of prose.
    let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target.trim());
    inline.chain(definition).filter(|target| !target.is_empty())
}

/// `target` as a path from the root, as seen from the document at `from`; `None` if it leads out of the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<_> = from.split('/').collect();
    if !target.is_empty() {
        parts.pop();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    fn broken(text: &str) -> usize {
        said(check, &[("README.md", ""), ("docs/a.md", text), ("crates/cli/src/main.rs", "")]).len()
    }

    #[test]
    fn links_to_files_and_folders_resolve() {
        for text in [
            "[a](../README.md), [b](a.md#part) and [c](#part)",
            "[`cli`](../crates/cli/src/main.rs \"the tool\")",
            "[crates](../crates/) [web](https://example.org/none.md)",
            "[name]: ../README.md",
            "[root](..)",
            "`[a](none.md)`",
            "```\n[a](none.md)\n```",
        ] {
            assert_eq!(broken(text), 0, "{text}");
        }
    }

    #[test]
    fn broken_links_are_named() {
        assert_eq!(broken("[a](none.md)\n[`b`](../../README.md)\n[c]: none.md\n"), 3);
        let expected = "a.md:2: link: `b.md#x` leads to no file of the repository";
        assert_eq!(said(check, &[("a.md", "\n[b](b.md#x)")]), [expected]);
    }
}
