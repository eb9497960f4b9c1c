//! Grammars for calls of tools: the format's own syntax, with the arguments' schemas inside.

use serde_json::{Map, Value, json};

use super::arguments::Argument;
use super::notation::{Field, Notation, Values, bare, fields, unnameable};
use super::rules::{ANY, Rules, list, without};
use super::shape::{Kind, Refused, Shape, shape};
use super::{Constrainer, Grammar, quoted, spaced};
use crate::answer::{
    AnswerFormat, Body, CallSyntax, Keys, Pairs, Separators, Several, Tags, ToolFormat, Tools, resolve,
};
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
    /// The grammar of answers that call `tools` in `format`, with arguments that their schemas accept: those that a schema
    /// names, in its order.
    ///
    /// # Errors
    /// If there is no such tool, or the format writes no calls or cannot carry what a schema says; the message names it.
    pub fn calls(&self, format: &AnswerFormat, tools: &Tools, choice: &ToolChoice) -> Result<Grammar> {
        let names: Vec<&str> = match choice {
            ToolChoice::Named(name) => tools.names().filter(|known| known == name).collect(),
            _ => tools.names().collect(),
        };
        if names.is_empty() {
            let wanted = if let ToolChoice::Named(name) = choice { format!(" called {name}") } else { String::new() };
            return Err(EngineError::new(ErrorKind::InvalidInput, format!("there is no tool{wanted} to call")));
        }
        let format = match format {
            AnswerFormat::Marked { tools: Some(format), .. } => format,
            AnswerFormat::Channels => {
                return self
                    .messages(tools, &names, choice)
                    .map_err(|why| unsupported("channels", &names.join(", "), &why));
            }
            _ => {
                let message = "calls cannot be constrained: the model has no known way to write them";
                return Err(EngineError::new(ErrorKind::Unsupported, message).with_remedy("let it answer without"));
            }
        };
        let mut calls = Calls { rules: Rules::new(self.trie()), format, tools };
        let mut bodies = Vec::new();
        for name in names {
            bodies.push(calls.body(name).map_err(|why| unsupported(format.name, name, &why))?);
        }
        let call = calls.rules.rule(&bodies.join(" | "));
        let start = calls.start(&call, choice);
        Ok(Grammar::Lark(calls.rules.finish(&start)))
    }
}

/// Blank space that may stand between the parts of calls.
const BLANK: &str = "/ |\\n {0,8}/?";

/// The rules of calls.
struct Calls<'a> {
    rules: Rules<'a>,
    format: &'a ToolFormat,
    tools: &'a Tools,
}

