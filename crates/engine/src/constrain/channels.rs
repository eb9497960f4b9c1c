//! Grammars for calls in channels: a call is a message of its own, and thoughts are messages before it.

use serde_json::json;

use super::notation::{bare, unnameable};
use super::rules::{ANY, Rules};
use super::shape::Refused;
use super::{Constrainer, Grammar, ToolChoice, quoted, spaced};
use crate::answer::{ENDS, MESSAGE, START, Tools};

const CHANNEL: &str = "<|channel|>";

impl Constrainer {
    /// The grammar of all that the model says when it calls one of `names`, or may call them.
    pub(super) fn messages(&self, tools: &Tools, names: &[&str], choice: &ToolChoice) -> Refused<Grammar> {
        let mut rules = Rules::new(self.trie());
        let [channel, message, start] = [CHANNEL, MESSAGE, START].map(|marker| rules.marker(marker));
        let mut calls = Vec::new();
        for name in names {
            let schema = tools.parameters(name).filter(|schema| !schema.is_null()).cloned();
            let schema = spaced(schema.unwrap_or_else(|| json!({"type": "object"}))).map_err(|e| e.to_string())?;
            let name = bare(name).ok_or_else(|| unnameable(name, "the call"))?;
            let recipient = quoted(&format!("commentary to=functions.{name} "));
            calls.push(format!("{recipient} {} \"json\" {message} %json {schema}", rules.marker("<|constrain|>")));
        }
        let call = rules.rule(&format!("{channel} ({})", calls.join(" | ")));
        // One expression: as many complements as markers would be more than the lexer takes.
        let ends: Vec<&str> = ENDS.iter().map(|end| end.trim_matches(['<', '|', '>'])).collect();
        let text = format!("({ANY} & ~({ANY} /<\\|({})\\|>/ {ANY}))", ends.join("|"));
        let ended = rules.until(std::slice::from_ref(&text), ENDS[0]);
        let before = format!("{channel} (\"analysis\" | \"commentary\") {message} {ended} {start} \"assistant\"");
        let before = rules.rule(&before);
        let last = match choice {
            ToolChoice::Auto => format!("({call} | {channel} \"final\" {message} {})", rules.terminal(&text)),
            _ => call,
        };
        Ok(Grammar::Whole(rules.finish(&format!("{before}* {last}"))))
    }
}
