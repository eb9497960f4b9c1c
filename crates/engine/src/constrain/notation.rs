//! Grammars of values in notations that are not quite JSON: Python's, those with marks around texts, and JSON in which the
//! text that ends an argument does not occur.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::quoted;
use super::rules::{ANY, Rules, list, regex, without};
use super::shape::{Kind, Refused, Shape, TextShape, limits, shape};
use crate::answer::resolve;

/// A way to write values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notation {
    /// JSON without this text.
    JsonWithout(&'static str),
    /// Python's literals.
    Python,
    /// Like JSON, but with bare keys and with this mark around texts.
    Marked(&'static str),
}

/// A whole number that every reader keeps.
pub(super) const INTEGER: &str = "-?(?:0|[1-9][0-9]{0,17})";
/// A number that every reader keeps.
pub(super) const NUMBER: &str = "-?(?:0|[1-9][0-9]{0,17})(?:\\.[0-9]{1,17})?(?:[eE][+-]?[0-9]{1,2})?";

const JSON_PLAIN: &str = r#"[^"\\\x00-\x1F\x7F]"#;
const JSON_UNIT: &str =
    r#"[^"\\\x00-\x1F\x7F]|\\["\\/bfnrt]|\\u(?:[0-9A-Ca-cE-Fe-f][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2})"#;
/// Python's texts by their quote: its characters, and its characters and escapes.
const PYTHON: [(&str, &str, &str); 2] = [
    ("\"", r#"[^"\\\x00-\x1F\x7F]"#, r#"[^"\\\x00-\x1F\x7F]|\\["'\\nrt]"#),
    ("'", r"[^'\\\x00-\x1F\x7F]", r#"[^'\\\x00-\x1F\x7F]|\\["'\\nrt]"#),
];

/// Writes rules for the values that schemas accept.
pub(super) struct Values<'r, 'a> {
    pub(super) rules: &'r mut Rules<'a>,
    pub(super) root: &'r Value,
    notation: Notation,
    /// Rules of definitions, by their pointers; and of every value.
    known: BTreeMap<String, String>,
}

impl<'r, 'a> Values<'r, 'a> {
    /// `root` is the schema in which references look for definitions.
    pub(super) fn new(rules: &'r mut Rules<'a>, root: &'r Value, notation: Notation) -> Self {
        Self { rules, root, notation, known: BTreeMap::new() }
    }

    /// What writes a value that `schema` accepts; `place` names it in refusals.
    pub(super) fn value(&mut self, schema: &Value, place: &str) -> Refused<String> {
        match shape(self.root, schema, place)? {
            Shape::Any => Ok(self.any()),
            Shape::Values(values) => {
                let texts = values.into_iter().map(|value| self.literal(value, place)).collect::<Refused<Vec<_>>>()?;
                Ok(format!("({})", texts.join(" | ")))
            }
            Shape::Reference(pointer) => {
                if let Some(rule) = self.known.get(pointer) {
                    return Ok(rule.clone());
                }
                let rule = self.rules.reserve();
                self.known.insert(pointer.to_owned(), rule.clone());
                let target =
                    resolve(self.root, schema).ok_or_else(|| format!("the `$ref` of {place} leads nowhere"))?;
                let body = self.value(&target.clone(), place)?;
                self.rules.define(&rule, &body);
                Ok(rule)
            }
            Shape::Either(branches) => {
                let texts =
                    branches.into_iter().map(|branch| self.value(branch, place)).collect::<Refused<Vec<_>>>()?;
                Ok(format!("({})", texts.join(" | ")))
            }
            Shape::Typed(kinds, object) => {
                let texts =
                    kinds.into_iter().map(|kind| self.typed(kind, object, place)).collect::<Refused<Vec<_>>>()?;
                Ok(format!("({})", texts.join(" | ")))
            }
        }
    }

    /// What writes a value of one type.
    pub(super) fn typed(&mut self, kind: Kind, schema: &Map<String, Value>, place: &str) -> Refused<String> {
        let [yes, no, none] = self.words();
        Ok(match kind {
            Kind::Text => {
                let shape = TextShape::of(schema, place)?;
                self.text(&shape)
            }
            Kind::Boolean => format!("({} | {})", quoted(yes), quoted(no)),
            Kind::Null => quoted(none),
            Kind::Integer | Kind::Number => number(kind, schema),
            Kind::List => self.list(schema, place)?,
            Kind::Object => self.object(schema, place)?,
        })
    }

    fn words(&self) -> [&'static str; 3] {
        match self.notation {
            Notation::Python => ["True", "False", "None"],
            _ => ["true", "false", "null"],
        }
    }

    /// What stands between items, and behind a key.
    fn separators(&self) -> [&'static str; 2] {
        match self.notation {
            Notation::Marked(_) => ["\",\"", "\":\""],
            _ => ["/, ?/", "/: ?/"],
        }
    }

    fn text(&mut self, shape: &TextShape) -> String {
        match self.notation {
            Notation::JsonWithout(end) => {
                let body = shape.expression(JSON_PLAIN, JSON_UNIT);
                self.rules.terminal(&format!("\"\\\"\" ({body} & {}) \"\\\"\"", without(end)))
            }
            Notation::Python => {
                let quotes = PYTHON.map(|(quote, plain, unit)| {
                    format!("{} {} {}", quoted(quote), shape.expression(plain, unit), quoted(quote))
                });
                self.rules.terminal(&quotes.join(" | "))
            }
            Notation::Marked(mark) => {
                let body = if shape.is_free() { ANY.to_owned() } else { shape.expression("(?s:.)", "(?s:.)") };
                let text = self.rules.until(&[body], mark);
                format!("({} {text})", self.rules.marker(mark))
            }
        }
    }

    /// A text as it is written, if it can be.
    fn written(&self, text: &str, place: &str) -> Refused<String> {
        let refused = || Err(format!("{} of {place} cannot be written in this format", quoted(text)));
        match self.notation {
            Notation::JsonWithout(end) => {
                let written = quoted(text);
                if written.contains(end) { refused() } else { Ok(quoted(&written)) }
            }
            Notation::Python => {
                let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
                let escaped = escaped.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
                if escaped.contains(char::is_control) {
                    return refused();
                }
                let double = quoted(&format!("\"{escaped}\""));
                let plain = escaped == text && !text.contains('\'');
                Ok(if plain { format!("({double} | {})", quoted(&format!("'{text}'"))) } else { double })
            }
            Notation::Marked(mark) if text.contains(mark) => refused(),
            Notation::Marked(mark) => Ok(self.rules.marker(&format!("{mark}{text}{mark}"))),
        }
    }

    /// What writes just this value.
    pub(super) fn literal(&mut self, value: &Value, place: &str) -> Refused<String> {
        let [yes, no, none] = self.words();
        let [comma, colon] = self.separators();
        Ok(match value {
            Value::Null => quoted(none),
            Value::Bool(true) => quoted(yes),
            Value::Bool(false) => quoted(no),
            Value::Number(number) => quoted(&number.to_string()),
            Value::String(text) => self.written(text, place)?,
            Value::Array(items) => {
                let items = items.iter().map(|item| self.literal(item, place)).collect::<Refused<Vec<_>>>()?;
                format!("\"[\" {} \"]\"", items.join(&format!(" {comma} ")))
            }
            Value::Object(object) => {
                let pair = |(key, value): (&String, &Value)| {
                    Ok(format!("{} {colon} {}", self.key(key, place)?, self.literal(value, place)?))
                };
                let pairs = object.iter().map(pair).collect::<Refused<Vec<_>>>()?;
                format!("\"{{\" {} \"}}\"", pairs.join(&format!(" {comma} ")))
            }
        })
    }

    fn key(&self, key: &str, place: &str) -> Refused<String> {
        match self.notation {
            Notation::Marked(_) => bare(key).map(quoted).ok_or_else(|| unnameable(key, place)),
            _ => self.written(key, place),
        }
    }

    fn list(&mut self, schema: &Map<String, Value>, place: &str) -> Refused<String> {
        if schema.get("uniqueItems").is_some_and(|unique| *unique != Value::Bool(false)) {
            return Err(format!("`uniqueItems` of {place} has no grammar in this format"));
        }
        let (least, most) = limits(schema, ["minItems", "maxItems"], place)?;
        if most == Some(0) {
            return Ok("\"[\" \"]\"".to_owned());
        }
        let item = match schema.get("items") {
            Some(items) => self.value(items, &format!("the items of {place}"))?,
            None => self.any(),
        };
        let [comma, _] = self.separators();
        let item = self.rules.rule(&item);
        let more = most.map_or(String::new(), |most| (most - 1).to_string());
        let items = format!("{item} ({comma} {item}){{{},{more}}}", least.saturating_sub(1));
        let items = if least == 0 { format!("({items})?") } else { items };
        Ok(self.rules.rule(&format!("\"[\" {items} \"]\"")))
    }

    fn object(&mut self, schema: &Map<String, Value>, place: &str) -> Refused<String> {
        let fields = fields(schema, place)?;
        let [comma, colon] = self.separators();
        let mut items = Vec::new();
        for field in &fields {
            let key = self.key(field.name, place)?;
            let value = self.value(field.schema, &format!("`{}` of {place}", field.name))?;
            items.push((format!("{key} {colon} {value}"), field.required));
        }
        let members = if items.is_empty() && schema.get("additionalProperties") != Some(&Value::Bool(false)) {
            let value = match schema.get("additionalProperties") {
                Some(schema) => self.value(schema, &format!("the values of {place}"))?,
                None => self.any(),
            };
            let item = format!("{} {colon} {value}", self.any_key());
            let item = self.rules.rule(&item);
            format!("({item} ({comma} {item})*)?")
        } else {
            list(self.rules, &items, comma)
        };
        Ok(self.rules.rule(&format!("\"{{\" {members} \"}}\"")))
    }

    fn any_key(&mut self) -> String {
        match self.notation {
            Notation::Marked(_) => self.rules.terminal("/[A-Za-z_][A-Za-z0-9_]*/"),
            _ => self.text(&TextShape::default()),
        }
    }

    /// What writes any value.
    fn any(&mut self) -> String {
        const EVERY: &str = "";
        if let Some(rule) = self.known.get(EVERY) {
            return rule.clone();
        }
        let rule = self.rules.reserve();
        self.known.insert(EVERY.to_owned(), rule.clone());
        let text = self.text(&TextShape::default());
        let ([yes, no, none], [comma, colon]) = (self.words().map(quoted), self.separators());
        let (number, key) = (regex(NUMBER), self.any_key());
        let items = format!("\"[\" ({rule} ({comma} {rule})*)? \"]\"");
        let pair = format!("{key} {colon} {rule}");
        let object = format!("\"{{\" ({pair} ({comma} {pair})*)? \"}}\"");
        self.rules.define(&rule, &format!("{text} | {number} | {yes} | {no} | {none} | {items} | {object}"));
        rule
    }
}

/// An argument or a member of an object.
pub(super) struct Field<'s> {
    pub(super) name: &'s str,
    pub(super) schema: &'s Value,
    pub(super) required: bool,
}

/// The members of an object in their order; those that are only demanded come last.
pub(super) fn fields<'s>(schema: &'s Map<String, Value>, place: &str) -> Refused<Vec<Field<'s>>> {
    static ANYTHING: Value = Value::Bool(true);
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    let named = properties.into_iter().flatten();
    let mut fields: Vec<Field<'s>> =
        named.map(|(name, schema)| Field { name, schema, required: required.contains(&name.as_str()) }).collect();
    let rest = schema.get("additionalProperties");
    let open = rest.is_some_and(|rest| *rest != Value::Bool(false));
    if open && !(fields.is_empty() && required.is_empty()) {
        return Err(format!("`additionalProperties` of {place} has no grammar in this format"));
    }
    for name in required {
        if !fields.iter().any(|field| field.name == name) {
            if rest == Some(&Value::Bool(false)) {
                return Err(format!("no value fits {place}"));
            }
            fields.push(Field { name, schema: &ANYTHING, required: true });
        }
    }
    Ok(fields)
}

/// What writes a number: any, or by the library if there are bounds.
pub(super) fn number(kind: Kind, schema: &Map<String, Value>) -> String {
    const BOUNDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
    let name = if kind == Kind::Integer { "integer" } else { "number" };
    let bounds = BOUNDS.iter().filter_map(|key| Some(((*key).to_owned(), schema.get(*key)?.clone())));
    let mut bounds: Map<String, Value> = bounds.collect();
    if bounds.is_empty() {
        return regex(if kind == Kind::Integer { INTEGER } else { NUMBER });
    }
    bounds.insert("type".to_owned(), json!(name));
    format!("%json {}", Value::from(bounds))
}

/// A name that needs no quotes.
pub(super) fn bare(name: &str) -> Option<&str> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | '$' | '@' | '#' | '+');
    Some(name).filter(|name| !name.is_empty() && name.chars().all(plain))
}

pub(super) fn unnameable(name: &str, place: &str) -> String {
    format!("the name {} in {place} cannot be written in this format", quoted(name))
}
