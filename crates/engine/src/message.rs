//! The turns of a conversation, compatible with OpenAI chat messages in JSON.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{EngineError, ErrorKind, Result};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation. `developer` is read as this.
    #[serde(alias = "developer")]
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name in JSON and in templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// No content, as in an assistant's message that only calls tools (`null` in JSON).
    #[default]
    None,
    /// Plain text.
    Text(String),
    /// Text and images in order.
    Parts(Vec<ContentPart>),
}

impl Content {
    /// The text, with the parts of a mixed content joined as they stand; images are left out.
    pub fn text(&self) -> String {
        match self {
            Content::None => String::new(),
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().filter_map(ContentPart::as_text).collect(),
        }
    }

    /// True if there is nothing to show.
    pub fn is_empty(&self) -> bool {
        match self {
            Content::None => true,
            Content::Text(text) => text.is_empty(),
            Content::Parts(parts) => parts.is_empty(),
        }
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Content::Text(text)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Content::Text(text.to_owned())
    }
}

/// One piece of a mixed content.
///
/// A `type` this engine does not know stays as the data it was, so that a template that knows it still sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub enum ContentPart {
    /// `{"type": "text", "text": …}`
    Text(String),
    /// `{"type": "image_url", "image_url": {"url": …}}`
    ImageUrl(ImageUrl),
    /// Anything else, with its `type` inside.
    Other(Value),
}

/// Where an image is, as OpenAI writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageUrl {
    /// A `data:` URL, a `file:` URL or a path.
    pub url: String,
    /// OpenAI's `detail`: `low`, `high` or `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ContentPart {
    /// The text of a text part.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            ContentPart::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The part's `type`.
    pub fn type_name(&self) -> &str {
        match self {
            ContentPart::Text(_) => "text",
            ContentPart::ImageUrl(_) => "image_url",
            ContentPart::Other(value) => value.get("type").and_then(Value::as_str).unwrap_or("unknown"),
        }
    }
}

impl From<Value> for ContentPart {
    fn from(value: Value) -> Self {
        let kind = value.get("type").and_then(Value::as_str);
        match (kind, value.as_object().map_or(0, Map::len)) {
            (Some("text"), 2) => {
                if let Some(text) = value.get("text").and_then(Value::as_str) {
                    return ContentPart::Text(text.to_owned());
                }
            }
            (Some("image_url"), 2) => {
                if let Some(Ok(image)) = value.get("image_url").map(ImageUrl::deserialize) {
                    return ContentPart::ImageUrl(image);
                }
            }
            _ => {}
        }
        ContentPart::Other(value)
    }
}

impl From<ContentPart> for Value {
    fn from(part: ContentPart) -> Self {
        match part {
            ContentPart::Text(text) => serde_json::json!({"type": "text", "text": text}),
            ContentPart::ImageUrl(image) => serde_json::json!({"type": "image_url", "image_url": image}),
            ContentPart::Other(value) => value,
        }
    }
}

/// A call of a tool by the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Ties the call to its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Always `function` today.
    #[serde(default = "function_type", rename = "type")]
    pub kind: String,
    /// What is called, and with what.
    pub function: Function,
    /// Keys that this engine does not interpret; templates see them.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn function_type() -> String {
    "function".to_owned()
}

/// The function of a [`ToolCall`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its arguments: an object, or (as OpenAI writes it) a string that holds JSON.
    #[serde(default)]
    pub arguments: Value,
}

