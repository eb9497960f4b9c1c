//! Conversations as text, and back.

use mlxengine_engine::{EngineError, ErrorKind, GenerateParams, Message, Result, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How a conversation is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Everything: turns, sampling, the model's name.
    Json,
    /// For people: a heading a turn.
    Markdown,
    /// For people: `User: …`, further lines indented by two spaces.
    Text,
    /// The `messages` of OpenAI's chat API.
    OpenAi,
    /// `{"conversations": [{"from", "value"}]}`, as training sets have it.
    ShareGpt,
}

impl Format {
    /// The format that a file's name suggests.
    pub fn of_file(name: &str) -> Option<Format> {
        let extension = std::path::Path::new(name).extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "json" => Format::Json,
            "md" | "markdown" => Format::Markdown,
            "txt" | "text" => Format::Text,
            _ => return None,
        })
    }
}

/// A conversation with everything that belongs to it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    version: u32,
    model: String,
    params: GenerateParams,
    messages: Vec<Message>,
}

const VERSION: u32 = 1;

pub(crate) fn write(format: Format, model: &str, messages: &[Message], params: &GenerateParams) -> Result<String> {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("plain data is JSON");
    Ok(match format {
        Format::Json => {
            let whole = Whole {
                version: VERSION,
                model: model.to_owned(),
                params: params.clone(),
                messages: messages.to_vec(),
            };
            // Directly: by way of a `Value`, a temperature of 0.6 would be written as 0.6000000238418579.
            serde_json::to_string_pretty(&whole).expect("plain data is JSON")
        }
        Format::OpenAi => pretty(&json!({ "messages": messages })),
        Format::ShareGpt => {
            let turns: Vec<Value> = plain(messages, "ShareGPT")?
                .map(|(role, text)| json!({"from": sharegpt(role), "value": text}))
                .collect();
            pretty(&json!({ "conversations": turns }))
        }
        Format::Markdown => plain(messages, "Markdown")?.map(|(role, text)| markdown(role, &text)).collect(),
        Format::Text => plain(messages, "text")?.map(|(role, text)| indented(role, &text)).collect(),
    })
}

pub(crate) fn read(format: Format, text: &str) -> Result<(Vec<Message>, Option<GenerateParams>)> {
    let json =
        || serde_json::from_str::<Value>(text).map_err(|e| wrong(format!("the conversation is not valid JSON: {e}")));
    Ok(match format {
        Format::Json => {
            let value = json()?;
            if value.get("version").is_none() {
                // What other programs call JSON is OpenAI's list of messages.
                return Ok((openai(&value)?, None));
            }
            let whole: Whole =
                serde_json::from_value(value).map_err(|e| wrong(format!("the conversation cannot be read: {e}")))?;
            if whole.version != VERSION {
                return Err(wrong(format!(
                    "the conversation is of version {}, this program reads version {VERSION}",
                    whole.version
                )));
            }
            (whole.messages, Some(whole.params))
        }
        Format::OpenAi => (openai(&json()?)?, None),
        Format::ShareGpt => (from_sharegpt(&json()?)?, None),
        Format::Markdown => (from_markdown(text)?, None),
        Format::Text => (from_indented(text)?, None),
    })
}

fn wrong(message: String) -> EngineError {
    EngineError::new(ErrorKind::InvalidInput, message)
}

/// The turns as role and text, if that is all there is to them.
fn plain<'a>(messages: &'a [Message], format: &str) -> Result<impl Iterator<Item = (Role, String)> + 'a> {
    for message in messages {
        message.require_text_only()?;
        if !message.tool_calls.is_empty() || message.reasoning.is_some() {
            let message = format!("{format} cannot hold the conversation's tool calls or reasoning");
            return Err(EngineError::new(ErrorKind::Unsupported, message).with_remedy("export it as JSON"));
        }
    }
    Ok(messages.iter().map(|m| (m.role, m.content.text())))
}

fn openai(value: &Value) -> Result<Vec<Message>> {
    Message::list_from_json(value.get("messages").unwrap_or(value))
}

fn sharegpt(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "human",
        Role::Assistant => "gpt",
        Role::Tool => "tool",
    }
}

fn from_sharegpt(value: &Value) -> Result<Vec<Message>> {
    let turns = value
        .get("conversations")
        .and_then(Value::as_array)
        .ok_or_else(|| wrong("the conversation has no list `conversations`".to_owned()))?;
    let message = |(index, turn): (usize, &Value)| {
        let from = turn.get("from").and_then(Value::as_str).unwrap_or_default();
        let role = match from {
            "system" => Role::System,
            "human" | "user" => Role::User,
            "gpt" | "assistant" | "chatgpt" => Role::Assistant,
            "tool" | "observation" | "function_response" => Role::Tool,
            _ => return Err(wrong(format!("turn {index} of the conversation is from `{from}`, who is not known"))),
        };
        let text = turn
            .get("value")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong(format!("turn {index} of the conversation has no text `value`")))?;
        Ok(Message::new(role, text))
    };
    turns.iter().enumerate().map(message).collect()
}

