//! The Jinja environment of chat templates: what transformers sets up, on minijinja.

use std::fmt;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

use super::python;
use super::strftime::CivilTime;

/// Where templates get the time from.
pub(super) type Clock = Arc<dyn Fn() -> CivilTime + Send + Sync>;

/// The variable that carries the marks around generated text while spans are wanted.
pub(super) const MARKS: &str = "__generation_marks";

/// Steps that a rendering may take. A long conversation takes some hundred a message; a loop that never ends stops here
/// within seconds.
pub(super) const FUEL: u64 = 20_000_000;

/// What a template said through `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

pub(super) fn environment(clock: Clock) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(python_method);
    env.set_formatter(|out, _, value| {
        match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python::str_of(value)?),
        }
        .map_err(Error::from)
    });
    minijinja_contrib::add_to_environment(&mut env);
    env.add_filter("tojson", python::tojson_filter);
    env.add_filter("string", python::string_filter);
    env.add_filter("truncate", truncate);
    env.add_filter("generation_span", generation_span);
    // To Jinja whatever has a length and items is a sequence, texts and maps too; undefined is iterable and None is not.
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: &str| clock().format(format));
    Ok(env)
}

/// Jinja's `truncate(length, killwords, end, leeway)`.
fn truncate(text: &str, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let [length, killwords, end, leeway] = python::bind(["length", "killwords", "end", "leeway"], &args, &kwargs)?;
    let number = |value: Option<Value>, default| value.and_then(|v| v.as_usize()).unwrap_or(default);
    let (length, leeway) = (number(length, 255), number(leeway, 5));
    let killwords = killwords.is_some_and(|v| v.is_true());
    let end = end.as_ref().and_then(Value::as_str).unwrap_or("...");
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let words = if killwords { kept.as_str() } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words) };
    Ok(format!("{words}{end}"))
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::str_of(message)?;
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn generation_span(state: &State, text: &str) -> String {
    match state.lookup(MARKS).as_ref().and_then(Value::as_str).map(|marks| marks.chars().collect::<Vec<_>>()).as_deref()
    {
        Some([open, close]) => format!("{open}{text}{close}"),
        _ => text.to_owned(),
    }
}

/// Rewrites `{% generation %}` … `{% endgeneration %}`, which minijinja does not know, into a filter block: it captures
/// and scopes its body as the original does, and every whitespace rule applies unchanged.
pub(super) fn rewrite_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let inner = tag.trim_start_matches(['-', '+']).trim_start();
        let lead = tag.len() - inner.len();
        for (word, replacement) in [("generation", "filter generation_span"), ("endgeneration", "endfilter")] {
            let Some(after) = inner.strip_prefix(word) else { continue };
            let close = after.trim_start().trim_start_matches(['-', '+']);
            if close.starts_with("%}") {
                out.push_str(&tag[..lead]);
                out.push_str(replacement);
                rest = after;
                break;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Methods of Python's strings and dicts that templates call; those that minijinja's own set lacks are here.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let first = args.first().and_then(Value::as_str);
        match (method, first) {
            ("partition", Some(by)) => {
                let found = text.split_once(by).map(|(a, b)| (a, by, b));
                return Ok(three(found.unwrap_or((text, "", ""))));
            }
            ("rpartition", Some(by)) => {
                let found = text.rsplit_once(by).map(|(a, b)| (a, by, b));
                return Ok(three(found.unwrap_or(("", "", text))));
            }
            ("rsplit", Some(by)) if !by.is_empty() => {
                let limit = args.get(1).and_then(Value::as_usize).map_or(usize::MAX, |n| n.saturating_add(1));
                let mut parts: Vec<String> = text.rsplitn(limit, by).map(str::to_owned).collect();
                parts.reverse();
                return Ok(Value::from(parts));
            }
            ("removeprefix", Some(prefix)) => return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text))),
            ("removesuffix", Some(suffix)) => return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text))),
            ("index", Some(part)) => {
                let at =
                    text.find(part).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
                return Ok(Value::from(text[..at].chars().count()));
            }
            ("title", None) => return Ok(Value::from(title(text))),
            ("zfill", None) => {
                let width = args.first().and_then(Value::as_usize).unwrap_or(0).min(1024);
                let (sign, digits) = match text.strip_prefix(['-', '+']) {
                    Some(digits) => (&text[..1], digits),
                    None => ("", text),
                };
                let zeros = width.saturating_sub(text.chars().count());
                return Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(zeros))));
            }
            _ => {}
        }
    }
    if value.kind() == ValueKind::Map && method == "copy" && args.is_empty() {
        return Ok(value.clone());
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Upper case for each letter that follows no letter, lower case for the others.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn three((a, b, c): (&str, &str, &str)) -> Value {
    Value::from((a, b, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn render(source: &str) -> String {
        let env = environment(Arc::new(CivilTime::now_utc)).unwrap();
        env.render_str(source, ()).unwrap_or_else(|e| format!("error: {e}"))
    }

    #[test]
    fn generation_blocks_become_filter_blocks() {
        let source = "{%- generation -%}a{% endgeneration %}{%generation+%}{% generations %}{% endgeneration";
        let want = "{%- filter generation_span -%}a{% endfilter %}{%filter generation_span+%}{% generations %}{% endgeneration";
        assert_eq!(rewrite_generation(source), want);
    }

    #[test]
    fn python_methods() {
        for (source, want) in [
            ("{{ 'a-b-c'.partition('-') }}", "('a', '-', 'b-c')"),
            ("{{ 'a-b-c'.rpartition('-') | first }}", "a-b"),
            ("{{ 'a-b-c'.rsplit('-', 1) }}", "['a-b', 'c']"),
            ("{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('x') }}", "bcabc"),
            ("{{ '-7'.zfill(4) }}{{ 'éa'.index('a') }}", "-0071"),
            ("{{ {'a': 1}.copy().items() | list }}", "[('a', 1)]"),
            ("{{ none }}{{ true }}{{ false }}{{ nothing }}{{ 3.0 }}", "NoneTrueFalse3.0"),
            ("{{ [1, 'a', none] | string }}", "[1, 'a', None]"),
            (
                "{{ 'one two three four' | truncate(12) }}{{ 'one two three' | truncate(9, true, '~', 0) }}",
                "one two...one two ~",
            ),
            ("{{ 'one two three' | truncate(7, leeway=0, end='') }}", "one"),
            (
                "{{ none is iterable }}{{ nothing is iterable }}{{ 'a' is iterable }}{{ 1 is iterable }}",
                "FalseTrueTrueFalse",
            ),
        ] {
            assert_eq!(render(source), want, "{source}");
        }
    }
}
