//! Answers of several messages, each for a channel:
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`.
//!
//! A message to `functions.NAME` is a call, one in the channel `analysis` is thoughts, and all others are text.

use serde_json::{Map, Value};

use super::markers::{Seen, first};
use super::{Call, Found};

pub(crate) const START: &str = "<|start|>";
pub(crate) const MESSAGE: &str = "<|message|>";
/// What ends a message. A new header does, too, where the end was left out.
pub(crate) const ENDS: [&str; 5] = ["<|end|>", "<|call|>", "<|return|>", START, "<|channel|>"];

/// Takes such an answer apart.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    tools: bool,
    held: String,
    mode: Mode,
}

#[derive(Debug, Clone)]
enum Mode {
    /// In a header that began with this text.
    Header(String),
    Message(Kind),
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Reasoning,
    Text,
    /// A call of the tool with this name; the header, and the arguments so far.
    Call(String, String, String),
}

impl Channels {
    pub(super) fn new(tools: bool) -> Self {
        Self { tools, held: String::new(), mode: Mode::Header(String::new()) }
    }

    pub(super) fn push(&mut self, text: &str, last: bool) -> Vec<Found> {
        self.held.push_str(text);
        let mut found = Vec::new();
        while match std::mem::replace(&mut self.mode, Mode::Header(String::new())) {
            Mode::Header(begun) => self.header_step(begun, last, &mut found),
            Mode::Message(kind) => self.message_step(kind, last, &mut found),
        } {}
        found
    }

    fn header_step(&mut self, begun: String, last: bool, found: &mut Vec<Found>) -> bool {
        // An answer of a model that was not asked for channels has no header.
        let fits = ["<|", " to=", "assistant", "to="];
        let could_be = fits.iter().any(|f| f.starts_with(self.held.as_str()) || self.held.starts_with(f));
        if !begun.is_empty() || could_be {
            match self.held.find(MESSAGE) {
                Some(at) => {
                    let header = begun + &self.held[..at];
                    self.held.drain(..at + MESSAGE.len());
                    self.mode = Mode::Message(self.kind(header));
                    return true;
                }
                None if last => {
                    let text = begun + &std::mem::take(&mut self.held);
                    if !text.is_empty() {
                        let reason = "the answer ends in a message's header".to_owned();
                        found.push(Found::Broken { text, reason });
                    }
                    return false;
                }
                None => {
                    self.mode = Mode::Header(begun);
                    return false;
                }
            }
        }
        self.mode = Mode::Message(Kind::Text);
        !self.held.is_empty()
    }

    /// What a message with this header is.
    fn kind(&self, header: String) -> Kind {
        let words = header.split("to=").nth(1).unwrap_or_default();
        let recipient: String = words.chars().take_while(|c| !c.is_whitespace() && *c != '<').collect();
        if let Some(name) = recipient.strip_prefix("functions.").filter(|name| self.tools && !name.is_empty()) {
            return Kind::Call(name.to_owned(), header, String::new());
        }
        match header.contains("analysis") {
            true => Kind::Reasoning,
            false => Kind::Text,
        }
    }

    fn message_step(&mut self, kind: Kind, last: bool, found: &mut Vec<Found>) -> bool {
        let (end, goes_on) = match first(&self.held, &ENDS, last) {
            Seen::Clear(at) => (at, None),
            Seen::At(at, index) => (at, Some(ENDS[index])),
        };
        let text: String = self.held.drain(..end).collect();
        let kind = match kind {
            Kind::Reasoning => {
                push(found, Found::Reasoning(text));
                Kind::Reasoning
            }
            Kind::Text => {
                push(found, Found::Text(text));
                Kind::Text
            }
            Kind::Call(name, header, arguments) => Kind::Call(name, header, arguments + &text),
        };
        if goes_on.is_none() && !last {
            self.mode = Mode::Message(kind);
            return false;
        }
        if let Kind::Call(name, header, arguments) = kind {
            found.push(call(name, &header, arguments));
        }
        let Some(marker) = goes_on else { return false };
        // A header's own markers are a part of it.
        if marker != "<|channel|>" {
            self.held.drain(..marker.len());
        }
        self.mode = Mode::Header(String::new());
        !self.held.is_empty()
    }
}

fn call(name: String, header: &str, arguments: String) -> Found {
    let value = match arguments.trim() {
        "" => Ok(Value::Object(Map::new())),
        text => serde_json::from_str(text),
    };
    match value {
        Ok(value @ Value::Object(_)) => Found::Call(Call { id: None, name, arguments: value }),
        Ok(_) => broken(header, &arguments, "its arguments are no object".to_owned()),
        Err(e) if e.is_eof() => broken(header, &arguments, "its JSON is not complete".to_owned()),
        Err(e) => broken(header, &arguments, format!("it is not JSON: {e}")),
    }
}

fn broken(header: &str, arguments: &str, reason: String) -> Found {
    Found::Broken { text: format!("{header}{MESSAGE}{arguments}"), reason }
}

fn push(found: &mut Vec<Found>, new: Found) {
    match (found.last_mut(), new) {
        (_, Found::Text(text) | Found::Reasoning(text)) if text.is_empty() => {}
        (Some(Found::Text(text)), Found::Text(more)) | (Some(Found::Reasoning(text)), Found::Reasoning(more)) => {
            text.push_str(&more);
        }
        (_, new) => found.push(new),
    }
}
