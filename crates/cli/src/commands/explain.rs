//! `mlxengine explain`: what a model makes of a conversation.

use mlxengine::{Explanation, LoadOptions, Message, RenderOptions, ThinkingSwitch, ToolFormat, explain};
use serde_json::json;

use crate::App;
use crate::arguments::{ExplainArguments, LoadArguments};
use crate::failure::{Result, invalid};
use crate::load::{load, require_template};
use crate::settings::{list, thinking};

/// Prints the text, the tokens, and what the template can do.
pub fn run(arguments: &ExplainArguments, app: &App) -> Result<()> {
    let options = LoadOptions { memory: Some(u64::MAX), ..app.settings.load_options(&LoadArguments::default()) };
    let engine = load(&arguments.model, &options, app)?;
    require_template(&engine)?;
    let messages = match (&arguments.messages, &arguments.prompt) {
        (Some(messages), _) => Message::list_from_json(messages)?,
        (None, Some(prompt)) => vec![Message::user(prompt.as_str())],
        (None, None) => example(),
    };
    let render = RenderOptions {
        add_generation_prompt: true,
        tools: arguments.tools.clone().map(list),
        extra: arguments.think.into_iter().flat_map(thinking).collect(),
        ..RenderOptions::default()
    };
    let found = explain(&engine, &messages, &render)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&found);
        return app.printer.line(&text.map_err(|e| invalid(format!("this cannot be written as JSON: {e}")))?);
    }
    show(&found, app)
}

/// A conversation in which an answer has thoughts, so that it shows whether a template keeps them.
fn example() -> Vec<Message> {
    let mut answer = Message::assistant("Paris.");
    answer.reasoning = Some("The user asks for a capital.".to_owned());
    vec![Message::user("What is the capital of France?"), answer, Message::user("And of Italy?")]
}

fn show(found: &Explanation, app: &App) -> Result<()> {
    let printer = &app.printer;
    let heading = |text: &str| printer.line(&printer.bold(text));
    heading("text")?;
    printer.answer_line(&found.text)?;
    heading(&format!("{} tokens", found.tokens.len()))?;
    for token in &found.tokens {
        let mark = if token.special { "  control" } else { "" };
        printer.answer_line(&format!("  {:>7}  {:?}{mark}", token.id, token.token))?;
    }
    heading("template")?;
    for (label, text) in facts(found) {
        printer.text(&format!("  {}  ", printer.dim(&format!("{label:16}"))))?;
        printer.answer_line(&text)?;
    }
    if !found.turns.is_empty() {
        heading("what is read again after each answer")?;
    }
    for turn in &found.turns {
        printer.answer_line(&match &turn.parting {
            None => format!("  message {}: nothing, its {} tokens are used again", turn.answer, turn.read),
            Some(parting) => {
                let place = parting.message.map_or("behind the last message".to_owned(), |m| format!("in message {m}"));
                format!(
                    "  message {}: all from token {} of {}, {place}: the model had {:?}, the template now writes {:?}",
                    turn.answer, parting.common, turn.read, parting.first, parting.second
                )
            }
        })?;
    }
    Ok(())
}

/// Where the way to write calls is known from.
fn told_by(found: &Explanation) -> String {
    match &found.tool_parser {
        None => String::new(),
        Some(name) if ToolFormat::named(name).is_some() => ", as tokenizer_config.json says".to_owned(),
        Some(name) => format!(", from the template, for tokenizer_config.json says {name:?}, which is not known"),
    }
}

fn facts(found: &Explanation) -> Vec<(&'static str, String)> {
    let c = &found.capabilities;
    let yes = |can: bool| if can { "yes" } else { "no" }.to_owned();
    let switch = |s: &ThinkingSwitch| match &s.default {
        Some(default) => format!("{} (default {default})", s.variable),
        None => s.variable.to_owned(),
    };
    let switches: Vec<String> = c.thinking.iter().map(switch).collect();
    let ends: Vec<String> =
        found.end_tokens.iter().map(|end| format!("{} {}", end.id, end.text.as_deref().unwrap_or_default())).collect();
    let none = || "none".to_owned();
    let some = |texts: Vec<String>| if texts.is_empty() { none() } else { texts.join(", ") };
    vec![
        ("from", format!("{} ({})", found.template, found.templates.join(", "))),
        ("instructions", if c.late_system { "yes, also later in a conversation".to_owned() } else { yes(c.system) }),
        ("tools", yes(c.tools)),
        ("calls, results", format!("{}, {}", yes(c.tool_calls), yes(c.tool_results))),
        ("begins answers", c.generation_prompt.as_ref().map_or_else(none, |text| json!(text).to_string())),
        ("thinking switch", some(switches)),
        ("keeps thoughts", yes(c.keeps_reasoning)),
        (
            "calls written as",
            found
                .tool_format
                .map_or_else(none, |name| format!("{name}{}; their arguments can be constrained", told_by(found))),
        ),
        (
            "thoughts between",
            found.reasoning.as_ref().map_or_else(none, |[start, end]| {
                let begun = if found.begins_reasoning { ", begun by the prompt" } else { "" };
                format!("{start} {end}{begun}")
            }),
        ),
        ("ends answers", some(ends)),
    ]
}
