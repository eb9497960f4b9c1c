//! Grammars under construction, in Lark's notation.

use std::fmt::Write;

use toktrie::TokTrie;

use super::quoted;

/// Any text: a terminal that every grammar here has. Control tokens are no text.
pub(super) const ANY: &str = "ANY";

/// Rules and terminals with names that are made up.
pub(super) struct Rules<'a> {
    trie: &'a TokTrie,
    text: String,
    count: usize,
}

/// A piece of a marker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'m> {
    Token(u32),
    Text(&'m str),
}

impl<'a> Rules<'a> {
    pub(super) fn new(trie: &'a TokTrie) -> Self {
        Self { trie, text: format!("{ANY}: /(?s:.*)/\n"), count: 0 }
    }

    /// Adds a regular expression in Lark's notation, by which name it is used.
    pub(super) fn terminal(&mut self, body: &str) -> String {
        self.count += 1;
        let name = format!("T{}", self.count);
        self.define(&name, body);
        name
    }

    /// Adds a rule.
    pub(super) fn rule(&mut self, body: &str) -> String {
        let name = self.reserve();
        self.define(&name, body);
        name
    }

    /// The name of a rule that is defined later.
    pub(super) fn reserve(&mut self) -> String {
        self.count += 1;
        format!("r{}", self.count)
    }

    /// Defines a rule under its name.
    pub(super) fn define(&mut self, name: &str, body: &str) {
        let _ = writeln!(self.text, "{name}: {}", if body.trim().is_empty() { "\"\"" } else { body });
    }

    /// The grammar, which begins with this rule.
    pub(super) fn finish(mut self, start: &str) -> String {
        self.define("start", start);
        self.text
    }

    /// A marker as the control tokens that are in it, and the text between them.
    pub(super) fn parts<'m>(&self, marker: &'m str) -> Vec<Part<'m>> {
        let (mut parts, mut text, mut at) = (Vec::new(), 0, 0);
        while at < marker.len() {
            let ends = (at + 1..=marker.len()).rev().filter(|end| marker.is_char_boundary(*end));
            let token = ends.filter_map(|end| Some((self.trie.get_special_token(&marker[at..end])?, end))).next();
            if let Some((token, end)) = token {
                if text < at {
                    parts.push(Part::Text(&marker[text..at]));
                }
                parts.push(Part::Token(token));
                (at, text) = (end, end);
            } else {
                at += marker[at..].chars().next().map_or(1, char::len_utf8);
            }
        }
        if text < at {
            parts.push(Part::Text(&marker[text..]));
        }
        parts
    }

    /// What writes a marker.
    pub(super) fn marker(&self, marker: &str) -> String {
        sequence(&self.parts(marker))
    }

    /// One of some regular expressions, and the marker behind it, which it does not contain.
    pub(super) fn until(&mut self, bodies: &[String], marker: &str) -> String {
        let either = bodies.join(" | ");
        let parts = self.parts(marker);
        match parts.split_first() {
            Some((Part::Text(text), rest)) => {
                let end = quoted(text);
                let name = self.terminal(&format!("(({either}) & {}) {end}", without(text)));
                format!("{name} {}", sequence(rest))
            }
            // Spelled in other tokens it would end the text, too.
            _ => format!("{} {}", self.terminal(&format!("({either}) & {}", without(marker))), sequence(&parts)),
        }
    }
}

fn sequence(parts: &[Part<'_>]) -> String {
    let part = |part: &Part<'_>| match part {
        Part::Token(id) => format!("<[{id}]>"),
        Part::Text(text) => quoted(text),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(" ")
}

/// Text in which `marker` does not occur.
pub(super) fn without(marker: &str) -> String {
    format!("~({ANY} {} {ANY})", quoted(marker))
}

/// A regular expression as grammars write it.
pub(super) fn regex(expression: &str) -> String {
    format!("/{}/", llguidance::regex_to_lark(expression, ""))
}

/// Items with separators, of which those that are not required may be left out: at least one rule an item.
pub(super) fn list(rules: &mut Rules<'_>, items: &[(String, bool)], separator: &str) -> String {
    let mut tails = vec![String::new(); items.len() + 1];
    for (index, (item, required)) in items.iter().enumerate().rev() {
        let one = format!("{separator} {item}");
        let one = if *required { one } else { format!("({one})?") };
        tails[index] = rules.rule(&format!("{one} {}", tails[index + 1]));
    }
    let leading = items.iter().take_while(|(_, required)| !required).count();
    let firsts = items.iter().enumerate().take(leading + 1);
    let firsts: Vec<String> = firsts.map(|(index, (item, _))| format!("{item} {}", tails[index + 1])).collect();
    match (firsts.is_empty(), leading == items.len()) {
        (true, _) => String::new(),
        (false, true) => format!("({})?", firsts.join(" | ")),
        (false, false) => format!("({})", firsts.join(" | ")),
    }
}
