//! The tools that a model may call, and what their schemas say about an argument that was written as plain text.

use serde_json::{Number, Value};

use super::python;

/// The tools of a request, as OpenAI describes them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools(Vec<Value>);

impl From<Vec<Value>> for Tools {
    fn from(tools: Vec<Value>) -> Self {
        Tools(tools)
    }
}

impl Tools {
    /// What is known of a tool: the object with its name and parameters, which some clients send without the wrapping.
    fn functions(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().map(|tool| tool.get("function").unwrap_or(tool))
    }

    /// The names of the tools.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions().filter_map(|function| function.get("name")?.as_str())
    }

    /// The schema of a tool's arguments.
    pub fn parameters(&self, name: &str) -> Option<&Value> {
        let function = self.functions().find(|f| f.get("name").and_then(Value::as_str) == Some(name))?;
        function.get("parameters")
    }

    /// An argument that a format writes as plain text, as the tool's schema wants it: text where the schema says text,
    /// otherwise the JSON or Python value that it spells, if it spells one of an allowed type.
    pub(crate) fn argument(&self, tool: &str, name: &str, text: &str) -> Value {
        let root = self.parameters(tool);
        let types = root.and_then(|root| Some(types(root, resolve(root, root)?.get("properties")?.get(name)?, 0)));
        let types = types.unwrap_or_default();
        let plain = || Value::String(text.to_owned());
        if types == ["string"] {
            return plain();
        }
        match spelled(text) {
            Some(value) if types.is_empty() => value,
            Some(value) => fitting(&value, &types).unwrap_or_else(plain),
            None => plain(),
        }
    }
}

/// The value that a text spells in JSON or in Python; text in quotes is not unwrapped, because it may be meant so.
fn spelled(text: &str) -> Option<Value> {
    let trimmed = text.trim();
    let value = serde_json::from_str(trimmed).ok().or_else(|| python::literal(trimmed))?;
    (!value.is_string()).then_some(value)
}

/// What a schema refers to, if it is a reference, in the schema `root`. `None` if that leads nowhere.
pub(crate) fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> Option<&'s Value> {
    const LONGEST: usize = 32;
    for _ in 0..LONGEST {
        let Some(pointer) = schema.get("$ref") else { return Some(schema) };
        schema = root.pointer(pointer.as_str()?.strip_prefix('#')?)?;
    }
    None
}

/// The types that a schema allows; none if it does not say.
fn types<'s>(root: &'s Value, schema: &'s Value, depth: usize) -> Vec<&'s str> {
    const DEEPEST: usize = 16;
    let Some(schema) = resolve(root, schema).filter(|_| depth < DEEPEST) else { return Vec::new() };
    let mut found: Vec<&'s str> = match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let values = schema.get("enum").and_then(Value::as_array).into_iter().flatten().chain(schema.get("const"));
    if found.is_empty() {
        for value in values {
            found.push(type_name(value));
        }
    }
    for alternatives in ["anyOf", "oneOf", "allOf"] {
        let alternatives = schema.get(alternatives).and_then(Value::as_array).into_iter().flatten();
        found.extend(alternatives.flat_map(|schema| types(root, schema, depth + 1)));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The value as one of the types; `5.0` is a whole number.
fn fitting(value: &Value, types: &[&str]) -> Option<Value> {
    let own = type_name(value);
    if own == "number" && types.contains(&"integer") {
        let whole = value.as_f64().filter(|n| n.fract() == 0.0);
        let whole = whole.map(|n| match value.is_f64() && n.abs() < 9e15 {
            true => Value::Number(Number::from(n as i64)),
            false => value.clone(),
        });
        return whole.or_else(|| types.contains(&"number").then(|| value.clone()));
    }
    types.contains(&own).then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_get_the_type_of_their_schema() {
        let tools = Tools(vec![json!({"type": "function", "function": {"name": "f", "parameters": {"properties": {
            "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": ["number", "null"]}, "b": {"type": "boolean"},
            "o": {"type": "object"}, "e": {"enum": ["a", "1"]}, "u": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}}}})]);
        for (name, text, value) in [
            ("s", "12", json!("12")),
            ("s", " a\n", json!(" a\n")),
            ("i", "12", json!(12)),
            ("i", "12.0", json!(12)),
            ("i", "12.5", json!("12.5")),
            ("n", "1.5", json!(1.5)),
            ("n", "null", json!(null)),
            ("n", "None", json!(null)),
            ("b", "True", json!(true)),
            ("b", "yes", json!("yes")),
            ("o", "{'a': [1, None]}", json!({"a": [1, null]})),
            ("e", "1", json!("1")),
            ("u", "7", json!(7)),
            ("u", "x", json!("x")),
            ("unknown", "[1]", json!([1])),
            ("unknown", "\"q\"", json!("\"q\"")),
        ] {
            assert_eq!(tools.argument("f", name, text), value, "{name} {text}");
        }
        assert_eq!(tools.names().collect::<Vec<_>>(), ["f"]);
        assert!(Tools(vec![json!({"name": "g", "parameters": {}})]).parameters("g").is_some());
    }
}
