//! Grammars of arguments that are written as plain text between tags.

use serde_json::{Map, Value};

use super::notation::{Notation, Values, number};
use super::quoted;
use super::rules::{ANY, Rules, regex};
use super::shape::{Kind, Refused, Shape, TextShape, shape};
use crate::answer::{Attribute, Tools, resolve};

/// An argument of a tool.
pub(super) struct Argument<'s> {
    pub(super) tools: &'s Tools,
    pub(super) tool: &'s str,
    pub(super) name: &'s str,
    /// The schema of all arguments.
    pub(super) root: &'s Value,
    /// What ends the argument.
    pub(super) end: &'static str,
}

/// What an argument may be: a value, or every value of a type.
enum Leaf<'s> {
    Any,
    Value(&'s Value),
    Typed(Kind, &'s Map<String, Value>),
}

impl Leaf<'_> {
    fn is_text(&self) -> bool {
        matches!(self, Leaf::Typed(Kind::Text, _) | Leaf::Value(Value::String(_)))
    }
}

impl<'s> Argument<'s> {
    fn place(&self) -> String {
        format!("`{}`", self.name)
    }

    /// What a schema accepts, without its references and alternatives.
    fn leaves(&self, schema: &'s Value, depth: usize) -> Refused<Vec<Leaf<'s>>> {
        const DEEPEST: usize = 16;
        let place = self.place();
        Ok(match shape(self.root, schema, &place)? {
            _ if depth > DEEPEST => return Err(format!("{place} refers to itself")),
            Shape::Any => vec![Leaf::Any],
            Shape::Values(values) => values.into_iter().map(Leaf::Value).collect(),
            Shape::Typed(kinds, object) => kinds.into_iter().map(|kind| Leaf::Typed(kind, object)).collect(),
            Shape::Reference(_) => {
                let target =
                    resolve(self.root, schema).ok_or_else(|| format!("the `$ref` of {place} leads nowhere"))?;
                self.leaves(target, depth + 1)?
            }
            Shape::Either(branches) => {
                let leaves = branches.into_iter().map(|branch| self.leaves(branch, depth + 1));
                leaves.collect::<Refused<Vec<_>>>()?.into_iter().flatten().collect()
            }
        })
    }

    /// What writes the argument and its end, where the tool's schema tells text from other values.
    pub(super) fn plain(&self, rules: &mut Rules<'_>, schema: &'s Value) -> Refused<String> {
        let leaves = self.leaves(schema, 0)?;
        let texts = leaves.iter().any(Leaf::is_text);
        let (mut bodies, mut others) = (Vec::new(), Vec::new());
        for leaf in &leaves {
            match leaf {
                Leaf::Any => bodies.push(ANY.to_owned()),
                Leaf::Value(value) => bodies.push(self.literal(value)?),
                Leaf::Typed(Kind::Text, object) => bodies.push(self.text(object, &leaves)?),
                Leaf::Typed(Kind::Boolean, _) => bodies.push("/true|false|True|False/".to_owned()),
                Leaf::Typed(Kind::Null, _) => bodies.push("/null|None/".to_owned()),
                Leaf::Typed(kind @ (Kind::Integer | Kind::Number), object) => {
                    let body = number(*kind, object);
                    if !body.starts_with("%json") {
                        bodies.push(body);
                    } else if texts {
                        return Err(format!(
                            "{} is text or a number with bounds, which this format cannot tell apart",
                            self.place()
                        ));
                    } else {
                        others.push(body);
                    }
                }
                Leaf::Typed(kind, object) => others.push(self.json(rules, |v| v.typed(*kind, object, &self.place()))?),
            }
        }
        let mut found = Vec::new();
        if !bodies.is_empty() {
            let bodies: Vec<String> = bodies.iter().map(|body| format!("/\\n?/ {body} /\\n?/")).collect();
            found.push(rules.until(&bodies, self.end));
        }
        let end = rules.marker(self.end);
        found.extend(others.into_iter().map(|other| format!("\"\\n\"? {other} \"\\n\"? {end}")));
        Ok(format!("({})", found.join(" | ")))
    }

    /// What writes the tag's attribute, its end, the argument, and the argument's end, where the tag says what is text.
    pub(super) fn told(
        &self,
        rules: &mut Rules<'_>,
        schema: &'s Value,
        attribute: Attribute,
        tag_end: &str,
    ) -> Refused<String> {
        let leaves = self.leaves(schema, 0)?;
        let (end, place) = (rules.marker(self.end), self.place());
        let mut found = Vec::new();
        for leaf in &leaves {
            let (kind, written) = match leaf {
                Leaf::Any => {
                    let text = rules.until(&[ANY.to_owned()], self.end);
                    found.push(format!("{} {text}", rules.marker(&(attribute.says("string") + tag_end))));
                    continue;
                }
                Leaf::Value(value @ Value::String(_)) => ("string", rules.until(&[self.literal(value)?], self.end)),
                Leaf::Typed(Kind::Text, object) => {
                    let body = self.body(object)?;
                    ("string", rules.until(&[body], self.end))
                }
                Leaf::Value(value) => {
                    let text = self.json(rules, |v| v.literal(value, &place))?;
                    (kind_of(value), format!("{text} {end}"))
                }
                Leaf::Typed(kind, object) => {
                    let text = self.json(rules, |v| v.typed(*kind, object, &place))?;
                    (name_of(*kind), format!("{text} {end}"))
                }
            };
            found.push(format!("{} {written}", rules.marker(&(attribute.says(kind) + tag_end))));
        }
        Ok(format!("({})", found.join(" | ")))
    }

    fn json(
        &self,
        rules: &mut Rules<'_>,
        write: impl FnOnce(&mut Values<'_, '_>) -> Refused<String>,
    ) -> Refused<String> {
        write(&mut Values::new(rules, self.root, Notation::JsonWithout(self.end)))
    }

    /// A value as the parser reads it back.
    fn literal(&self, value: &Value) -> Refused<String> {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let kept = !text.starts_with('\n') && !text.ends_with('\n') && !text.contains("<![CDATA[");
        if !kept || text.contains(self.end) || self.tools.argument(self.tool, self.name, &text) != *value {
            return Err(format!("{value} of {} would be read as something else", self.place()));
        }
        Ok(quoted(&text))
    }

    /// The texts of a schema. Under conditions a text has no edges that the parser would cut.
    fn body(&self, schema: &Map<String, Value>) -> Refused<String> {
        let shape = TextShape::of(schema, &self.place())?;
        if shape.is_free() {
            return Ok(ANY.to_owned());
        }
        Ok(format!("({} & ~/(?s:\\n.*|.*\\n|\\s*<!\\[CDATA\\[.*)/)", shape.expression("(?s:.)", "(?s:.)")))
    }

    /// The texts of a schema, without those that the parser would take for values of the other types.
    fn text(&self, schema: &Map<String, Value>, leaves: &[Leaf<'_>]) -> Refused<String> {
        let mut body = self.body(schema)?;
        for leaf in leaves {
            let taken = match leaf {
                Leaf::Value(value) if !value.is_string() => value_kind(value),
                Leaf::Typed(kind, _) => *kind,
                _ => continue,
            };
            let taken = match taken {
                Kind::Text => continue,
                Kind::Boolean => "true|false|True|False".to_owned(),
                Kind::Null => "null|None".to_owned(),
                // Readers take more for numbers than is written here.
                Kind::Integer | Kind::Number => "[-+]?[0-9._]+(?:[eE][-+]?[0-9_]*)?".to_owned(),
                Kind::List => "[\\[(](?s:.*)".to_owned(),
                Kind::Object => "\\{(?s:.*)".to_owned(),
            };
            body = format!("({body} & ~{})", regex(&format!("\\s*(?:{taken})\\s*")));
        }
        Ok(body)
    }
}

fn value_kind(value: &Value) -> Kind {
    match value {
        Value::Null => Kind::Null,
        Value::Bool(_) => Kind::Boolean,
        Value::Number(_) => Kind::Number,
        Value::String(_) => Kind::Text,
        Value::Array(_) => Kind::List,
        Value::Object(_) => Kind::Object,
    }
}

fn kind_of(value: &Value) -> &'static str {
    name_of(value_kind(value))
}

/// The name of a type in a tag, where whole numbers are numbers.
fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "string",
        Kind::Integer | Kind::Number => "number",
        Kind::Boolean => "boolean",
        Kind::Null => "null",
        Kind::List => "array",
        Kind::Object => "object",
    }
}
