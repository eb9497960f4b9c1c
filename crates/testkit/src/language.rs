//! Language models: logits, however the prompt is fed, and what is generated from them.

use std::path::Path;

use mlxengine_engine::evaluate::{self, Perplexity};
use mlxengine_models::{
    CacheOptions, Checkpoint, KvQuantization, LanguageModel, Precision, Span, State, decoder, families,
};
use mlxengine_tensor::Tensor;

use crate::golden::{Golden, last_rows};
use crate::manifest::{self, Greedy, Language, Tolerance};
use crate::sequence::{Sequence, Step, generate};
use crate::sheet::Sheet;
use crate::{Case, Measure, Stop, cache, many, speculative, text};

/// Prompt tokens that are read at once where nothing else is said.
const PREFILL: usize = 2048;

/// A checkpoint and its model; not run where the family is not known.
pub(crate) fn load(dir: &Path) -> Result<Box<dyn LanguageModel>, Stop> {
    let checkpoint = Checkpoint::open_directory(dir)?;
    let model_type = checkpoint.config.model_type();
    if families::find(model_type).is_none() {
        return Err(Stop::not_run(format!("model type `{model_type}` is not supported")));
    }
    // Of a family that is known everything has to load.
    decoder::load(&checkpoint, Precision::Exact, |_, _| {}).map_err(|e| Stop::failed(e.to_string()))
}

pub(crate) fn check(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: Language = case.read()?;
    let golden = Golden::open(case)?;
    let dir = case.dir.join(&manifest.model_dir);
    let model = load(&dir)?;
    let model = model.as_ref();
    for (name, ids) in &manifest.prompts {
        logits(sheet, model, &golden, (name, ids), &manifest);
    }
    let mut last = None;
    for (name, recorded) in manifest.greedy.iter().filter(|(name, _)| !name.ends_with("_native")) {
        let prompt = name.split('_').next().unwrap_or(name);
        sheet.check(format!("greedy.{name}"), || {
            let ids =
                manifest.prompts.get(prompt).ok_or_else(|| Stop::failed(format!("there is no prompt {prompt}")))?;
            let chunk = recorded.prefill_step_size.unwrap_or(PREFILL);
            let steps = generate(model, &CacheOptions::default(), ids, chunk, (recorded.tokens.len(), &[]))?;
            let measure = greedy(&steps, recorded, manifest.tolerance);
            if name == "p2" {
                last = steps.into_iter().next_back();
            }
            measure
        });
    }
    if golden.has("p2.greedy_logprobs_last") {
        sheet.check("p2.greedy_logprobs_last", || {
            let step = last.ok_or_else(|| Stop::failed("nothing was generated"))?;
            let want = golden.f32("p2.greedy_logprobs_last")?;
            Measure::close(&step.logprobs, want.f32s(), [manifest.tolerance.f32_atol, manifest.tolerance.f32_rtol])
        });
    }
    let prompts: Vec<&[u32]> = manifest.prompts.values().map(Vec::as_slice).collect();
    sheet.check("batch", || batch(model, &prompts));
    for (name, ids) in &manifest.prompts {
        sheet.check(format!("{name}.rewind"), || rewind(model, ids, manifest.tolerance));
    }
    for precision in [Precision::Exact, Precision::Fast] {
        let model = speculative::load(&dir, precision)?;
        for (name, ids) in &manifest.prompts {
            sheet.check(format!("{name}.several {precision:?}"), || several(&*model.network, ids));
        }
        sheet.check(format!("drafts {precision:?}"), || speculative::same(&model, prompts[0]));
        if precision == Precision::Exact {
            sheet.check("answers at once", || many::same(&model, &prompts));
        }
    }
    sheet.check("small caches", || small_caches(model, &prompts));
    for (name, ids) in &manifest.prompts {
        sheet.check(format!("{name}.saved"), || cache::saved(model, ids, &CacheOptions::default()));
    }
    sheet.check("saved small caches", || {
        let ways = small(model).into_iter().map(|options| {
            let longest = prompts.iter().max_by_key(|ids| ids.len()).expect("there are prompts");
            Ok((format!("{options:?}"), cache::saved(model, longest, &options)))
        });
        Measure::worst(ways.collect::<Result<Vec<_>, Stop>>()?)
    });
    if let Some(recorded) = &manifest.text {
        text::check(sheet, &dir, recorded);
    }
    Ok(())
}

