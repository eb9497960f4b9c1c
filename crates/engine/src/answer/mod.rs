//! What a model's answer consists of: thoughts, text and calls of tools, told apart while it is written.
//!
//! [`AnswerFormat`] says how a checkpoint writes them and is found by looking at its template and vocabulary.
//! [`AnswerParser`] takes the text of one answer in pieces of any size and gives out [`Piece`]s as soon as they are certain;
//! how the text was cut makes no difference. Nothing that was said is lost: what began as a call and is none comes out as it
//! was written, with the reason.

mod body;
mod braces;
mod channels;
mod format;
mod marked;
mod markers;
mod python;
mod tagged;
mod tools;

use serde_json::Value;

use crate::message::{Content, Function, Message, Role, ToolCall};

pub use body::{Body, Keys, Separators};
pub(crate) use channels::{ENDS, MESSAGE, START};
pub use format::{AnswerFormat, CallSyntax, ReasoningMarkers, Several, TOOL_FORMATS, ToolFormat};
pub use tagged::{Attribute, Pairs, Tags};
pub use tools::Tools;
pub(crate) use tools::resolve;

use channels::Channels;
use marked::Marked;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Thoughts before the answer.
    Reasoning(String),
    /// The answer itself.
    Text(String),
    /// A tool that the model wants called.
    Call(ToolCall),
    /// What began as a call and is none: the text as the model wrote it, and what is wrong with it.
    Broken {
        /// The text, with the markers around it.
        text: String,
        /// Why it is no call.
        reason: String,
    },
}

/// Takes one answer apart while it is written.
///
/// ```
/// # use mlxengine_engine::answer::{AnswerFormat, AnswerParser, Piece, ToolFormat, Tools};
/// let format = AnswerFormat::Marked { reasoning: None, response: None, tools: ToolFormat::named("json") };
/// let mut parser = AnswerParser::new(&format, Some(Tools::default()), false);
/// assert!(parser.push("<tool_call>{\"name\": \"now\", ").is_empty());
/// let pieces = parser.push("\"arguments\": {}}</tool_call>");
/// assert!(matches!(&pieces[..], [Piece::Call(call)] if call.function.name == "now"));
/// assert!(parser.finish().is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct AnswerParser {
    kind: Kind,
    /// Calls given out, and those of earlier answers: the number in the next name that is made up.
    calls: usize,
}

#[derive(Debug, Clone)]
enum Kind {
    Plain,
    Marked(Box<Marked>),
    Channels(Box<Channels>),
}

/// A call before it has an id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    id: Option<String>,
    name: String,
    arguments: Value,
}

/// What a format's own parser found.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    Reasoning(String),
    Text(String),
    Call(Call),
    Broken { text: String, reason: String },
}

impl AnswerParser {
    /// A parser for an answer in `format`. Without `tools` nothing is a call; `inside_reasoning` says that the prompt has
    /// begun the thoughts already.
    pub fn new(format: &AnswerFormat, tools: Option<Tools>, inside_reasoning: bool) -> Self {
        let kind = match format {
            AnswerFormat::Plain => Kind::Plain,
            AnswerFormat::Marked { reasoning, response, tools: format } => {
                let calls = tools.and_then(|tools| Some(((*format)?, tools)));
                Kind::Marked(Box::new(Marked::new(reasoning.clone(), *response, calls, inside_reasoning)))
            }
            AnswerFormat::Channels => Kind::Channels(Box::new(Channels::new(tools.is_some()))),
        };
        Self { kind, calls: 0 }
    }

    /// A parser to which everything is text.
    pub fn plain() -> Self {
        Self { kind: Kind::Plain, calls: 0 }
    }

    /// Numbers calls that the model gave no id from `calls` on, so that they differ from those of earlier answers.
    #[must_use]
    pub fn after_calls(mut self, calls: usize) -> Self {
        self.calls = calls;
        self
    }

    /// Takes more of the answer and gives what became certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let found = match &mut self.kind {
            Kind::Plain if text.is_empty() => Vec::new(),
            Kind::Plain => vec![Found::Text(text.to_owned())],
            Kind::Marked(parser) => parser.push(text, false),
            Kind::Channels(parser) => parser.push(text, false),
        };
        found.into_iter().map(|found| self.piece(found)).collect()
    }

    /// Ends the answer and gives what was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        let found = match &mut self.kind {
            Kind::Plain => Vec::new(),
            Kind::Marked(parser) => parser.push("", true),
            Kind::Channels(parser) => parser.push("", true),
        };
        found.into_iter().map(|found| self.piece(found)).collect()
    }

    fn piece(&mut self, found: Found) -> Piece {
        match found {
            Found::Reasoning(text) => Piece::Reasoning(text),
            Found::Text(text) => Piece::Text(text),
            Found::Broken { text, reason } => Piece::Broken { text, reason },
            Found::Call(call) => {
                // Nine letters and digits, which is what the strictest templates want.
                let id = call.id.unwrap_or_else(|| format!("call{:05}", self.calls));
                self.calls += 1;
                Piece::Call(ToolCall {
                    id: Some(id),
                    kind: "function".to_owned(),
                    function: Function { name: call.name, arguments: call.arguments },
                    extra: serde_json::Map::new(),
                })
            }
        }
    }
}

/// The message that an answer's pieces make. Broken calls are part of its text.
pub fn message(pieces: impl IntoIterator<Item = Piece>) -> Message {
    let mut message = Message::new(Role::Assistant, Content::None);
    let (mut reasoning, mut text) = (String::new(), String::new());
    for piece in pieces {
        match piece {
            Piece::Reasoning(more) => reasoning.push_str(&more),
            Piece::Text(more) | Piece::Broken { text: more, .. } => text.push_str(&more),
            Piece::Call(call) => message.tool_calls.push(call),
        }
    }
    message.reasoning = Some(reasoning).filter(|text| !text.is_empty());
    if !text.is_empty() || message.tool_calls.is_empty() {
        message.content = Content::Text(text);
    }
    message
}

#[cfg(test)]
mod tests;
