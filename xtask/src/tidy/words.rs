//! Words that no file may have: marks of unfinished work, and names of one machine's folders and servers.

use super::Violation;
use super::tree::Tree;

struct Word {
    rule: &'static str,
    // In pieces, so that this file passes its own rule.
    pieces: [&'static str; 2],
    message: &'static str,
}

const fn word(rule: &'static str, pieces: [&'static str; 2], message: &'static str) -> Word {
    Word { rule, pieces, message }
}

const UNFINISHED: &str = "finish it, or say in plain words what is missing and why";
const FOLDER: &str = "a path of one machine; write it relative to the repository";
const SERVER: &str = "a server of one package registry; name the package and let the client find it";

const WORDS: [Word; 12] = [
    word("unfinished", ["FIX", "ME"], UNFINISHED),
    word("unfinished", ["X", "XX"], UNFINISHED),
    word("machine-path", ["/wo", "rk/"], FOLDER),
    word("machine-path", ["/ro", "ot/"], FOLDER),
    word("registry-host", ["crates", ".io"], SERVER),
    word("registry-host", ["pypi", ".org"], SERVER),
    word("registry-host", ["pythonhosted", ".org"], SERVER),
    word("registry-host", ["npmjs", ".org"], SERVER),
    word("registry-host", ["npmjs", ".com"], SERVER),
    word("registry-host", ["debian", ".org"], SERVER),
    word("registry-host", ["proxy.golang", ".org"], SERVER),
    word("registry-host", ["repo.maven", ".apache.org"], SERVER),
];

/// Lines with such a word.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let words: Vec<_> = WORDS.iter().map(|word| (word, word.pieces.concat())).collect();
    let lines = tree.files.iter().flat_map(|file| file.lines().map(move |(number, line)| (file, number, line)));
    lines
        .flat_map(|(file, number, line)| {
            let found = words.iter().filter(move |(_, text)| stands_alone(line, text));
            found.map(move |(word, text)| {
                Violation::new(&file.path, number, word.rule, format!("`{text}`: {}", word.message))
            })
        })
        .collect()
}

/// Whether `text` occurs in `line` and is no part of a longer word: neither `network/…` nor `crates` … `io-index`.
fn stands_alone(line: &str, text: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let path = text.starts_with('/');
    line.match_indices(text).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + text.len()..].chars().next();
        // A path may go on after its slash, and is absolute only if no folder comes before it.
        let starts = !before.is_some_and(|c| part(c) || (path && ['.', '}', ')', '*', '~'].contains(&c)));
        starts && (path || !after.is_some_and(part))
    })
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    fn rules(line: &str) -> Vec<String> {
        let said = said(check, &[("docs/a.md", line)]);
        said.iter().map(|line| line.split(": ").nth(1).unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn every_word_is_found() {
        for word in &WORDS {
            let text = word.pieces.concat();
            assert_eq!(rules(&format!("see {text} there")), [word.rule], "{text}");
        }
        assert_eq!(rules(&["https://static.crates", ".io/a"].concat()), ["registry-host"]);
        assert_eq!(rules(&["cd /wo", "rk/a"].concat()), ["machine-path"]);
    }

    #[test]
    fn parts_of_words_are_fine() {
        for pieces in
            [["net/wo", "rk/a"], ["../wo", "rk/a"], ["crates", ".io-index"], ["X", "XXL"], ["$ROOT/ro", "ots/"]]
        {
            assert_eq!(rules(&pieces.concat()), [""; 0], "{pieces:?}");
        }
    }
}
