//! Loading a model, with a bar if it takes a while.

use mlxengine::{EngineError, ErrorKind, Feature, GenerateParams, InferenceEngine, LlmEngine, LoadOptions};

use crate::App;
use crate::arguments::{Defaults, GenerationArguments};
use crate::failure::Result;
use crate::fetch;
use crate::settings;

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
    fetch::ensure(model, app)?;
    let engine = load(model, &app.settings.load_options(&arguments.load), app)?;
    let params = settings::params(&arguments.sampling, &engine.configuration().default_params, unless_said);
    engine.configuration().validate(&params)?;
    let idle = settings::flags_without_effect(&arguments.sampling, &params);
    if !idle.is_empty() {
        app.printer.note(&format!(
            "{}: no effect, for at temperature 0 the likeliest token is taken; add --temp",
            idle.join(", ")
        ));
    }
    Ok((engine, params))
}
