//! How Python prints values: `str`, `repr` and `json.dumps`. Templates were written against these.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Nesting beyond this is an error and not a stack overflow.
const MAX_DEPTH: usize = 128;

/// `str(value)`; nothing for an undefined value, as Jinja prints it.
pub(super) fn str_of(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => {
            let mut out = String::new();
            repr(value, &mut out, 0)?;
            Ok(out)
        }
    }
}

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply")
}

fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(value, out),
        ValueKind::String => repr_str(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push_str(", ");
                }
                repr(&item, out, depth + 1)?;
                count += 1;
            }
            out.push_str(match (tuple, count) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        // Namespaces and other objects are maps by kind but have a face of their own.
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

fn number(value: &Value, out: &mut String) {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => out.push_str(&float_repr(float)),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// `repr(float)`: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float == 0.0 || (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn repr_str(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        let code = u32::from(c);
        // Writing to a string cannot fail.
        let _ = match c {
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            c if c == quote => write!(out, "\\{c}"),
            _ if code < 0x20 || (0x7F..=0xA0).contains(&code) || code == 0xAD => write!(out, "\\x{code:02x}"),
            _ if matches!(code, 0x2000..=0x200F | 0x2028..=0x202F | 0x205F..=0x206F | 0x3000 | 0xE000..=0xF8FF | 0xFEFF) =>
            {
                write!(out, "\\u{code:04x}")
            }
            c => write!(out, "{c}"),
        };
    }
    out.push(quote);
}

/// The filter `string`.
pub(super) fn string_filter(value: &Value) -> Result<Value, Error> {
    if value.is_safe() { Ok(value.clone()) } else { str_of(value).map(Value::from) }
}

/// The arguments of a Python function by name, given by position or by keyword.
pub(super) fn bind<const N: usize>(
    names: [&str; N],
    args: &[Value],
    kwargs: &Kwargs,
) -> Result<[Option<Value>; N], Error> {
    if args.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut bound = [const { None }; N];
    for (i, (slot, name)) in bound.iter_mut().zip(names).enumerate() {
        *slot = if kwargs.has(name) { Some(kwargs.get(name)?) } else { args.get(i).cloned() };
    }
    kwargs.assert_all_used()?;
    Ok(bound)
}

/// The filter `tojson` of chat templates: `json.dumps` without HTML escapes, `ensure_ascii` off by default.
pub(super) fn tojson_filter(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [ascii, indent, separators, sort] =
        bind(["ensure_ascii", "indent", "separators", "sort_keys"], &args, &kwargs)?;
    let truthy = |value: Option<Value>| value.is_some_and(|v| v.is_true());
    let given = |value: &Value| !value.is_none() && !value.is_undefined();
    let indent = indent.filter(given).map(|value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(value.as_usize().unwrap_or(0).min(64)),
    });
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(pair) = separators.filter(given) {
        item = str_of(&pair.get_item_by_index(0)?)?;
        key = str_of(&pair.get_item_by_index(1)?)?;
    }
    let style = JsonStyle { ascii: truthy(ascii), indent, item, key, sort: truthy(sort) };
    let mut out = String::new();
    style.write(value, &mut out, 0)?;
    Ok(Value::from(out))
}

struct JsonStyle {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
}

impl JsonStyle {
    fn write(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => json_number(value, out),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.block(['[', ']'], items.len(), out, depth, |i, out| self.write(&items[i], out, depth + 1))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    entries.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.block(['{', '}'], entries.len(), out, depth, |i, out| {
                    self.string(&entries[i].0, out);
                    out.push_str(&self.key);
                    self.write(&entries[i].1, out, depth + 1)
                })?;
            }
            kind => return Err(Error::new(ErrorKind::BadSerialization, format!("{kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn block(
        &self,
        ends: [char; 2],
        count: usize,
        out: &mut String,
        depth: usize,
        mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(ends[0]);
        for i in 0..count {
            if i > 0 {
                out.push_str(&self.item);
            }
            self.new_line(depth + 1, out);
            item(i, out)?;
        }
        if count > 0 {
            self.new_line(depth, out);
        }
        out.push(ends[1]);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            // Writing to a string cannot fail.
            let _ = match c {
                '"' => write!(out, "\\\""),
                '\\' => write!(out, "\\\\"),
                '\n' => write!(out, "\\n"),
                '\r' => write!(out, "\\r"),
                '\t' => write!(out, "\\t"),
                '\u{8}' => write!(out, "\\b"),
                '\u{C}' => write!(out, "\\f"),
                c if c < ' ' => write!(out, "\\u{:04x}", u32::from(c)),
                c if self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                    Ok(())
                }
                c => write!(out, "{c}"),
            };
        }
        out.push('"');
    }
}

fn json_number(value: &Value, out: &mut String) {
    let mut text = String::new();
    number(value, &mut text);
    out.push_str(match text.as_str() {
        "nan" => "NaN",
        "inf" => "Infinity",
        "-inf" => "-Infinity",
        other => other,
    });
}

/// A key as `json.dumps` writes it.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => {
            let mut out = String::new();
            json_number(key, &mut out);
            Ok(out)
        }
        kind => Err(Error::new(ErrorKind::BadSerialization, format!("a JSON key cannot be a {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;
    use serde_json::json;

    #[test]
    fn floats() {
        for (float, want) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
        ] {
            assert_eq!(float_repr(float), want);
        }
    }

    #[test]
    fn reprs() {
        let value = Value::from(Serde(json!({"a": [true, null, 1, 1.5, "it's", "\"'\n\u{7f}é"], "b": {}})));
        assert_eq!(str_of(&value).unwrap(), r#"{'a': [True, None, 1, 1.5, "it's", '"\'\n\x7fé'], 'b': {}}"#);
        assert_eq!(str_of(&Value::from((1,))).unwrap(), "(1,)");
        assert_eq!(str_of(&Value::UNDEFINED).unwrap(), "");
    }

    #[test]
    fn json_dumps() {
        let env = {
            let mut env = minijinja::Environment::new();
            env.add_filter("tojson", tojson_filter);
            env
        };
        let x = json!({"b": [1, 0.5, "é<\u{1}\u{1F600}"], "a": {}, "c": []});
        for (call, want) in [
            ("tojson", "{\"b\": [1, 0.5, \"é<\\u0001😀\"], \"a\": {}, \"c\": []}"),
            ("tojson(true)", "{\"b\": [1, 0.5, \"\\u00e9<\\u0001\\ud83d\\ude00\"], \"a\": {}, \"c\": []}"),
            ("tojson(sort_keys=true, separators=(',', ':'))", "{\"a\":{},\"b\":[1,0.5,\"é<\\u0001😀\"],\"c\":[]}"),
            (
                "tojson(indent=2)",
                "{\n  \"b\": [\n    1,\n    0.5,\n    \"é<\\u0001😀\"\n  ],\n  \"a\": {},\n  \"c\": []\n}",
            ),
            ("tojson(indent=none)", "{\"b\": [1, 0.5, \"é<\\u0001😀\"], \"a\": {}, \"c\": []}"),
        ] {
            let context = Value::from(Serde(json!({"x": x})));
            assert_eq!(env.render_str(&format!("{{{{ x | {call} }}}}"), context).unwrap(), want, "{call}");
        }
        assert!(env.render_str("{{ x | tojson }}", ()).is_err());
        assert!(env.render_str("{{ 1 | tojson(nonsense=1) }}", ()).is_err());
    }
}
