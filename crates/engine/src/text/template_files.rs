//! Where a checkpoint keeps its chat templates, and which one counts.

use serde_json::Value;

use crate::error::{EngineError, ErrorKind, Result};

/// The files that may hold chat templates.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateFiles<'a> {
    /// The text of `chat_template.jinja`.
    pub chat_template_jinja: Option<&'a str>,
    /// Name (without `.jinja`) and text of each file in `additional_chat_templates/`.
    pub additional: &'a [(String, String)],
    /// `chat_template.json`.
    pub chat_template_json: Option<&'a Value>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a Value>,
}

/// The chat templates of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatTemplates {
    templates: Vec<(String, String)>,
    origin: &'static str,
}

impl ChatTemplates {
    /// Collects them: `chat_template.jinja` with the files of `additional_chat_templates/` comes before
    /// `chat_template.json`, and that before `tokenizer_config.json`. Sources are not mixed.
    pub fn from_files(files: &TemplateFiles<'_>) -> Self {
        let mut templates = Vec::new();
        if let Some(text) = files.chat_template_jinja {
            templates.push(("default".to_owned(), text.to_owned()));
        }
        templates.extend(files.additional.iter().cloned());
        if !templates.is_empty() {
            return ChatTemplates { templates, origin: "chat_template.jinja" };
        }
        let key = |value: Option<&Value>| value.and_then(|v| v.get("chat_template")).map(named).unwrap_or_default();
        let from_json = key(files.chat_template_json);
        if !from_json.is_empty() {
            return ChatTemplates { templates: from_json, origin: "chat_template.json" };
        }
        ChatTemplates { templates: key(files.tokenizer_config), origin: "tokenizer_config.json" }
    }

    /// True if the checkpoint has none.
    pub fn is_empty(&self) -> bool {
        self.templates.is_empty()
    }

    /// The names, `default` among them if the checkpoint has a plain one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|(name, _)| name.as_str())
    }

    /// The file they come from.
    pub fn origin(&self) -> &'static str {
        self.origin
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.templates.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }

    /// The source to render with: the one called `name`; without a name `tool_use` if there are tools and such a
    /// template, else `default`.
    pub fn select(&self, name: Option<&str>, has_tools: bool) -> Result<&str> {
        let names = || self.names().collect::<Vec<_>>().join(", ");
        let error = |message: String| EngineError::new(ErrorKind::Template, message);
        if self.is_empty() {
            return Err(error("the model has no chat template".to_owned())
                .with_remedy("use it for plain completion, or give a template of your own"));
        }
        if let Some(name) = name {
            return self
                .get(name)
                .ok_or_else(|| error(format!("the model has no chat template called {name}, only {}", names())));
        }
        let tools = if has_tools { self.get("tool_use") } else { None };
        tools.or_else(|| self.get("default")).ok_or_else(|| {
            error(format!("the model has several chat templates and no default: {}", names()))
                .with_remedy("choose one by name")
        })
    }
}

/// A template given as a string, as a list of `{name, template}`, or as an object of names.
fn named(value: &Value) -> Vec<(String, String)> {
    match value {
        Value::String(text) => vec![("default".to_owned(), text.clone())],
        Value::Array(list) => list
            .iter()
            .filter_map(|entry| {
                Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned()))
            })
            .collect(),
        Value::Object(map) => {
            map.iter().filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn precedence() {
        let (json, config) = (json!({"chat_template": "J"}), json!({"chat_template": "C"}));
        let additional = [("tool_use".to_owned(), "T".to_owned())];
        let mut files = TemplateFiles {
            chat_template_jinja: Some("F"),
            additional: &additional,
            chat_template_json: Some(&json),
            tokenizer_config: Some(&config),
        };
        let all = ChatTemplates::from_files(&files);
        assert_eq!((all.select(None, false).unwrap(), all.select(None, true).unwrap()), ("F", "T"));
        files.additional = &[];
        files.chat_template_jinja = None;
        assert_eq!(ChatTemplates::from_files(&files).select(None, true).unwrap(), "J");
        files.chat_template_json = None;
        let last = ChatTemplates::from_files(&files);
        assert_eq!((last.select(None, true).unwrap(), last.origin()), ("C", "tokenizer_config.json"));
        assert!(ChatTemplates::default().select(None, false).is_err());
    }

    #[test]
    fn named_templates() {
        let config = json!({"chat_template": [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]});
        let files = TemplateFiles { tokenizer_config: Some(&config), ..Default::default() };
        let templates = ChatTemplates::from_files(&files);
        assert_eq!((templates.select(None, true).unwrap(), templates.select(Some("rag"), false).unwrap()), ("D", "R"));
        let error = templates.select(Some("x"), false).unwrap_err();
        assert_eq!(error.to_string(), "the model has no chat template called x, only default, rag");
    }
}
