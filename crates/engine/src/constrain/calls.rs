//! Grammars for calls of tools: the format's own syntax, with the arguments' schemas inside.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{Constrainer, Grammar, quoted, spaced};
use crate::answer::{Body, CallSyntax, Separators, ToolFormat, Tools};
use crate::error::{EngineError, ErrorKind, Result};

/// Whether tools have to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model answers or calls; what it calls, it calls rightly.
    Auto,
    /// One tool or more.
    Required,
    /// This tool, once.
    Named(String),
}

impl Constrainer {
    /// The grammar of answers that call `tools` in `format`, with arguments that their schemas accept.
    ///
    /// # Errors
    /// If the format has no grammar here, or there is no such tool.
    pub fn calls(&self, format: &ToolFormat, tools: &Tools, choice: &ToolChoice) -> Result<Grammar> {
        let syntax = format.calls[0];
        let names: Vec<&str> = match choice {
            ToolChoice::Named(name) => tools.names().filter(|known| known == name).collect(),
            _ => tools.names().collect(),
        };
        if names.is_empty() {
            let wanted = if let ToolChoice::Named(name) = choice { format!(" called {name}") } else { String::new() };
            return Err(EngineError::new(ErrorKind::InvalidInput, format!("there is no tool{wanted} to call")));
        }
        let mut text = String::new();
        let mut rules = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let schema = tools.parameters(name).cloned().unwrap_or_else(|| json!({"type": "object"}));
            let body = self.body(format, &syntax, name, index, schema)?;
            let _ = writeln!(text, "tool_{index}: {body}");
            rules.push(format!("tool_{index}"));
        }
        let (open, close) = self.around(format, &syntax);
        let _ = writeln!(text, "call: {open} ({}) {close}", rules.join(" | "));
        let several = match choice {
            ToolChoice::Named(_) => "call",
            _ => "call+",
        };
        let (before, after) = match format.section {
            Some((open, close)) => {
                (self.terminal(open), if close.is_empty() { String::new() } else { self.terminal(close) })
            }
            None => (String::new(), String::new()),
        };
        let start = match choice {
            ToolChoice::Auto => {
                if self.trie().get_special_token(syntax.open).is_none() {
                    return Err(unsupported(
                        format,
                        "what begins a call is not a token, so text cannot be told from it",
                    ));
                }
                let _ = writeln!(text, "TEXT: /(.|\\n)*/");
                format!("TEXT | TEXT {before} {several} {after}")
            }
            _ => format!("{before} {several} {after}"),
        };
        let _ = writeln!(text, "start: {start}");
        Ok(Grammar::Lark(text))
    }

    /// What stands around each call.
    fn around(&self, format: &ToolFormat, syntax: &CallSyntax) -> (String, String) {
        // As models of this kind were taught: a line of its own.
        let line = if format.name == "json_tools" { quoted("\n") } else { String::new() };
        let open = if syntax.open.is_empty() { String::new() } else { self.terminal(syntax.open) };
        let close = if syntax.close.is_empty() { String::new() } else { self.terminal(syntax.close) };
        let between = if line.is_empty() { String::new() } else { format!(" {line}?") };
        (format!("{open} {line}"), format!("{line} {close}{between}"))
    }

    fn body(
        &self,
        format: &ToolFormat,
        syntax: &CallSyntax,
        name: &str,
        index: usize,
        schema: Value,
    ) -> Result<String> {
        Ok(match syntax.body {
            Body::Json => {
                let key = match format.name {
                    "command_r" | "command_r_action" => ("tool_name", "parameters"),
                    "llama3_json" | "internlm" => ("name", "parameters"),
                    _ => ("name", "arguments"),
                };
                let list = !matches!(format.name, "json_tools" | "llama3_json" | "internlm" | "gigachat");
                let call = format!("%json {}", spaced(object(name, key, schema))?);
                if list { format!("\"[\" {call} \"]\"") } else { call }
            }
            Body::Named(Separators::Name(separator) | Separators::NameId(_, separator)) => {
                format!("{} {} %json {}", quoted(name), self.terminal(separator), spaced(schema)?)
            }
            Body::Named(Separators::Indexed(separator)) => {
                let name = quoted(&format!("functions.{name}:{index}"));
                format!("{name} {} %json {}", self.terminal(separator), spaced(schema)?)
            }
            _ => return Err(unsupported(format, "its arguments are not JSON")),
        })
    }
}

/// The schema of `{"name": NAME, "arguments": {…}}`; definitions stay where references look for them.
fn object(name: &str, (name_key, arguments_key): (&str, &str), mut schema: Value) -> Value {
    let mut whole = Map::new();
    for definitions in ["$defs", "definitions"] {
        if let Some(found) = schema.as_object_mut().and_then(|s| s.shift_remove(definitions)) {
            whole.insert(definitions.to_owned(), found);
        }
    }
    whole.insert("type".to_owned(), "object".into());
    whole.insert("properties".to_owned(), json!({name_key: {"const": name}, arguments_key: schema}));
    whole.insert("required".to_owned(), json!([name_key, arguments_key]));
    whole.insert("additionalProperties".to_owned(), false.into());
    whole.into()
}

fn unsupported(format: &ToolFormat, why: &str) -> EngineError {
    let message = format!("calls in the format {} cannot be constrained: {why}", format.name);
    EngineError::new(ErrorKind::Unsupported, message).with_remedy("let the model call without constraint")
}
