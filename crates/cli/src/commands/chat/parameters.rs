//! The parameters of a conversation: `/set`.

use mlxengine::{GenerateParams, LlmEngine};
use serde_json::{Map, Value};

use super::Chat;
use super::commands::Next;
use crate::failure::{Result, invalid};
use crate::nearest::nearest;

const VERBOSE: &str = "verbose";

/// A parameter of generations that means nothing in a conversation.
const HIDDEN: &str = "logprobs";

/// The names that `/set` knows.
pub fn names() -> Vec<String> {
    let params = fields(&GenerateParams::default());
    params.keys().cloned().chain([VERBOSE.to_owned()]).collect()
}

/// `/set [NAME [VALUE]]`.
pub fn set(chat: &mut Chat<'_>, rest: &str) -> Result<Next> {
    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let value = value.trim();
    if name.is_empty() {
        let names = names();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        for name in names {
            let shown = show(chat, &name);
            chat.app.printer.answer_line(&format!("  {name:width$}  {shown}"))?;
        }
        return Ok(Next::Stay);
    }
    let name = known(name)?;
    if !value.is_empty() {
        change(chat, &name, value)?;
    }
    let shown = show(chat, &name);
    chat.app.printer.answer_line(&format!("  {name}  {shown}"))?;
    Ok(Next::Stay)
}

/// The name as it is listed: `top-p` and `temp` are understood too.
fn known(typed: &str) -> Result<String> {
    let name = match typed.replace('-', "_").as_str() {
        "temp" => "temperature".to_owned(),
        name => name.to_owned(),
    };
    let names = names();
    if names.contains(&name) {
        return Ok(name);
    }
    let meant = nearest(&name, names.iter().map(String::as_str));
    let remedy = meant.map_or("/set alone lists them".to_owned(), |name| format!("did you mean {name}?"));
    Err(invalid(format!("there is no parameter {typed}")).with_remedy(remedy).into())
}

fn show(chat: &Chat<'_>, name: &str) -> String {
    if name == VERBOSE {
        return if chat.verbose { "on" } else { "off" }.to_owned();
    }
    match fields(&chat.session.params()).get(name) {
        None | Some(Value::Null) => "none".to_owned(),
        Some(value) => value.to_string(),
    }
}

fn change(chat: &mut Chat<'_>, name: &str, value: &str) -> Result<()> {
    if name == VERBOSE {
        chat.verbose = match value {
            "on" | "true" => true,
            "off" | "false" | "default" => false,
            _ => return Err(invalid(format!("verbose is on or off, not {value}")).into()),
        };
        return Ok(());
    }
    let mut params = fields(&chat.session.params());
    let value = match value {
        "default" => fields(&chat.session.engine().configuration().default_params).remove(name).unwrap_or_default(),
        "none" => Value::Null,
        value => parse(name, value),
    };
    let said = value.to_string();
    params.insert(name.to_owned(), value);
    let params = serde_json::from_value(Value::from(params)).map_err(|_| {
        let kind = match fields(&GenerateParams::default()).get(name) {
            Some(Value::Bool(_)) => "true or false",
            Some(Value::Object(_)) => "a JSON object, as in {\"42\": -1.5}",
            Some(Value::Array(_)) => "a text, or a JSON list of texts",
            Some(Value::Null) => "a whole number, or none",
            Some(Value::Number(n)) if n.is_u64() => "a whole number of 0 or more",
            _ => "a number",
        };
        invalid(format!("{name} must be {kind}, not {said}"))
    })?;
    Ok(chat.session.set_params(params)?)
}

/// A value as JSON; a text where texts are expected may go without quotes.
fn parse(name: &str, value: &str) -> Value {
    let json = serde_json::from_str(value).ok();
    match (name, json) {
        ("stop", Some(Value::Array(list))) => Value::Array(list),
        ("stop", Some(Value::String(text))) => Value::Array(vec![Value::String(text)]),
        ("stop", _) => Value::Array(vec![Value::String(value.to_owned())]),
        (_, Some(json)) => json,
        (_, None) => Value::String(value.to_owned()),
    }
}

/// The parameters by name. Written and read as text, so that an `f32` has no more digits than it means.
fn fields(params: &GenerateParams) -> Map<String, Value> {
    let text = serde_json::to_string(params).unwrap_or_default();
    let mut fields: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    fields.shift_remove(HIDDEN);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_has_a_name() {
        let names = names();
        assert!(names.len() > 15 && !names.contains(&HIDDEN.to_owned()), "{names:?}");
        assert_eq!(fields(&GenerateParams::default().with_temperature(0.6))["temperature"].to_string(), "0.6");
    }

    #[test]
    fn names_are_understood_as_flags_too() {
        assert_eq!(known("temp").unwrap(), "temperature");
        assert_eq!(known("top-p").unwrap(), "top_p");
        assert!(known("temprature").is_err());
    }

    #[test]
    fn values() {
        assert_eq!(parse("stop", "END"), serde_json::json!(["END"]));
        assert_eq!(parse("stop", "[\"a\", \"b\"]"), serde_json::json!(["a", "b"]));
        assert_eq!(parse("stop", "5"), serde_json::json!(["5"]));
        assert_eq!(parse("seed", "5"), serde_json::json!(5));
    }
}
