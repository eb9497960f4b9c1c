//! Drafts: what is generated with them is what is generated without.

use std::path::Path;
use std::sync::Arc;

use mlxengine_engine::{Draft, DraftSource, GenerateOptions, GenerateParams, Generation, LoadedModel, Step};
use mlxengine_models::{Checkpoint, Precision, decoder};

use crate::manifest::{self, Greedy, Tolerance};
use crate::set::json;
use crate::sheet::Sheet;
use crate::{Case, Measure, Stop};

/// A checkpoint with its tokenizer, or where it has none, since only tokens are compared, with that of another.
pub(crate) fn load(dir: &Path, precision: Precision) -> Result<Arc<LoadedModel>, Stop> {
    let load = |dir: &Path| LoadedModel::load(&Checkpoint::open_directory(dir)?, precision, |_, _| {});
    if dir.join("tokenizer.json").is_file() {
        return Ok(Arc::new(load(dir)?));
    }
    let network = decoder::load(&Checkpoint::open_directory(dir)?, precision, |_, _| {})?;
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/models/llama/model");
    let mut model = load(&other)?;
    model.network = network;
    Ok(Arc::new(model))
}

/// The steps of an answer to a prompt.
fn steps(
    model: &Arc<LoadedModel>,
    prompt: &[u32],
    params: &GenerateParams,
    draft: Option<Draft>,
) -> Result<(Vec<Step>, usize), Stop> {
    let options = GenerateOptions { draft, ..GenerateOptions::default() };
    let mut answer = Generation::new(Arc::clone(model), None, prompt.to_vec(), params, &options)?;
    let steps = answer.by_ref().collect::<Result<_, _>>()?;
    Ok((steps, answer.stats().speculation.map_or(0, |s| s.accepted)))
}

/// A recording with a draft model.
pub(crate) fn check(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: manifest::Speculative = case.read()?;
    let target = case.root.join(&manifest.target);
    let manifest_of_target = target.with_file_name("manifest.json");
    let Tolerance { f32_atol, f32_rtol } =
        json::<manifest::Language>(&manifest_of_target).map_err(Stop::failed)?.tolerance;
    let model = load(&target, Precision::Exact)?;
    let draft = load(&case.dir.join(&manifest.draft), Precision::Exact)?;
    for (number, recorded) in manifest.cases.iter().enumerate() {
        let Greedy { tokens, logprob, .. } = &recorded.greedy;
        let params = GenerateParams::default().with_max_tokens(tokens.len()).with_ignore_eos(true);
        let mut most_accepted = 0;
        for run in &recorded.runs {
            let name = format!("prompt {number}, drafts of {}", run.num_draft_tokens);
            sheet.check(&name, || {
                let draft = Draft { source: DraftSource::Model(Arc::clone(&draft)), tokens: run.num_draft_tokens };
                let (steps, accepted) = steps(&model, &recorded.prompt, &params, Some(draft))?;
                most_accepted = most_accepted.max(accepted);
                let got: Vec<u32> = steps.iter().map(|step| step.token).collect();
                if got != *tokens || run.tokens != *tokens {
                    return Err(Stop::failed(format!("tokens {got:?}, want {tokens:?}")));
                }
                let got: Vec<f32> = steps.iter().map(|step| step.logprob).collect();
                Measure::close(&got, logprob, [f32_atol, f32_rtol])
            });
        }
        let recorded_most = recorded.runs.iter().map(|run| run.accepted).max().unwrap_or(0);
        if most_accepted == 0 && recorded_most > 0 {
            return Err(Stop::failed(format!("nothing was accepted, {recorded_most} recorded")));
        }
    }
    Ok(())
}

/// Answers to a prompt with every kind of draft have the tokens and the very log-probabilities of the answer without, the
/// likeliest tokens and drawn ones.
pub(crate) fn same(model: &Arc<LoadedModel>, prompt: &[u32]) -> Result<Measure, Stop> {
    let sources = [DraftSource::PromptLookup(1), DraftSource::Model(Arc::clone(model))];
    let mut measures = Vec::new();
    for params in [GenerateParams::default(), GenerateParams::default().with_temperature(1.5).with_seed(7)] {
        let params = params.with_max_tokens(12).with_ignore_eos(true).with_repetition_penalty(1.1);
        let bits = |steps: &[Step]| -> Vec<u32> { steps.iter().flat_map(|s| [s.token, s.logprob.to_bits()]).collect() };
        let (want, _) = steps(model, prompt, &params, None)?;
        for source in &sources {
            let draft = Draft { source: source.clone(), tokens: 5 };
            let (got, _) = steps(model, prompt, &params, Some(draft))?;
            let name = format!("temperature {}, {}", params.temperature, kind(source));
            measures.push((name, Measure::exact(&bits(&got), &bits(&want))));
        }
    }
    Measure::worst(measures)
}

fn kind(source: &DraftSource) -> &'static str {
    match source {
        DraftSource::Model(_) => "its own drafts",
        DraftSource::PromptLookup(_) => "lookups",
    }
}
