//! How a call is written between its markers.

use serde_json::{Map, Value};

use super::tagged::{Pairs, Tags};
use super::tools::Tools;
use super::{Call, braces, python, tagged};

/// The syntax of calls between their markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// JSON objects with the tool's name and arguments: one, a list, or several one after the other. All formats' keys are
    /// read; these are written.
    Json(Keys),
    /// A JSON list of objects whose only key is the tool's name.
    KeyedJson,
    /// The tool's name, then its arguments as JSON.
    Named(Separators),
    /// Arguments between tags that name them.
    Tagged(Tags),
    /// The tool's name, then keys and values in turn.
    Pairs(Pairs),
    /// Calls as Python writes them.
    Python,
    /// Calls as JavaScript writes objects, with this mark around texts.
    Braces(&'static str),
}

/// The keys of a call in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// Of an id, which may be missing.
    pub id: Option<&'static str>,
    /// Of the tool's name.
    pub name: &'static str,
    /// Of its arguments.
    pub arguments: &'static str,
}

/// What stands between a tool's name and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separators {
    /// `name` this `{…}`.
    Name(&'static str),
    /// `name` the first, an id, the second, `{…}`; the first and the id may be missing.
    NameId(&'static str, &'static str),
    /// An id, the first, `name`, the second, `{…}`.
    IdName(&'static str, &'static str),
    /// `functions.name:0` this `{…}`; all of it is the id.
    Indexed(&'static str),
    /// `function`, this, `name` and a line with the arguments; or `name` this `{…}`.
    Typed(&'static str),
}

/// Why a text is no call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It may become one with more text.
    Unfinished(String),
    /// It will never be one.
    Wrong(String),
}

impl Fault {
    pub(super) fn reason(self) -> String {
        match self {
            Fault::Unfinished(reason) | Fault::Wrong(reason) => reason,
        }
    }
}

/// Calls, and the bytes of the text that they take.
pub(super) type Parsed = Result<(Vec<Call>, usize), Fault>;

impl Body {
    /// The calls at the beginning of `text`.
    pub(super) fn parse(&self, text: &str, tools: &Tools) -> Parsed {
        let start = text.trim_start();
        // Models trained on several formats fall back to the plainest.
        if start.starts_with('{') || start.starts_with("[{") {
            match self {
                Body::KeyedJson | Body::Braces(_) => {}
                _ => return json(text, named),
            }
        }
        match self {
            Body::Json(_) if start.starts_with(|c: char| c.is_alphabetic()) && start.contains('(') => {
                python_or_builtin(text)
            }
            Body::Json(_) => json(text, named),
            Body::KeyedJson => json(text, keyed),
            Body::Named(separators) => separators.parse(text),
            Body::Tagged(tags) => tagged::parse(tags, text, tools),
            Body::Pairs(pairs) => tagged::parse_pairs(pairs, text, tools),
            Body::Python => python::calls(text),
            Body::Braces(quote) => braces::calls(text, quote),
        }
    }

    /// Whether a call's own syntax shows where it ends, so that the end of an answer may stand for a missing end marker.
    pub(super) fn ends_itself(&self) -> bool {
        !matches!(self, Body::Tagged(_) | Body::Pairs(_))
    }

    /// Whether an answer that begins so is a call without markers; `None` if that cannot be said yet.
    pub(super) fn begins(&self, text: &str) -> Option<bool> {
        let text = text.trim_start();
        if matches!(self, Body::Python) {
            let Some(call) = text.strip_prefix('[') else {
                return if text.is_empty() { None } else { Some(false) };
            };
            let name =
                call.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'));
            return if name.is_empty() {
                None
            } else {
                Some(name.starts_with('(') && !call.trim_start().starts_with('('))
            };
        }
        const KEYS: [&str; 6] = ["\"name\"", "\"type\"", "\"function\"", "\"parameters\"", "\"arguments\"", "\"id\""];
        let dense: String = text.chars().filter(|c| !c.is_whitespace()).take(16).collect();
        let dense = dense.strip_prefix('[').unwrap_or(&dense);
        let Some(key) = dense.strip_prefix('{') else { return if dense.is_empty() { None } else { Some(false) } };
        if KEYS.iter().any(|known| key.starts_with(known)) {
            return Some(true);
        }
        if KEYS.iter().any(|known| known.starts_with(key)) { None } else { Some(false) }
    }
}

/// Names of tools that were built into models are called as `name.call(…)`.
fn python_or_builtin(text: &str) -> Parsed {
    let (mut calls, end) = python::calls(text)?;
    for call in &mut calls {
        if let Some(name) = call.name.strip_suffix(".call") {
            call.name = name.to_owned();
        }
    }
    Ok((calls, end))
}

fn wrong(e: &serde_json::Error) -> Fault {
    if e.is_eof() {
        Fault::Unfinished("its JSON is not complete".to_owned())
    } else {
        Fault::Wrong(format!("it is not JSON: {e}"))
    }
}

/// One JSON value at the beginning of `text`, perhaps fenced as code, with the bytes that it takes.
fn value(text: &str) -> Result<(Value, usize), Fault> {
    let mut at = text.len() - text.trim_start().len();
    let fenced = text[at..].strip_prefix("```").map(|rest| rest.strip_prefix("json").unwrap_or(rest));
    at = fenced.map_or(at, |rest| text.len() - rest.len());
    let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
    let value = match values.next() {
        Some(Ok(value)) => value,
        // A dict of Python, with single quotes, if nothing follows it.
        Some(Err(e)) => match python::literal(text[at..].trim_end().trim_end_matches("```")) {
            Some(value) => return Ok((value, text.len())),
            None => return Err(wrong(&e)),
        },
        None => return Err(Fault::Unfinished("there is nothing in it".to_owned())),
    };
    at += values.byte_offset();
    if fenced.is_some() {
        let rest = text[at..].trim_start();
        at = text.len() - rest.strip_prefix("```").unwrap_or(rest).len();
    }
    Ok((value, at))
}

/// Calls in JSON values, of which each object is read by `read`.
fn json(text: &str, read: fn(Value) -> Result<Call, Fault>) -> Parsed {
    let (mut calls, mut at) = (Vec::new(), 0);
    loop {
        let (value, length) = value(&text[at..])?;
        match value {
            Value::Array(list) if list.is_empty() => return Err(Fault::Wrong("the list of calls is empty".to_owned())),
            Value::Array(list) => calls.extend(list.into_iter().map(read).collect::<Result<Vec<_>, _>>()?),
            object => calls.push(read(object)?),
        }
        at += length;
        let rest = text[at..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ';' | ','));
        if !rest.starts_with('{') {
            return Ok((calls, at));
        }
        at = text.len() - rest.len();
    }
}

