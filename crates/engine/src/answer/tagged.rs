//! Calls whose arguments stand between tags or markers, as plain text that the tool's schema gives a type.

use serde_json::{Map, Value};

use super::Call;
use super::body::{Body, Fault, Parsed, Separators};
use super::tools::Tools;

/// Tags around arguments: `<function=` `name>` `<parameter=key>value</parameter>` `</function>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    /// Ends the opening tag of a call, and of an argument.
    pub head_end: &'static str,
    /// Begins the opening tag of an argument; its name follows.
    pub argument: &'static str,
    /// The closing tag of an argument.
    pub argument_end: &'static str,
    /// Tags around all arguments as one JSON object, where a format has both ways: the first opens without its end.
    pub object: Option<(&'static str, &'static str)>,
    /// What stands before and behind a tool's name in its tag.
    pub name: (&'static str, &'static str),
    /// What stands before and behind an argument's name in its tag.
    pub key: (&'static str, &'static str),
    /// What the tag of an argument says about its type.
    pub attribute: Option<Attribute>,
    /// The tag of a call has its number among the answer's calls.
    pub numbered: bool,
}

/// What a tag says about the type of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// `string="true"` of text, and `string="false"` of JSON.
    String,
    /// `type="string"` of text, and JSON's name of another type.
    Type,
}

impl Attribute {
    /// The attribute of a value of this type.
    pub(crate) fn says(self, kind: &str) -> String {
        match self {
            Attribute::String => format!(" string=\"{}\"", kind == "string"),
            Attribute::Type => format!(" type=\"{kind}\""),
        }
    }
}

/// Markers around keys and values in turn, after the tool's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pairs {
    /// Around a key.
    pub key: (&'static str, &'static str),
    /// Around a value.
    pub value: (&'static str, &'static str),
}

/// Reads over a text from marker to marker.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Steps over blank space and `marker` if that is what comes; fails if the text ends within it.
    fn opens(&mut self, marker: &str) -> Result<bool, Fault> {
        let rest = self.rest().trim_start();
        if rest.starts_with(marker) {
            self.at = self.text.len() - rest.len() + marker.len();
            return Ok(true);
        }
        if !rest.is_empty() && marker.starts_with(rest) {
            return Err(Fault::Unfinished(format!("it ends within `{marker}`")));
        }
        Ok(false)
    }

    /// The text before `marker`, over which it steps.
    fn until(&mut self, marker: &str) -> Result<&'a str, Fault> {
        let rest = self.rest();
        let length = rest.find(marker).ok_or_else(|| Fault::Unfinished(format!("it ends before `{marker}`")))?;
        self.at += length + marker.len();
        Ok(&rest[..length])
    }
}

/// The call that the opening tag in front of `text` begins.
pub(super) fn parse(tags: &Tags, text: &str, tools: &Tools) -> Parsed {
    let mut reader = Reader { text, at: 0 };
    let head = Head::of(reader.until(tags.head_end)?)?;
    let mut arguments = Map::new();
    loop {
        if let Some((open, close)) = tags.object
            && reader.opens(open)?
        {
            reader.until(tags.head_end)?;
            match serde_json::from_str(reader.until(close)?) {
                Ok(Value::Object(object)) => arguments.extend(object),
                _ => return Err(Fault::Wrong("its arguments are no JSON object".to_owned())),
            }
        } else if reader.opens(tags.argument)? {
            let key = Head::of(reader.until(tags.head_end)?)?;
            let text = content(reader.until(tags.argument_end)?);
            let value = match key.is_text() {
                Some(true) => Value::from(text),
                Some(false) => serde_json::from_str(text.trim()).unwrap_or_else(|_| text.into()),
                None => tools.argument(&head.name, &key.name, text),
            };
            arguments.insert(key.name, value);
        } else {
            let call = Call { id: None, name: head.name, arguments: arguments.into() };
            return Ok((vec![call], reader.at));
        }
    }
}

/// A name and keys and values; models fall back to JSON after the name, too.
pub(super) fn parse_pairs(pairs: &Pairs, text: &str, tools: &Tools) -> Parsed {
    let mut reader = Reader { text, at: 0 };
    let name = text.find(pairs.key.0).map_or(text, |at| &text[..at]);
    if name.len() == text.len() && text.contains('{') {
        return Body::Named(Separators::Name("\n"))
            .parse(text.trim_start(), tools)
            .map(|(calls, _)| (calls, text.len()));
    }
    reader.at = name.len();
    let name = name.trim();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(Fault::Wrong("the call has no name".to_owned()));
    }
    let mut arguments = Map::new();
    while reader.opens(pairs.key.0)? {
        let key = reader.until(pairs.key.1)?.trim();
        if !reader.opens(pairs.value.0)? {
            return Err(Fault::Wrong(format!("the argument {key} has no value")));
        }
        let value = content(reader.until(pairs.value.1)?);
        arguments.insert(key.to_owned(), tools.argument(name, key, value));
    }
    Ok((vec![Call { id: None, name: name.to_owned(), arguments: arguments.into() }], reader.at))
}

/// An argument's text, without the line ends that set it off and without `<![CDATA[…]]>`.
fn content(text: &str) -> &str {
    let text = text.strip_prefix('\n').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.trim().strip_prefix("<![CDATA[").and_then(|inner| inner.strip_suffix("]]>")).unwrap_or(text)
}

/// The inside of an opening tag: a name, perhaps in quotes or as an attribute, and further attributes.
struct Head {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Head {
    fn of(text: &str) -> Result<Self, Fault> {
        let (mut name, mut attributes) = (None, Vec::new());
        let mut rest = text.trim();
        while !rest.is_empty() {
            let key_length = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
            let (word, after) = match rest.chars().next() {
                Some(quote @ ('"' | '\'')) => rest[1..].split_once(quote).unwrap_or((&rest[1..], "")),
                _ => rest.split_at(key_length),
            };
            rest = after.trim_start();
            match rest.strip_prefix("=\"").and_then(|value| value.split_once('"')) {
                Some((value, after)) => {
                    let value = value.replace("&quot;", "\"").replace("&amp;", "&");
                    attributes.push((word.to_owned(), value));
                    rest = after.trim_start();
                }
                None if name.is_none() && attributes.is_empty() => name = Some(word.to_owned()),
                None => return Err(Fault::Wrong(format!("`{text}` is no name"))),
            }
        }
        let named = |wanted: &str| attributes.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone());
        let name = name.or_else(|| ["name", "tool", "key"].into_iter().find_map(named)).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Fault::Wrong("the call has no name".to_owned()))?;
        Ok(Self { name, attributes })
    }

    /// What an argument's tag says about its type: text, or JSON.
    fn is_text(&self) -> Option<bool> {
        self.attributes.iter().find_map(|(key, value)| match key.as_str() {
            "string" => Some(value == "true"),
            "type" => Some(value == "string"),
            _ => None,
        })
    }
}
