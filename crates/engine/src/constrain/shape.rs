//! What a schema says, for notations that no library writes grammars for.

use serde_json::{Map, Value};

use super::rules::regex;
use crate::answer::resolve;

/// Why a schema has no grammar: what it says, and where.
pub(super) type Refused<T> = Result<T, String>;

/// What a schema accepts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape<'s> {
    /// Everything.
    Any,
    /// What a definition accepts, under its pointer.
    Reference(&'s str),
    /// These values.
    Values(Vec<&'s Value>),
    /// What one of these accepts.
    Either(Vec<&'s Value>),
    /// Values of these types, under the conditions of the object.
    Typed(Vec<Kind>, &'s Map<String, Value>),
}

/// A type of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    Null,
    List,
    Object,
}

const KINDS: [(&str, Kind); 7] = [
    ("string", Kind::Text),
    ("integer", Kind::Integer),
    ("number", Kind::Number),
    ("boolean", Kind::Boolean),
    ("null", Kind::Null),
    ("array", Kind::List),
    ("object", Kind::Object),
];

/// Conditions, and the types that they are about.
const CONDITIONS: [(&str, Kind); 16] = [
    ("minLength", Kind::Text),
    ("maxLength", Kind::Text),
    ("pattern", Kind::Text),
    ("minimum", Kind::Number),
    ("maximum", Kind::Number),
    ("exclusiveMinimum", Kind::Number),
    ("exclusiveMaximum", Kind::Number),
    ("multipleOf", Kind::Number),
    ("items", Kind::List),
    ("minItems", Kind::List),
    ("maxItems", Kind::List),
    ("uniqueItems", Kind::List),
    ("properties", Kind::Object),
    ("required", Kind::Object),
    ("additionalProperties", Kind::Object),
    ("format", Kind::Text),
];

/// What changes the meaning of a schema and has no grammar here.
const REFUSED: [&str; 20] = [
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "patternProperties",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "minProperties",
    "maxProperties",
    "contains",
    "minContains",
    "maxContains",
    "prefixItems",
    "additionalItems",
    "$dynamicRef",
    "$recursiveRef",
];

/// Reads a schema.
pub(super) fn shape<'s>(root: &'s Value, schema: &'s Value, place: &str) -> Refused<Shape<'s>> {
    let object = match schema {
        Value::Bool(true) => return Ok(Shape::Any),
        Value::Object(object) => object,
        _ => return Err(format!("no value fits {place}")),
    };
    if let Some(keyword) = REFUSED.into_iter().find(|keyword| object.contains_key(*keyword)) {
        return Err(format!("`{keyword}` of {place} has no grammar in this format"));
    }
    let says = |keyword: &str| object.contains_key(keyword);
    let conditions: Vec<&str> = CONDITIONS.into_iter().map(|(keyword, _)| keyword).filter(|k| says(k)).collect();
    let beside = |keyword: &str, others: &[&str]| match conditions.iter().chain(others).find(|other| says(other)) {
        Some(other) => Err(format!("`{other}` beside `{keyword}` of {place} has no grammar in this format")),
        None => Ok(()),
    };
    if let Some(pointer) = object.get("$ref") {
        beside("$ref", &["type", "enum", "const", "anyOf", "oneOf", "allOf"])?;
        let pointer = pointer.as_str().filter(|_| resolve(root, schema).is_some());
        return pointer.map(Shape::Reference).ok_or_else(|| format!("the `$ref` of {place} leads nowhere"));
    }
    if let Some(all) = object.get("allOf") {
        beside("allOf", &["type", "enum", "const", "anyOf", "oneOf"])?;
        return match all.as_array().map(Vec::as_slice) {
            Some([only]) => shape(root, only, place),
            _ => Err(format!("`allOf` of {place} has no grammar in this format")),
        };
    }
    for keyword in ["anyOf", "oneOf"] {
        let Some(branches) = object.get(keyword) else { continue };
        beside(keyword, &["type", "enum", "const"])?;
        let branches: Vec<&Value> = branches.as_array().into_iter().flatten().collect();
        if branches.is_empty() || (keyword == "oneOf" && !disjoint(root, &branches, place)?) {
            return Err(format!("`{keyword}` of {place} has no grammar in this format"));
        }
        return Ok(Shape::Either(branches));
    }
    let kinds = kinds(object, place)?;
    let values = object.get("const").map(|value| vec![value]);
    let values = values.or_else(|| Some(object.get("enum")?.as_array()?.iter().collect()));
    if let Some(mut values) = values {
        beside("enum", &[])?;
        values.retain(|value| kinds.is_empty() || kinds.iter().any(|kind| kind.has(value)));
        return if values.is_empty() { Err(format!("no value fits {place}")) } else { Ok(Shape::Values(values)) };
    }
    typed(object, kinds, &conditions)
}

/// The types that a schema names, and where it names none those that its conditions are about.
fn typed<'s>(object: &'s Map<String, Value>, kinds: Vec<Kind>, conditions: &[&str]) -> Refused<Shape<'s>> {
    if !kinds.is_empty() {
        return Ok(Shape::Typed(kinds, object));
    }
    let about = CONDITIONS.into_iter().find(|(keyword, _)| conditions.contains(keyword));
    Ok(about.map_or(Shape::Any, |(_, kind)| Shape::Typed(vec![kind], object)))
}

fn kinds(object: &Map<String, Value>, place: &str) -> Refused<Vec<Kind>> {
    let names: Vec<&Value> = match object.get("type") {
        None => return Ok(Vec::new()),
        Some(Value::Array(names)) => names.iter().collect(),
        Some(name) => vec![name],
    };
    let kind = |name: &Value| KINDS.into_iter().find(|(known, _)| name == known).map(|(_, kind)| kind);
    let kinds = names.into_iter().map(|name| kind(name).ok_or_else(|| format!("{place} has the unknown type {name}")));
    kinds.collect()
}

