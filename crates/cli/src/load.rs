//! Loading a model, with a bar if it takes a while.

use mlxengine::{Draft, EngineError, ErrorKind, Feature, GenerateParams, InferenceEngine, LlmEngine, LoadOptions};

use crate::App;
use crate::arguments::{Defaults, DraftArguments, GenerationArguments};
use crate::failure::Result;
use crate::settings;
use crate::structure;

/// Loads a model.
pub fn load(model: &str, options: &LoadOptions, app: &App) -> Result<InferenceEngine> {
    let mut bar = app.printer.bar("loading", "layers");
    let engine = InferenceEngine::load_with(model, options, |progress| bar.update(progress.done, progress.total));
    drop(bar);
    Ok(engine?)
}

/// Refuses a model that only continues text.
pub fn require_template(engine: &InferenceEngine) -> Result<()> {
    let c = engine.configuration();
    if engine.features().has(Feature::Chat) {
        return Ok(());
    }
    let error =
        EngineError::new(ErrorKind::Template, format!("the model {} has no chat template: it continues text", c.name));
    Err(error.with_remedy(format!("use `mlxengine run --raw {} PROMPT`", c.name)).into())
}

/// Loads a model for answers, with the parameters that were asked for, checked.
pub fn load_to_answer(
    model: &str,
    arguments: &GenerationArguments,
    unless_said: Defaults,
    app: &App,
) -> Result<(InferenceEngine, GenerateParams)> {
    let engine = load(model, &app.settings.load_options(&arguments.load), app)?;
    let mut params = settings::params(&arguments.sampling, &engine.configuration().default_params, unless_said);
    params.adapter = arguments.load.adapters.first().map(|(name, _)| name.clone());
    params.grammar = structure::grammar(&arguments.structure, &engine)?;
    structure::note_ignored(arguments, &engine, app)?;
    engine.configuration().validate(&params)?;
    let idle = settings::flags_without_effect(&arguments.sampling, &params);
    if !idle.is_empty() {
        app.printer.note(&format!(
            "{}: no effect, for at temperature 0 the likeliest token is taken; add --temp",
            idle.join(", ")
        ));
    }
    Ok((drafted(engine, arguments, app)?, params))
}

/// The same model with the drafts that were asked for.
fn drafted(engine: InferenceEngine, arguments: &GenerationArguments, app: &App) -> Result<InferenceEngine> {
    let DraftArguments { draft_model, prompt_lookup, num_draft_tokens } = &arguments.draft;
    let tokens = num_draft_tokens.unwrap_or(Draft::TOKENS);
    let options = app.settings.load_options(&arguments.load);
    let engine = match (draft_model, prompt_lookup) {
        (Some(model), _) => {
            let draft = load(model, &LoadOptions { context: None, ..options.clone() }, app)?;
            engine.with_draft_model(&draft, tokens)?
        }
        (None, Some(longest)) => engine.with_prompt_lookup(*longest, tokens)?,
        (None, None) if num_draft_tokens.is_some() => {
            let error =
                EngineError::new(ErrorKind::InvalidParameter, "--num-draft-tokens is given, and nothing drafts");
            return Err(error.with_remedy("add --draft-model or --prompt-lookup").into());
        }
        (None, None) => return Ok(engine),
    };
    let most = options.precision.rows_as_alone() - 1;
    if tokens > most {
        app.printer.note(&format!(
            "--num-draft-tokens: {most} at a time, for more would be computed in another order than one alone; with --precision exact there is no such limit"
        ));
    }
    Ok(engine)
}