impl Calls<'_> {
    fn syntax(&self) -> CallSyntax {
        self.format.calls[0]
    }

    /// The answer, of which `call` is one call without what stands around it.
    fn start(&mut self, call: &str, choice: &ToolChoice) -> String {
        let CallSyntax { open, close, several, .. } = self.syntax();
        let once = matches!(choice, ToolChoice::Named(_));
        let calls = match several {
            Several::Apart => call.to_owned(),
            Several::List if once => format!("\"[\" {BLANK} {call} {BLANK} \"]\""),
            Several::List => format!("\"[\" {BLANK} {call} (\",\" {BLANK} {call})* {BLANK} \"]\""),
            Several::Lines if once => call.to_owned(),
            Several::Lines => format!("{call} (\"\\n\" {call})*"),
        };
        let (first, rest) = match self.format.section {
            None => (open, format!("{BLANK} {calls} {BLANK} {}", self.rules.marker(close))),
            Some((first, last)) => {
                let (open, close) = (self.rules.marker(open), self.rules.marker(close));
                let one = format!("{open} {BLANK} {calls} {BLANK} {close} {BLANK}");
                let one = if once { one } else { format!("({one})+") };
                (first, format!("{BLANK} {one} {}", self.rules.marker(last)))
            }
        };
        let rest = self.rules.rule(&rest);
        let group = self.rules.rule(&format!("{} {rest}", self.rules.marker(first)));
        let more = if once { String::new() } else { format!("({BLANK} {group})* {BLANK}") };
        let bare =
            self.is_bare().then(|| format!(" | {calls}{}", if once || several != Several::Apart { "" } else { "+" }));
        let bare = bare.unwrap_or_default();
        if *choice == ToolChoice::Auto {
            let text = self.text();
            let called = self.rules.until(std::slice::from_ref(&text), first);
            let text = self.rules.terminal(&text);
            return format!("{text} | {called} {rest} {more}{bare}");
        }
        format!("{BLANK} {group} {more}{bare}")
    }

    /// Whether calls may come without their markers, too.
    fn is_bare(&self) -> bool {
        let CallSyntax { body, open, .. } = self.syntax();
        let same = |other: &CallSyntax| std::mem::discriminant(&other.body) == std::mem::discriminant(&body);
        !open.is_empty() && self.format.calls.iter().any(|other| other.open.is_empty() && same(other))
    }

    /// Text in which no call begins.
    fn text(&self) -> String {
        let section = self.format.section.map(|(open, _)| open);
        let markers = self.format.calls.iter().map(|call| call.open).chain(section);
        let mut text = ANY.to_owned();
        for marker in markers.filter(|marker| !marker.is_empty()) {
            text = format!("({text} & {})", without(marker));
        }
        if self.format.calls.iter().any(|call| call.open.is_empty()) {
            text = format!("({text} & ~/\\s*[\\[{{](?s:.*)/)");
        }
        text
    }

    /// A call of one tool.
    fn body(&mut self, name: &str) -> Refused<String> {
        let empty = json!({"type": "object"});
        let schema = self.tools.parameters(name).filter(|schema| !schema.is_null()).unwrap_or(&empty).clone();
        match self.syntax().body {
            Body::Json(keys) => json_call(name, keys, schema),
            Body::KeyedJson => Ok(format!("%json {}", wrapped(schema, |schema| json!({name: schema}), &[name])?)),
            Body::Named(separators) => self.named(name, separators, schema),
            Body::Tagged(tags) => self.tagged(name, &tags, &schema),
            Body::Pairs(pairs) => self.pairs(name, &pairs, &schema),
            Body::Python => self.literals(name, ("(", "=", ")"), Notation::Python, &schema),
            Body::Braces(mark) => {
                self.literals(&format!("call:{name}"), ("{", ":", "}"), Notation::Marked(mark), &schema)
            }
        }
    }

    fn named(&mut self, name: &str, separators: Separators, schema: Value) -> Refused<String> {
        let name = bare(name).ok_or_else(|| unnameable(name, "the call"))?;
        let schema = format!("%json {}", spaced(schema).map_err(|e| e.to_string())?);
        let marker = |marker: &str| self.rules.marker(marker);
        Ok(match separators {
            Separators::Name(last) | Separators::NameId(_, last) => {
                format!("{} {} {schema}", quoted(name), marker(last))
            }
            Separators::IdName(first, last) => {
                format!("/[0-9A-Za-z_-]{{1,32}}/ {} {} {} {schema}", marker(first), quoted(name), marker(last))
            }
            Separators::Indexed(last) => {
                let name = quoted(&format!("functions.{name}:"));
                format!("{name} /0|[1-9][0-9]{{0,3}}/ {} {schema}", marker(last))
            }
            Separators::Typed(separator) => {
                let (separator, plain) = (marker(separator), quoted(name));
                let fenced = quoted(&format!("{name}\n```json\n"));
                format!("(\"function\" {separator} {fenced} {schema} \"\\n\"? \"```\" | {plain} {separator} {schema})")
            }
        })
    }

    fn tagged(&mut self, name: &str, tags: &Tags, schema: &Value) -> Refused<String> {
        let tool = name;
        let name = bare(name).ok_or_else(|| unnameable(name, "the call"))?;
        let head = self.rules.marker(&[tags.name.0, name, tags.name.1].concat());
        let number = if tags.numbered { "\" index=\\\"\" /[1-9][0-9]{0,2}/ \"\\\"\"" } else { "" };
        let mut items = vec![format!("{head} {number} {} {BLANK}", self.rules.marker(tags.head_end))];
        for field in arguments(schema)? {
            let key = bare(field.name).ok_or_else(|| unnameable(field.name, "the arguments"))?;
            let head = [tags.argument, tags.key.0, key, tags.key.1].concat();
            let argument = Argument { tools: self.tools, tool, name: key, root: schema, end: tags.argument_end };
            let item = match tags.attribute {
                Some(attribute) => {
                    let value = argument.told(&mut self.rules, field.schema, attribute, tags.head_end)?;
                    format!("{} {value}", self.rules.marker(&head))
                }
                None => {
                    let value = argument.plain(&mut self.rules, field.schema)?;
                    format!("{} {value}", self.rules.marker(&(head + tags.head_end)))
                }
            };
            items.push(self.optional(&item, &field));
        }
        Ok(items.join(" "))
    }

    fn pairs(&mut self, name: &str, pairs: &Pairs, schema: &Value) -> Refused<String> {
        let tool = name;
        let name = bare(name).ok_or_else(|| unnameable(name, "the call"))?;
        let mut items = vec![format!("{} {BLANK}", quoted(name))];
        for field in arguments(schema)? {
            let key = bare(field.name).ok_or_else(|| unnameable(field.name, "the arguments"))?;
            let argument = Argument { tools: self.tools, tool, name: key, root: schema, end: pairs.value.1 };
            let value = argument.plain(&mut self.rules, field.schema)?;
            let key = self.rules.marker(&[pairs.key.0, key, pairs.key.1].concat());
            let item = format!("{key} {BLANK} {} {value}", self.rules.marker(pairs.value.0));
            items.push(self.optional(&item, &field));
        }
        Ok(items.join(" "))
    }

    /// An argument that may be left out if it is not required, with blank space behind it.
    fn optional(&mut self, item: &str, field: &Field<'_>) -> String {
        let rule = self.rules.rule(&format!("{item} {BLANK}"));
        if field.required { rule } else { format!("{rule}?") }
    }

    /// Arguments with their names between brackets, as programs write them.
    fn literals(
        &mut self,
        name: &str,
        (open, is, close): (&str, &str, &str),
        notation: Notation,
        schema: &Value,
    ) -> Refused<String> {
        let word = |name: &str| name.chars().all(|c| c.is_alphanumeric() || c == '_');
        let fits = |part: &str| bare(part).is_some() && (notation != Notation::Python || word(part));
        if !name.split(['.', '-', ':']).all(fits) {
            return Err(unnameable(name, "the call"));
        }
        let mut items = Vec::new();
        for field in arguments(schema)? {
            if !fits(field.name) {
                return Err(unnameable(field.name, "the arguments"));
            }
            let mut values = Values::new(&mut self.rules, schema, notation);
            let value = values.value(field.schema, &format!("`{}`", field.name))?;
            items.push((format!("{} {value}", quoted(&format!("{}{is}", field.name))), field.required));
        }
        let separator = if notation == Notation::Python { "/, ?/" } else { "\",\"" };
        let items = list(&mut self.rules, &items, separator);
        Ok(format!("{} {items} {}", quoted(&format!("{name}{open}")), quoted(close)))
    }
}