const HEADINGS: [(Role, &str, &str); 4] = [
    (Role::System, "## System", "System:"),
    (Role::User, "## User", "User:"),
    (Role::Assistant, "## Assistant", "Assistant:"),
    (Role::Tool, "## Tool", "Tool:"),
];

fn heading(role: Role) -> (&'static str, &'static str) {
    let (_, markdown, text) = HEADINGS.iter().find(|(r, ..)| *r == role).expect("every role has a heading");
    (markdown, text)
}

/// A line that would be read as a heading, or as an escaped one, gets a backslash.
fn markdown(role: Role, text: &str) -> String {
    let escaped = |line: &str| {
        let bare = line.trim_start_matches('\\');
        if HEADINGS.iter().any(|(_, heading, _)| bare == *heading) { format!("\\{line}") } else { line.to_owned() }
    };
    let body: Vec<String> = text.split('\n').map(escaped).collect();
    format!("{}\n\n{}\n\n", heading(role).0, body.join("\n"))
}

fn from_markdown(text: &str) -> Result<Vec<Message>> {
    let mut messages: Vec<(Role, Vec<&str>)> = Vec::new();
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if let Some((role, ..)) = HEADINGS.iter().find(|(_, heading, _)| line == *heading) {
            messages.push((*role, Vec::new()));
            continue;
        }
        match messages.last_mut() {
            Some((_, lines)) => {
                let bare = line.trim_start_matches('\\');
                let escaped = bare.len() < line.len() && HEADINGS.iter().any(|(_, heading, _)| bare == *heading);
                lines.push(if escaped { &line[1..] } else { line });
            }
            None if line.trim().is_empty() => {}
            None => return Err(wrong("the conversation does not begin with a heading such as `## User`".to_owned())),
        }
    }
    // Each turn is written as an empty line, its text, an empty line.
    let body = |lines: Vec<&str>| {
        let text = lines.join("\n");
        let text = text.strip_prefix('\n').unwrap_or(&text);
        text.strip_suffix('\n').unwrap_or(text).to_owned()
    };
    Ok(messages.into_iter().map(|(role, lines)| Message::new(role, body(lines))).collect())
}

fn indented(role: Role, text: &str) -> String {
    format!("{} {}\n", heading(role).1, text.replace('\n', "\n  "))
}

fn from_indented(text: &str) -> Result<Vec<Message>> {
    let mut messages: Vec<(Role, String)> = Vec::new();
    for (number, line) in text.strip_suffix('\n').unwrap_or(text).split('\n').enumerate() {
        let turn = HEADINGS.iter().find_map(|(role, _, heading)| Some((*role, line.strip_prefix(heading)?)));
        match (turn, messages.last_mut()) {
            (Some((role, rest)), _) => messages.push((role, rest.strip_prefix(' ').unwrap_or(rest).to_owned())),
            (None, Some((_, text))) if line.is_empty() || line.starts_with("  ") => {
                text.push('\n');
                text.push_str(line.strip_prefix("  ").unwrap_or(line));
            }
            (None, None) if line.is_empty() => {}
            _ => {
                return Err(wrong(format!(
                    "line {} of the conversation neither begins with `User:` or another role nor is indented",
                    number + 1
                )));
            }
        }
    }
    Ok(messages.into_iter().map(|(role, text)| Message::new(role, text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn conversation() -> impl Strategy<Value = Vec<Message>> {
        let role = prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant), Just(Role::Tool)];
        let line = prop_oneof![
            "[ -~äß\\\\]{0,12}",
            Just("## User".to_owned()),
            Just("\\## Tool".to_owned()),
            Just("User: x".to_owned()),
            Just(String::new())
        ];
        let text = prop::collection::vec(line, 1..5).prop_map(|lines| lines.join("\n"));
        prop::collection::vec((role, text), 1..6)
            .prop_map(|turns| turns.into_iter().map(|(r, t)| Message::new(r, t)).collect())
    }

    proptest! {
        #[test]
        fn every_format_reads_what_it_writes(messages in conversation()) {
            for format in [Format::Json, Format::Markdown, Format::Text, Format::OpenAi, Format::ShareGpt] {
                let text = write(format, "m", &messages, &GenerateParams::default()).unwrap();
                let (read, params) = read(format, &text).unwrap();
                prop_assert_eq!(&read, &messages, "{:?}:\n{}", format, text);
                prop_assert_eq!(params.is_some(), format == Format::Json);
            }
        }

        #[test]
        fn foreign_text_never_panics(text in "\\PC{0,60}") {
            for format in [Format::Json, Format::Markdown, Format::Text, Format::OpenAi, Format::ShareGpt] {
                let _ = read(format, &text);
            }
        }
    }
}