/// Whether no value fits two of the schemas.
fn disjoint(root: &Value, schemas: &[&Value], place: &str) -> Refused<bool> {
    let mut seen: Vec<Kind> = Vec::new();
    let mut values: Vec<&Value> = Vec::new();
    for schema in schemas {
        let schema = resolve(root, schema).ok_or_else(|| format!("the `$ref` of {place} leads nowhere"))?;
        match shape(root, schema, place)? {
            Shape::Values(more) => {
                if more.iter().any(|value| values.contains(value)) {
                    return Ok(false);
                }
                values.extend(more);
            }
            Shape::Typed(kinds, _) => {
                let same = |a: Kind, b: Kind| a == b || (a.is_number() && b.is_number());
                if kinds.iter().any(|kind| seen.iter().any(|other| same(*kind, *other))) {
                    return Ok(false);
                }
                seen.extend(kinds);
            }
            _ => return Ok(false),
        }
    }
    Ok(!values.iter().any(|value| seen.iter().any(|kind| kind.has(value))))
}

impl Kind {
    fn has(self, value: &Value) -> bool {
        match self {
            Kind::Text => value.is_string(),
            Kind::Integer => value.as_f64().is_some_and(|n| n.fract() == 0.0),
            Kind::Number => value.is_number(),
            Kind::Boolean => value.is_boolean(),
            Kind::Null => value.is_null(),
            Kind::List => value.is_array(),
            Kind::Object => value.is_object(),
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Kind::Integer | Kind::Number)
    }
}

/// What a schema says about texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TextShape {
    /// Fewest characters, and most.
    lengths: (u64, Option<u64>),
    /// What the whole text matches, as grammars write it.
    patterns: Vec<String>,
}

impl TextShape {
    pub(super) fn of(schema: &Map<String, Value>, place: &str) -> Refused<Self> {
        let mut patterns = Vec::new();
        if let Some(pattern) = schema.get("pattern") {
            let pattern = pattern.as_str().ok_or_else(|| format!("the `pattern` of {place} is no text"))?;
            patterns.push(format!("/{}/", search(&llguidance::regex_to_lark(pattern, "dw"))));
        }
        if let Some(name) = schema.get("format") {
            let known = FORMATS.iter().find(|(known, _)| name == known);
            let (_, expression) = known.ok_or_else(|| format!("the `format` {name} of {place} has no grammar"))?;
            patterns.push(regex(expression));
        }
        Ok(Self { lengths: limits(schema, ["minLength", "maxLength"], place)?, patterns })
    }

    /// Whether every text fits.
    pub(super) fn is_free(&self) -> bool {
        *self == Self::default()
    }

    /// The regular expression of the texts that fit and consist of `characters`; or, where nothing but the length matters,
    /// of `units`, a character or an escape each.
    pub(super) fn expression(&self, characters: &str, units: &str) -> String {
        let repeat = match self.lengths {
            (0, None) => "*".to_owned(),
            (least, None) => format!("{{{least},}}"),
            (least, Some(most)) => format!("{{{least},{most}}}"),
        };
        if self.patterns.is_empty() {
            return regex(&format!("(?:{units}){repeat}"));
        }
        format!("({} & {})", self.patterns.join(" & "), regex(&format!("(?:{characters}){repeat}")))
    }
}

/// The two bounds of a length.
pub(super) fn limits(schema: &Map<String, Value>, keywords: [&str; 2], place: &str) -> Refused<(u64, Option<u64>)> {
    let bound = |keyword: &str| match schema.get(keyword) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("`{keyword}` of {place} is no length")),
    };
    let (least, most) = (bound(keywords[0])?.unwrap_or(0), bound(keywords[1])?);
    match most.is_some_and(|most| most < least) {
        true => Err(format!("no value fits {place}")),
        false => Ok((least, most)),
    }
}

/// What matches whole texts in which `pattern` is found. Anchors inside it are left for the compiler to refuse.
fn search(pattern: &str) -> String {
    let (mut depth, mut class, mut either, mut last) = (0, false, false, None);
    let mut chars = pattern.char_indices();
    while let Some((at, c)) = chars.next() {
        last = None;
        match c {
            '\\' => drop(chars.next()),
            '[' => class = true,
            ']' => class = false,
            '(' if !class => depth += 1,
            ')' if !class => depth -= 1,
            '|' if !class && depth == 0 => either = true,
            '$' if !class => last = Some(at),
            _ => {}
        }
    }
    if either {
        return format!("(?s:.*)(?:{pattern})(?s:.*)");
    }
    let (from, before) = if pattern.starts_with('^') { (1, "") } else { (0, "(?s:.*)") };
    let (to, after) = last.map_or((pattern.len(), "(?s:.*)"), |at| (at, ""));
    format!("{before}(?:{}){after}", &pattern[from.min(to)..to])
}

macro_rules! date {
    () => {
        "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|\
         02-(?:0[1-9]|1[0-9]|2[0-8])))"
    };
}

macro_rules! time {
    () => {
        "(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]))"
    };
}

/// What texts of a format look like; every match is one, and a few rare ones are left out.
const FORMATS: [(&str, &str); 7] = [
    ("date", date!()),
    ("time", time!()),
    ("date-time", concat!(date!(), "T", time!())),
    ("uuid", "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    (
        "ipv4",
        "(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])",
    ),
    (
        "email",
        "[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+)*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\.)+[A-Za-z]{2,24}",
    ),
    ("uri", "[A-Za-z][A-Za-z0-9+.-]*:(?://)?(?:[A-Za-z0-9._~!$'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})+"),
];