/// The arguments that a schema names, if it is about nothing else.
fn arguments(schema: &Value) -> Refused<Vec<Field<'_>>> {
    let target = resolve(schema, schema).ok_or("the `$ref` of the arguments leads nowhere")?;
    match shape(schema, target, "the arguments")? {
        Shape::Any => Ok(Vec::new()),
        Shape::Typed(kinds, object) if kinds == [Kind::Object] => {
            let fields = fields(object, "the arguments")?;
            let open = object.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false));
            if open {
                return Err("`additionalProperties` of the arguments has no grammar in this format".to_owned());
            }
            Ok(fields)
        }
        _ => Err("the arguments are no plain object".to_owned()),
    }
}

/// `{"name": NAME, "arguments": {…}}`, perhaps with an id before it, or fenced as code.
fn json_call(name: &str, keys: Keys, schema: Value) -> Refused<String> {
    let properties = |schema: Value| {
        let id = keys.id.map(|key| (key.to_owned(), json!({"type": "string", "pattern": "^[0-9A-Za-z_-]{1,32}$"})));
        let own = [(keys.name.to_owned(), json!({"const": name})), (keys.arguments.to_owned(), schema)];
        Value::Object(id.into_iter().chain(own).collect())
    };
    Ok(format!("%json {}", wrapped(schema, properties, &[keys.name, keys.arguments])?))
}

/// The schema of an object in which `schema` is one of the properties; definitions stay where references look for them.
fn wrapped(mut schema: Value, properties: impl FnOnce(Value) -> Value, required: &[&str]) -> Refused<Value> {
    movable(&schema)?;
    let mut whole = Map::new();
    for definitions in ["$defs", "definitions"] {
        if let Some(found) = schema.as_object_mut().and_then(|s| s.shift_remove(definitions)) {
            whole.insert(definitions.to_owned(), found);
        }
    }
    whole.insert("type".to_owned(), "object".into());
    whole.insert("properties".to_owned(), properties(schema));
    whole.insert("required".to_owned(), json!(required));
    whole.insert("additionalProperties".to_owned(), false.into());
    spaced(whole.into()).map_err(|e| e.to_string())
}

/// Refuses references that lead elsewhere once the schema is a part of another.
fn movable(schema: &Value) -> Refused<()> {
    match schema {
        Value::Object(object) => {
            let found = object.get("$ref").and_then(Value::as_str);
            if let Some(pointer) = found.filter(|p| !p.starts_with("#/$defs/") && !p.starts_with("#/definitions/")) {
                return Err(format!("the `$ref` to {pointer} has no grammar in this format"));
            }
            object.values().try_for_each(movable)
        }
        Value::Array(items) => items.iter().try_for_each(movable),
        _ => Ok(()),
    }
}

fn unsupported(format: &str, tool: &str, why: &str) -> EngineError {
    let message = format!("calls of {tool} in the format {format} cannot be constrained: {why}");
    EngineError::new(ErrorKind::Unsupported, message)
        .with_remedy("change the tool's parameters, or let the model call without constraint")
}