/// The three ways to feed a prompt.
fn logits(
    sheet: &mut Sheet<'_>,
    model: &dyn LanguageModel,
    golden: &Golden,
    (name, ids): (&str, &[u32]),
    manifest: &Language,
) {
    let bounds = [manifest.tolerance.f32_atol, manifest.tolerance.f32_rtol];
    let full = format!("{name}.full");
    sheet.check(&full, || {
        let want = golden.f32(&full)?;
        let got = Sequence::new(model, &CacheOptions::default())?.feed(ids);
        Measure::close(last_rows(&got, want.shape().rows()), want.f32s(), bounds)
    });
    let (before, last) = ids.split_at(ids.len() - 1);
    let ways: [(&str, Vec<&[u32]>); 2] =
        [("decode", ids.chunks(1).collect()), ("chunk", before.chunks(manifest.chunk_size).chain([last]).collect())];
    for (way, pieces) in ways {
        let name = format!("{name}.{way}");
        sheet.check(&name, || {
            // Where feeding in pieces changes nothing, only the whole was recorded.
            let want = golden.f32(if golden.has(&name) { &name } else { &full })?;
            let rows = want.shape().rows().min(4);
            let got = Sequence::new(model, &CacheOptions::default())?.feed_pieces(pieces);
            Measure::close(last_rows(&got, rows), last_rows(&want, rows), bounds)
        });
    }
}

/// Tokens have to be equal, log-probabilities close.
pub(crate) fn greedy(steps: &[Step], recorded: &Greedy, tolerance: Tolerance) -> Result<Measure, Stop> {
    let got: Vec<f32> = steps.iter().map(|s| s.logprobs[s.token as usize]).collect();
    let mut measure = Measure::close(&got, &recorded.logprob, [tolerance.f32_atol, tolerance.f32_rtol])?;
    if let Some(fault) = other_token(steps, &recorded.tokens, &recorded.margin) {
        measure.fault = Some(fault);
    }
    Ok(measure)
}

/// The first token that is not the recorded one.
pub(crate) fn other_token(steps: &[Step], tokens: &[u32], margin: &[f64]) -> Option<String> {
    if steps.len() != tokens.len() {
        return Some(format!("{} tokens were generated, {} recorded", steps.len(), tokens.len()));
    }
    let at = steps.iter().zip(tokens).position(|(step, token)| step.token != *token)?;
    let margin = margin.get(at).copied().unwrap_or(f64::NAN);
    Some(format!("token {at} is {}, want {} by a margin of {margin:.4}", steps[at].token, tokens[at]))
}

/// Several sequences in one pass have to give the very bits of each alone, for prompts and for the token after them.
fn batch(model: &dyn LanguageModel, prompts: &[&[u32]]) -> Result<Measure, Stop> {
    let fresh = || prompts.iter().map(|_| model.state(&CacheOptions::default())).collect::<Result<Vec<State>, _>>();
    let (mut together, mut alone) = (fresh()?, fresh()?);
    let next: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[..1]).collect();
    let mut measures = Vec::new();
    for (what, tokens) in [("prompts", prompts), ("next tokens", &next)] {
        let mut spans: Vec<Span<'_>> =
            together.iter_mut().zip(tokens).map(|(state, tokens)| Span { tokens, state }).collect();
        let got = model.forward(&mut spans);
        let parts: Vec<Tensor> =
            alone.iter_mut().zip(tokens).map(|(state, tokens)| model.forward(&mut [Span { tokens, state }])).collect();
        let want_logits: Vec<u32> = parts.iter().flat_map(|hidden| bits(&model.logits(hidden))).collect();
        let want: Vec<u32> = parts.iter().flat_map(bits).collect();
        measures.push((format!("hidden states of {what}"), Measure::exact(&bits(&got), &want)));
        measures.push((format!("logits of {what}"), Measure::exact(&bits(&model.logits(&got)), &want_logits)));
    }
    Measure::worst(measures)
}

