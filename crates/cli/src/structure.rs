//! What answers have to be, and what of that a model cannot do.

use clap::Args;
use mlxengine::{Capabilities, Grammar, InferenceEngine, ToolChoice, ToolFormat, Tools};
use serde_json::{Value, json};

use crate::App;
use crate::arguments::GenerationArguments;
use crate::failure::Result;
use crate::parsers;
use crate::settings::{list, render_options};

/// What an answer has to be.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Structure")]
pub struct StructureArguments {
    /// The answer is JSON that this schema accepts
    #[arg(long, value_name = "FILE|JSON", value_parser = parsers::json)]
    #[arg(conflicts_with_all = ["json_object", "regex", "grammar", "tool_choice"])]
    pub json_schema: Option<Value>,

    /// The answer is a JSON object
    #[arg(long, conflicts_with_all = ["regex", "grammar", "tool_choice"])]
    pub json_object: bool,

    /// The answer matches this regular expression as a whole
    #[arg(long, value_name = "RE", conflicts_with_all = ["grammar", "tool_choice"])]
    pub regex: Option<String>,

    /// The answer is a text of this grammar, in Lark's notation
    #[arg(long, value_name = "FILE", value_parser = parsers::text_file, conflicts_with = "tool_choice")]
    pub grammar: Option<String>,

    /// Tools that the model may call, as a JSON list; its calls are printed as JSON, one a line
    #[arg(long, value_name = "FILE|JSON", value_parser = parsers::json)]
    pub tools: Option<Value>,

    /// Hold calls to the tools' schemas: auto, required, or the name of the one to call
    #[arg(long, value_name = "WHICH", requires = "tools")]
    pub tool_choice: Option<String>,
}

/// The grammar that was asked for.
pub fn grammar(arguments: &StructureArguments, engine: &InferenceEngine) -> Result<Option<Grammar>> {
    if let Some(schema) = &arguments.json_schema {
        return Ok(Some(Grammar::JsonSchema(schema.clone())));
    }
    if let Some(choice) = &arguments.tool_choice {
        return calls(arguments, choice, engine).map(Some);
    }
    if arguments.json_object {
        return Ok(Some(Grammar::JsonObject));
    }
    let regex = arguments.regex.clone().map(Grammar::Regex);
    Ok(regex.or_else(|| arguments.grammar.clone().map(Grammar::Lark)))
}

fn calls(arguments: &StructureArguments, choice: &str, engine: &InferenceEngine) -> Result<Grammar> {
    let model = engine.model()?;
    let choice = match choice {
        "auto" => ToolChoice::Auto,
        "required" => ToolChoice::Required,
        name => ToolChoice::Named(name.to_owned()),
    };
    let tools = Tools::from(list(arguments.tools.clone().unwrap_or_else(|| json!([]))));
    Ok(model.constrainer()?.calls(&model.answer_format, &tools, &choice)?)
}

/// Says what the template does not look at.
pub fn note_ignored(arguments: &GenerationArguments, engine: &InferenceEngine, app: &App) -> Result<()> {
    let options = render_options(arguments);
    let model = engine.model()?;
    if (options.extra.is_empty() && options.tools.is_none()) || model.templates.is_empty() {
        return Ok(());
    }
    let found = Capabilities::of(&model.template(options.tools.is_some())?);
    let unknown = model.tool_parser.as_deref().filter(|name| ToolFormat::named(name).is_none());
    if let Some(name) = unknown.filter(|_| options.tools.is_some()) {
        let format = model.answer_format.tools();
        let read = format.map_or_else(|| "are not read".to_owned(), |format| format!("are read as {}", format.name));
        app.printer.note(&format!(
            "--tools: tool_parser_type {name:?} of tokenizer_config.json is not known; going by the template, calls {read}"
        ));
    }
    if options.tools.is_some() && !found.tools {
        app.printer.note("--tools: no effect, for the model's chat template does not show tools");
    }
    if arguments.think.is_some() && found.thinking.is_empty() {
        app.printer.note("--think: no effect, for the model's chat template has no switch for thinking");
    }
    let names = arguments.chat_template_arg.iter().map(|(name, _)| name.as_str());
    let given = names.chain(arguments.chat_template_config.iter().flatten().map(|(name, _)| name.as_str()));
    let ignored = found.ignored(given);
    if !ignored.is_empty() {
        app.printer.note(&format!("{}: no effect, for the model's chat template ignores it", ignored.join(", ")));
    }
    Ok(())
}