/// `{"name": …, "arguments": {…}}`, under all the keys that formats have for these.
fn named(value: Value) -> Result<Call, Fault> {
    let Value::Object(mut object) = value else {
        return Err(Fault::Wrong("a call is an object with a name and arguments".to_owned()));
    };
    let mut take = |keys: &[&str]| keys.iter().find_map(|key| object.shift_remove(*key));
    let id = take(&["id", "tool_call_id", "call_id"]);
    let id = id.and_then(|id| id.as_str().map(str::to_owned)).filter(|id| !id.is_empty());
    match take(&["function"]) {
        Some(Value::String(name)) => object.insert("name".to_owned(), name.into()),
        Some(inner @ Value::Object(_)) => return named(inner).map(|call| Call { id: id.or(call.id), ..call }),
        _ => None,
    };
    let mut take = |keys: &[&str]| keys.iter().find_map(|key| object.shift_remove(*key));
    let name = take(&["name", "tool_name", "tool"]);
    let Some(Value::String(name)) = name.filter(|name| name != "") else {
        return Err(Fault::Wrong("the call has no name".to_owned()));
    };
    let arguments = take(&["arguments", "parameters", "args"]);
    Ok(Call { id, name, arguments: arguments_of(arguments)? })
}

/// `{"name of the tool": {…}}`.
fn keyed(value: Value) -> Result<Call, Fault> {
    let call = match value {
        Value::Object(object) if object.len() == 1 => object.into_iter().next(),
        _ => None,
    };
    let (name, arguments) = call.ok_or_else(|| Fault::Wrong("a call is an object with one key".to_owned()))?;
    Ok(Call { id: None, name, arguments: arguments_of(Some(arguments))? })
}

/// Arguments as an object: none are an empty one, and a text may hold them as JSON.
fn arguments_of(value: Option<Value>) -> Result<Value, Fault> {
    match value {
        None | Some(Value::Null) => Ok(Map::new().into()),
        Some(object @ Value::Object(_)) => Ok(object),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Map::new().into()),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(object @ Value::Object(_)) => Ok(object),
            _ => Err(Fault::Wrong("its arguments are no object".to_owned())),
        },
        Some(_) => Err(Fault::Wrong("its arguments are no object".to_owned())),
    }
}

impl Separators {
    fn parse(&self, text: &str) -> Parsed {
        let (Separators::Name(last)
        | Separators::NameId(_, last)
        | Separators::IdName(_, last)
        | Separators::Indexed(last)
        | Separators::Typed(last)) = *self;
        let missing = || Fault::Unfinished(format!("it ends before `{}`", last.escape_debug()));
        let (head, _) = text.split_once(last).ok_or_else(missing)?;
        let mut at = head.len() + last.len();
        let head = head.trim();
        let (id, name) = match *self {
            Separators::Name(_) => (None, head),
            Separators::NameId(first, _) => match head.split_once(first) {
                Some((name, id)) => (Some(id), name),
                None => (None, head),
            },
            Separators::IdName(first, _) => match head.split_once(first) {
                Some((id, name)) => (Some(id), name),
                None => (None, head),
            },
            Separators::Indexed(_) => {
                let name =
                    head.rsplit_once(':').filter(|(_, n)| n.parse::<u32>().is_ok()).map_or(head, |(name, _)| name);
                (Some(head).filter(|_| name != head), name.strip_prefix("functions.").unwrap_or(name))
            }
            Separators::Typed(_) if head == "function" => {
                let line = text[at..].find('\n').ok_or_else(|| Fault::Unfinished("it ends in the name".to_owned()))?;
                let name = &text[at..at + line];
                at += line;
                (None, name.trim())
            }
            Separators::Typed(_) => (None, head),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Fault::Wrong("the call has no name".to_owned()));
        }
        let (arguments, length) = value(&text[at..])?;
        let id = id.map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned);
        let call = Call { id, name: name.to_owned(), arguments: arguments_of(Some(arguments))? };
        Ok((vec![call], at + length))
    }
}