/// Half a prompt, a mark, the other half; then back to the mark and the other half again: the very bits, or where a cache had
/// forgotten what it needs, the same logits from further back.
fn rewind(model: &dyn LanguageModel, ids: &[u32], tolerance: Tolerance) -> Result<Measure, Stop> {
    let mut sequence = Sequence::new(model, &CacheOptions::default())?;
    let (before, after) = ids.split_at(ids.len() / 2);
    sequence.hidden(before);
    sequence.state.mark();
    let want = sequence.feed(after);
    let kept = sequence.state.rewind(before.len());
    if kept > before.len() || sequence.state.offset() != kept {
        return Err(Stop::failed(format!("a state of {} went back to {kept}, not {}", ids.len(), before.len())));
    }
    let got = sequence.feed(&ids[kept..]);
    if kept == before.len() {
        return Measure::exact(&bits(&got), &bits(&want));
    }
    Measure::close(last_rows(&got, after.len()), want.f32s(), [tolerance.f32_atol, tolerance.f32_rtol])
}

/// The tokens after half a prompt, a few in each pass, as drafts are verified: the very bits of one in each pass.
fn several(model: &dyn LanguageModel, ids: &[u32]) -> Result<Measure, Stop> {
    let (before, after) = ids.split_at(ids.len() / 2);
    let mut sequence = Sequence::new(model, &CacheOptions::default())?;
    sequence.hidden(before);
    let want = sequence.clone().feed_pieces(after.chunks(1));
    let ways = [2, 3, 4, 5, 8].map(|rows| {
        let (mut sequence, mut left, mut got) = (sequence.clone(), after, Vec::new());
        while !left.is_empty() {
            let rows = rows.min(left.len()).min(model.rows_as_alone(sequence.state.offset()));
            let piece;
            (piece, left) = left.split_at(rows);
            got.extend(bits(&sequence.feed(piece)));
        }
        (format!("passes of {rows}"), Measure::exact(&got, &bits(&want)))
    });
    Measure::worst(ways)
}

/// Prompts in pieces through caches that forget, and through caches of fewer bits where the model's sizes allow them: finite
/// logits, since nothing is recorded.
fn small_caches(model: &dyn LanguageModel, prompts: &[&[u32]]) -> Result<Measure, Stop> {
    let mut wrong = 0;
    for options in small(model) {
        for ids in prompts {
            let logits = Sequence::new(model, &options)?.feed_pieces(ids.chunks(7));
            wrong += logits.f32s().iter().filter(|x| !x.is_finite()).count() as u32;
        }
    }
    Measure::exact(&[wrong], &[0])
}

/// The unusual caches that a model can have.
fn small(model: &dyn LanguageModel) -> Vec<CacheOptions> {
    let bounded = CacheOptions { max_tokens: Some(12), quantize: None };
    let quantize = Some(KvQuantization { bits: 8, group: 32, start: Some(20) });
    let all = [bounded.clone(), CacheOptions { max_tokens: None, quantize }, CacheOptions { quantize, ..bounded }];
    all.into_iter().filter(|options| model.state(options).is_ok()).collect()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.f32s().iter().map(|x| x.to_bits()).collect()
}

pub(crate) fn perplexity(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: manifest::Perplexity = case.read()?;
    let golden = Golden::open(case)?;
    let model = load(&case.root.join(&manifest.base))?;
    let width = golden.raw("tokens")?.shape().last();
    let tokens = golden.u32("tokens")?;
    let rows: Vec<&[u32]> = tokens.chunks_exact(width).collect();
    let losses = evaluate::losses(model.as_ref(), &rows)?;
    sheet.check("token_losses", || {
        Measure::close(&losses, golden.f32("token_losses")?.f32s(), [manifest.tolerance.token_losses_abs, 0.0])
    });
    let found = Perplexity::of(&losses);
    let found = [found.perplexity, found.standard_error];
    let pairs = [("perplexity", manifest.perplexity), ("standard_error", manifest.standard_error)];
    for ((name, want), got) in pairs.into_iter().zip(found) {
        sheet.check(name, || Measure::close(&[got as f32], &[want as f32], [0.0, manifest.tolerance.perplexity_rel]));
    }
    Ok(())
}
