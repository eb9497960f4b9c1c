//! `mlxengine show`: what a checkpoint is, and what it needs.

use mlxengine::memory::{human, memory};
use mlxengine::{GenerateParams, InferenceEngine, LlmEngine, LoadOptions, ModelConfiguration};
use serde::Serialize;
use serde_json::{Value, json};

use crate::App;
use crate::arguments::{LoadArguments, ShowArguments};
use crate::failure::{Result, invalid};
use crate::load::load;

/// Prints what a checkpoint is, whether or not it fits in memory.
pub fn run(arguments: &ShowArguments, app: &App) -> Result<()> {
    let options = LoadOptions { memory: Some(u64::MAX), ..app.settings.load_options(&LoadArguments::default()) };
    let engine = load(&arguments.model, &options, app)?;
    if arguments.json {
        let mut object = plain_json(engine.configuration())?;
        object["features"] = plain_json(engine.features())?;
        object["memory_available"] = json!(memory().available);
        return app.printer.line(&format!("{object:#}"));
    }
    app.printer.line(&app.printer.bold(&arguments.model))?;
    let facts = facts(&engine)?;
    let width = facts.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    for (label, lines) in facts {
        for (number, line) in lines.iter().enumerate() {
            let label = if number == 0 { label } else { "" };
            let label = app.printer.dim(&format!("{label:width$}"));
            // Names and tags come from the checkpoint's files.
            app.printer.text(&format!("  {label}  "))?;
            app.printer.answer_line(line)?;
        }
    }
    Ok(())
}

/// JSON in which an `f32` has no more digits than it means: it is written as such, and never becomes an `f64` before.
fn plain_json(value: &impl Serialize) -> Result<Value> {
    let text = serde_json::to_string(value).and_then(|text| serde_json::from_str(&text));
    text.map_err(|e| invalid(format!("the checkpoint's facts cannot be written as JSON: {e}")).into())
}

fn facts(engine: &InferenceEngine) -> Result<Vec<(&'static str, Vec<String>)>> {
    let c = engine.configuration();
    let optional = |text: Option<&String>, absent: &str| vec![text.cloned().unwrap_or_else(|| absent.to_owned())];
    let mut facts = vec![
        ("family", vec![format!("{} (model_type {}), a {} model", c.family, c.model_type, words(&json!(c.kind)))]),
        ("parameters", vec![parameters(c)]),
        ("weights", storage(c)),
        ("context", vec![c.context_length.map_or("not stated".to_owned(), |n| format!("{n} tokens"))]),
        ("vocabulary", vec![format!("{} tokens", c.vocabulary)]),
        ("layers", vec![format!("{} of size {}", c.layers, c.hidden_size)]),
        ("memory", needed(c)),
        ("chat template", optional(c.chat_template.as_ref(), "none: it continues text, as with run --raw")),
        ("end tokens", end_tokens(c)),
        ("sampling", vec![sampling(&c.default_params)?]),
        ("licence", optional(c.licence.as_ref(), "not stated")),
    ];
    if let Some(base) = &c.base_model {
        facts.push(("made from", vec![base.clone()]));
    }
    if !c.tags.is_empty() {
        facts.push(("tags", vec![c.tags.join(", ")]));
    }
    let features: Vec<String> = engine.features().iter().map(|f| words(&json!(f))).collect();
    facts.push(("features", vec![features.join(", ")]));
    facts.push(("ignored tensors", ignored(c)));
    Ok(facts)
}

/// `quantized_cache` as people write it.
fn words(name: &Value) -> String {
    name.as_str().unwrap_or_default().replace('_', " ")
}

fn parameters(c: &ModelConfiguration) -> String {
    if c.active_parameters == c.parameters {
        return count(c.parameters);
    }
    format!("{}, of which {} work on a token", count(c.parameters), count(c.active_parameters))
}

/// A large number as people write it: `5.77 million`.
fn count(number: u64) -> String {
    match number as f64 {
        n if n >= 999.5e6 => format!("{:.2} billion", n / 1e9),
        n if n >= 999.5e3 => format!("{:.2} million", n / 1e6),
        _ => number.to_string(),
    }
}

fn storage(c: &ModelConfiguration) -> Vec<String> {
    let percent = |n: u64| match 100.0 * n as f64 / c.parameters.max(1) as f64 {
        few if few < 0.05 => "less than 0.1 %".to_owned(),
        share => format!("{share:.1} %"),
    };
    let shares = c.storage.iter().map(|s| format!("{} {}", percent(s.parameters), s.format));
    shares.chain(c.quantizer.iter().map(|tool| format!("read from the layout of {tool}"))).collect()
}

fn needed(c: &ModelConfiguration) -> Vec<String> {
    let m = &c.memory;
    let available = match memory().available {
        u64::MAX => "unknown".to_owned(),
        bytes => human(bytes),
    };
    vec![
        format!("{} for {} tokens ({available} available)", human(m.total()), m.context),
        format!("weights {}, cache {}, activations {}", human(m.weights), human(m.cache), human(m.activations)),
    ]
}

fn end_tokens(c: &ModelConfiguration) -> Vec<String> {
    if c.end_tokens.is_empty() {
        return vec!["none: answers end with --max-tokens, --stop or the context".to_owned()];
    }
    let one = |token: &mlxengine::EndTokenInfo| {
        format!("{} {} ({})", token.id, token.text.as_deref().unwrap_or("without text"), token.reasons.join(", "))
    };
    c.end_tokens.iter().map(one).collect()
}

/// The parameters that differ from taking the likeliest token.
fn sampling(params: &GenerateParams) -> Result<String> {
    let (advised, plain) = (plain_json(params)?, plain_json(&GenerateParams::default())?);
    let fields = advised.as_object().into_iter().flatten();
    let said: Vec<String> =
        fields.filter(|(name, value)| plain.get(name) != Some(value)).map(|(n, v)| format!("{n} {v}")).collect();
    Ok(if said.is_empty() { "the likeliest token each time".to_owned() } else { said.join(", ") })
}

fn ignored(c: &ModelConfiguration) -> Vec<String> {
    const MOST: usize = 8;
    if c.ignored_tensors.is_empty() {
        return vec!["none".to_owned()];
    }
    let mut lines: Vec<String> =
        c.ignored_tensors.iter().take(MOST).map(|(name, why)| format!("{name}: {why}")).collect();
    if c.ignored_tensors.len() > MOST {
        lines.push(format!("and {} more, all of them in --json", c.ignored_tensors.len() - MOST));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!([count(999), count(5_770_000), count(999_600_000)], ["999", "5.77 million", "1.00 billion"]);
    }

    #[test]
    fn sampling_says_what_differs() {
        assert_eq!(sampling(&GenerateParams::default()).unwrap(), "the likeliest token each time");
        assert_eq!(sampling(&GenerateParams::default().with_temperature(0.6)).unwrap(), "temperature 0.6");
    }
}
