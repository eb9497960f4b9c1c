//! Python's way to write values and calls: `[weather(city="Paris", days=3)]`.

use serde_json::{Map, Number, Value};

use super::Call;
use super::body::Fault;

/// Containers inside containers that are read; deeper ones are refused, so that no text exhausts the stack.
const DEEPEST: usize = 64;

/// The value that `text` spells, if it spells exactly one.
pub(super) fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader::new(text);
    let value = reader.value(0).ok()?;
    reader.blank();
    reader.rest().is_empty().then_some(value)
}

/// Calls in a list, `[f(a=1), g()]`, or one after the other; with the number of bytes that they take.
pub(super) fn calls(text: &str) -> Result<(Vec<Call>, usize), Fault> {
    let mut reader = Reader::new(text);
    reader.blank();
    let list = reader.eat('[');
    let (mut calls, mut end) = (Vec::new(), reader.at);
    loop {
        reader.blank();
        if list && reader.eat(']') {
            end = reader.at;
            break;
        }
        if !list && !calls.is_empty() && !reader.rest().starts_with(|c: char| c.is_alphabetic() || c == '_') {
            break;
        }
        calls.push(reader.call()?);
        end = reader.at;
        reader.blank();
        reader.eat(',');
    }
    if calls.is_empty() {
        return Err(Fault::Wrong("the list of calls is empty".to_owned()));
    }
    Ok((calls, end))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), Fault> {
        self.blank();
        if self.eat(wanted) { Ok(()) } else { Err(self.fault(&format!("`{wanted}`"))) }
    }

    fn fault(&self, wanted: &str) -> Fault {
        match self.rest().chars().next() {
            None => Fault::Unfinished(format!("it ends where {wanted} is due")),
            Some(found) => Fault::Wrong(format!("`{found}` stands where {wanted} is due")),
        }
    }

    /// A name, with dots where `dotted`.
    fn name(&mut self, dotted: bool) -> Result<&'a str, Fault> {
        self.blank();
        let rest = self.rest();
        let part = |c: char| c.is_alphanumeric() || c == '_' || (dotted && (c == '.' || c == '-'));
        let length = rest.find(|c| !part(c)).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.fault("a name"));
        }
        self.at += length;
        Ok(&rest[..length])
    }

    fn call(&mut self) -> Result<Call, Fault> {
        let name = self.name(true)?.to_owned();
        self.expect('(')?;
        let mut arguments = Map::new();
        loop {
            self.blank();
            if self.eat(')') {
                return Ok(Call { id: None, name, arguments: arguments.into() });
            }
            let key = self.name(false)?;
            self.expect('=')?;
            let value = self.value(0)?;
            arguments.insert(key.to_owned(), value);
            self.blank();
            if !self.eat(',') && !self.rest().starts_with(')') {
                return Err(self.fault("`,` or `)`"));
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth > DEEPEST {
            return Err(Fault::Wrong(format!("values are nested more than {DEEPEST} deep")));
        }
        self.blank();
        match self.rest().chars().next() {
            Some('"' | '\'') => self.string().map(Value::String),
            Some('[') => self.list('[', ']', depth),
            Some('(') => self.list('(', ')', depth),
            Some('{') => self.dict(depth),
            _ => self.word(),
        }
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Result<Value, Fault> {
        self.expect(open)?;
        let mut items = Vec::new();
        loop {
            self.blank();
            if self.eat(close) {
                return Ok(items.into());
            }
            items.push(self.value(depth + 1)?);
            self.blank();
            if !self.eat(',') && !self.rest().starts_with(close) {
                return Err(self.fault(&format!("`,` or `{close}`")));
            }
        }
    }

    fn dict(&mut self, depth: usize) -> Result<Value, Fault> {
        self.expect('{')?;
        let mut items = Map::new();
        loop {
            self.blank();
            if self.eat('}') {
                return Ok(items.into());
            }
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            self.expect(':')?;
            items.insert(key, self.value(depth + 1)?);
            self.blank();
            if !self.eat(',') && !self.rest().starts_with('}') {
                return Err(self.fault("`,` or `}`"));
            }
        }
    }

    /// `True`, `None`, a number; JSON's `true` and `null` too, because templates show values in both ways.
    fn word(&mut self) -> Result<Value, Fault> {
        let rest = self.rest();
        let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
        let length = rest.find(|c| !part(c)).unwrap_or(rest.len());
        let value = match &rest[..length] {
            "" => return Err(self.fault("a value")),
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            word => {
                let digits = word.replace('_', "");
                let whole = digits.parse::<i64>().ok().map(Number::from);
                let number = whole.or_else(|| digits.parse::<f64>().ok().and_then(Number::from_f64));
                // The word may go on in text that has not come yet.
                let wrong = || match length == rest.len() {
                    true => Fault::Unfinished(format!("it ends in `{word}`")),
                    false => Fault::Wrong(format!("`{word}` is no value")),
                };
                Value::Number(number.ok_or_else(wrong)?)
            }
        };
        self.at += length;
        Ok(value)
    }

    fn string(&mut self) -> Result<String, Fault> {
        let quote = self.rest().chars().next().unwrap_or('"');
        self.at += 1;
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += offset + 1;
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    None => break,
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, '\n')) => {}
                    Some((_, digits @ ('x' | 'u' | 'U'))) => {
                        let count = if digits == 'x' {
                            2
                        } else if digits == 'u' {
                            4
                        } else {
                            8
                        };
                        let code: String = chars.by_ref().take(count).map(|(_, c)| c).collect();
                        let c = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                        out.push(c.unwrap_or('\u{FFFD}'));
                    }
                    Some((_, c @ ('\\' | '\'' | '"'))) => out.push(c),
                    Some((_, c)) => out.extend(['\\', c]),
                },
                c => out.push(c),
            }
        }
        Err(Fault::Unfinished("it ends inside a text".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals() {
        for (text, value) in [
            ("'a\\'b\\n\\u00e9'", json!("a'b\né")),
            ("(1, -2.5, [], {})", json!([1, -2.5, [], {}])),
            ("{'a': None, 1: true}", json!({"a": null, "1": true})),
            ("1_000", json!(1000)),
        ] {
            assert_eq!(literal(text), Some(value), "{text}");
        }
        for text in ["", "x", "[1", "1 2", "{1}", "'", &"[".repeat(500)] {
            assert_eq!(literal(text), None, "{text}");
        }
    }

    #[test]
    fn calls_in_lists_and_in_lines() {
        let list = "[a.b(x=1, y='q'), c()] rest";
        let (found, end) = calls(list).unwrap();
        assert_eq!((found.len(), &list[end..]), (2, " rest"));
        assert_eq!((found[0].name.as_str(), &found[0].arguments), ("a.b", &json!({"x": 1, "y": "q"})));
        assert_eq!(calls("f(a=1)\ng()\n").unwrap().0.len(), 2);
        assert!(matches!(calls("[f(a=\"]"), Err(Fault::Unfinished(_))));
        assert!(matches!(calls("[f(1)]"), Err(Fault::Wrong(_))));
        assert!(matches!(calls("[]"), Err(Fault::Wrong(_))));
    }
}