impl Function {
    /// The arguments parsed: a string that holds a JSON object becomes that object, anything else stays.
    pub fn parsed_arguments(&self) -> Value {
        match &self.arguments {
            Value::String(text) => match serde_json::from_str::<Value>(text) {
                Ok(value @ Value::Object(_)) => value,
                _ => self.arguments.clone(),
            },
            other => other.clone(),
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    #[serde(default)]
    pub content: Content,
    /// What the model thought before it answered (`reasoning_content` in JSON, `reasoning` is read too).
    #[serde(default, rename = "reasoning_content", alias = "reasoning", skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The tools that an assistant's message calls.
    #[serde(default, deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The speaker's or the tool's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Keys that this engine does not interpret; templates see them.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<ToolCall>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<Content>) -> Self {
        Message {
            role,
            content: content.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
            extra: Map::new(),
        }
    }

    /// Instructions for the whole conversation.
    pub fn system(content: impl Into<Content>) -> Self {
        Message::new(Role::System, content)
    }

    /// A turn of the person.
    pub fn user(content: impl Into<Content>) -> Self {
        Message::new(Role::User, content)
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<Content>) -> Self {
        Message::new(Role::Assistant, content)
    }

    /// The result of the tool call `id`.
    pub fn tool(id: impl Into<String>, content: impl Into<Content>) -> Self {
        Message { tool_call_id: Some(id.into()), ..Message::new(Role::Tool, content) }
    }

    /// Reads a list of messages from JSON and names the first that is wrong.
    pub fn list_from_json(value: &Value) -> Result<Vec<Message>> {
        let invalid = |message: String| EngineError::new(ErrorKind::InvalidInput, message);
        let list = value.as_array().ok_or_else(|| invalid("messages must be a list".to_owned()))?;
        list.iter()
            .enumerate()
            .map(|(i, value)| {
                Message::deserialize(value).map_err(|e| invalid(format!("messages[{i}]: {e}")).with_source(e))
            })
            .collect()
    }

    /// The value that chat templates see: this message's JSON with tool arguments as objects.
    ///
    /// Templates serialize the arguments themselves, so that OpenAI's string form would be quoted twice.
    pub fn to_template_value(&self) -> Result<Value> {
        let mut message = self.clone();
        for call in &mut message.tool_calls {
            call.function.arguments = call.function.parsed_arguments();
        }
        serde_json::to_value(&message)
            .map_err(|e| EngineError::new(ErrorKind::Internal, "cannot turn a message into JSON").with_source(e))
    }

    /// Fails with the part's name if the content holds anything but text.
    pub fn require_text_only(&self) -> Result<()> {
        let Content::Parts(parts) = &self.content else { return Ok(()) };
        match parts.iter().find(|part| part.as_text().is_none()) {
            None => Ok(()),
            Some(part) => Err(EngineError::new(
                ErrorKind::Unsupported,
                format!(
                    "the {} message has a part of type {}, and this model reads only text",
                    self.role,
                    part.type_name()
                ),
            )
            .with_remedy("use a vision-language model, or send text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn round_trip(value: Value) -> Message {
        let message = Message::deserialize(&value).unwrap();
        assert_eq!(serde_json::to_value(&message).unwrap(), value);
        message
    }

    #[test]
    fn openai_messages_round_trip() {
        round_trip(json!({"role": "user", "content": "hi"}));
        round_trip(json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]}));
        round_trip(json!({"role": "tool", "content": "1", "tool_call_id": "a", "name": "f"}));
        round_trip(json!({"role": "user", "content": [
            {"type": "text", "text": "see"},
            {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
            {"type": "image"},
            {"type": "input_audio", "input_audio": {"data": ""}}]}));
        let extra = round_trip(json!({"role": "assistant", "content": "", "reasoning_content": "r", "thinking": "t"}));
        assert_eq!(extra.extra["thinking"], "t");
        assert_eq!(extra.reasoning.as_deref(), Some("r"));
    }

    #[test]
    fn developer_is_system_and_missing_content_is_none() {
        let message = Message::deserialize(json!({"role": "developer", "tool_calls": null})).unwrap();
        assert_eq!((message.role, message.content), (Role::System, Content::None));
    }

    #[test]
    fn arguments_become_objects_for_templates_only_when_they_parse() {
        for (given, seen) in [
            (json!("{\"x\": 1}"), json!({"x": 1})),
            (json!({"x": 1}), json!({"x": 1})),
            (json!("not json"), json!("not json")),
            (json!("3"), json!("3")),
        ] {
            let message = Message::deserialize(json!({"role": "assistant", "tool_calls": [
                {"id": "a", "function": {"name": "f", "arguments": given}}]}))
            .unwrap();
            let value = message.to_template_value().unwrap();
            assert_eq!(value["tool_calls"][0]["function"]["arguments"], seen);
        }
    }

    #[test]
    fn refusals_name_what_they_refuse() {
        let error =
            Message::list_from_json(&json!([{"role": "user", "content": ""}, {"role": "narrator"}])).unwrap_err();
        assert!(error.to_string().starts_with("messages[1]: unknown variant `narrator`"), "{error}");
        let message = Message::deserialize(json!({"role": "user", "content": [{"type": "image"}]})).unwrap();
        assert!(message.require_text_only().unwrap_err().to_string().contains("type image"));
    }
}
