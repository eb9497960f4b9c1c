//! Loading a model, with a bar if it takes a while.

use std::ops::ControlFlow;
use std::path::Path;

use mlxengine::gguf::{self, Progress};
use mlxengine::{
    CancelToken, Draft, EngineError, ErrorKind, Feature, GenerateParams, InferenceEngine, LlmEngine, LoadOptions,
};

use crate::App;
use crate::arguments::{Defaults, DraftArguments, GenerationArguments};
use crate::failure::{Result, Stop};
use crate::fetch;
use crate::settings;
use crate::structure;

/// Loads a model; a GGUF file is imported first, if it was not before.
pub fn load(model: &str, options: &LoadOptions, app: &App) -> Result<InferenceEngine> {
    if let Some(imports) = options.paths.imports.as_deref().filter(|_| gguf::is_gguf(Path::new(model))) {
        let (directory, report) = watched(app, |progress| gguf::imported(Path::new(model), imports, progress))?;
        if let Some(report) = report {
            let loss = match report.deviation.relative() {
                0.0 => "without loss".to_owned(),
                loss => format!("with a relative RMS error of {:.2} %", 100.0 * loss),
            };
            app.printer.note(&format!("imported {loss} to {}", directory.display()));
        }
    }
    let mut bar = app.printer.bar("loading", "layers");
    let engine = InferenceEngine::load_with(model, options, |progress| bar.update(progress.done, progress.total));
    drop(bar);
    Ok(engine?)
}

/// Imports with a bar; Ctrl-C stops it, and nothing is left of it.
pub fn watched<T>(
    app: &App,
    import: impl FnOnce(&mut dyn FnMut(Progress) -> ControlFlow<()>) -> mlxengine::Result<T>,
) -> Result<T> {
    let mut bar = app.printer.bar("importing", "MB");
    let cancel = CancelToken::new();
    let _guard = app.interrupts.guard(cancel.clone());
    let result = import(&mut |progress| {
        bar.update((progress.done / 1_000_000) as usize, (progress.total / 1_000_000) as usize);
        if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(bar);
    result.map_err(|error| if error.kind() == ErrorKind::Cancelled { Stop::Interrupted } else { error.into() })
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
    fetch::ensure(model, app)?;
    let engine = load(model, &app.settings.load_options(&arguments.load), app)?;
    let mut params = settings::params(&arguments.sampling, &engine.configuration().default_params, unless_said);
    params.adapter = arguments.load.adapters.first().map(|(name, _)| name.clone());
    params.thinking_budget = arguments.thinking_budget;
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
