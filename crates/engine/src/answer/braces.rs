//! Calls with unquoted keys and texts between marks of their own: `call:weather{city:<escape>Paris<escape>,days:3}`.

use serde_json::{Map, Value};

use super::Call;
use super::body::Fault;

const DEEPEST: usize = 64;

/// Calls one after the other, with the number of bytes that they take. Texts stand between two `quote`s.
pub(super) fn calls(text: &str, quote: &str) -> Result<(Vec<Call>, usize), Fault> {
    let mut reader = Reader { text, at: 0, quote };
    let mut calls = Vec::new();
    loop {
        let start = reader.at;
        reader.blank();
        if !reader.eat("call:") {
            if calls.is_empty() {
                return Err(reader.fault("`call:`"));
            }
            return Ok((calls, start));
        }
        let name = reader.until(&["{"])?.trim().to_owned();
        let arguments = reader.object(0)?;
        calls.push(Call { id: None, name, arguments });
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    quote: &'a str,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len() } else { 0 };
        found
    }

    fn fault(&self, wanted: &str) -> Fault {
        if self.rest().is_empty() || wanted.trim_matches('`').starts_with(self.rest()) {
            return Fault::Unfinished(format!("it ends where {wanted} is due"));
        }
        Fault::Wrong(format!("{wanted} is missing"))
    }

    /// The text before the first of `ends`, which stays.
    fn until(&mut self, ends: &[&str]) -> Result<&'a str, Fault> {
        let rest = self.rest();
        match ends.iter().filter_map(|end| rest.find(end)).min() {
            None => Err(Fault::Unfinished(format!("it ends before `{}`", ends.join("` or `")))),
            Some(length) => {
                self.at += length;
                Ok(&rest[..length])
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Fault> {
        self.eat("{");
        let mut items = Map::new();
        loop {
            self.blank();
            if self.eat("}") {
                return Ok(items.into());
            }
            let key = match self.eat(self.quote) {
                true => self.quoted()?,
                false => self.until(&[":"])?.trim().to_owned(),
            };
            if !self.eat(":") {
                return Err(self.fault("`:`"));
            }
            let value = self.value(depth + 1)?;
            items.insert(key, value);
            self.separator("}")?;
        }
    }

    fn separator(&mut self, close: &str) -> Result<(), Fault> {
        self.blank();
        if self.eat(",") || self.rest().starts_with(close) { Ok(()) } else { Err(self.fault(&format!("`{close}`"))) }
    }

    fn quoted(&mut self) -> Result<String, Fault> {
        let text = self.until(&[self.quote])?.to_owned();
        self.at += self.quote.len();
        Ok(text)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth > DEEPEST {
            return Err(Fault::Wrong(format!("values are nested more than {DEEPEST} deep")));
        }
        self.blank();
        if self.eat(self.quote) {
            return Ok(self.quoted()?.into());
        }
        if self.rest().starts_with('{') {
            return self.object(depth);
        }
        if self.eat("[") {
            let mut items = Vec::new();
            loop {
                self.blank();
                if self.eat("]") {
                    return Ok(items.into());
                }
                items.push(self.value(depth + 1)?);
                self.separator("]")?;
            }
        }
        if self.quote.starts_with(self.rest()) {
            return Err(Fault::Unfinished("it ends where a value is due".to_owned()));
        }
        if self.rest().starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(self.rest()).into_iter::<Value>();
            if let Some(Ok(value)) = values.next() {
                self.at += values.byte_offset();
                return Ok(value);
            }
        }
        let word = self.until(&[",", "}", "]"])?.trim();
        Ok(serde_json::from_str(word).unwrap_or_else(|_| word.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_every_kind() {
        let text = "call:f{a:<q>x, {y}<q>,b:-1.5,c:true,d:[1,<q>z<q>,{e:null}],g:word}call:h{} tail";
        let (found, end) = calls(text, "<q>").unwrap();
        assert_eq!(
            found[0].arguments,
            json!({"a": "x, {y}", "b": -1.5, "c": true, "d": [1, "z", {"e": null}], "g": "word"})
        );
        assert_eq!((found[1].name.as_str(), &text[end..]), ("h", " tail"));
        for cut in ["", "call", "call:f", "call:f{a:<q>x", "call:f{a:<", "call:f{a:[1", "call:f{a:"] {
            assert!(matches!(calls(cut, "<q>"), Err(Fault::Unfinished(_))), "{cut}");
        }
        assert!(matches!(calls("f()", "<q>"), Err(Fault::Wrong(_))));
        assert!(calls(&format!("call:f{{a:{}", "[".repeat(500)), "<q>").is_err());
    }
}
