//! Caches that forget, caches in fewer bits, and caches that are cut.
//!
//! Of quantized caches the logits are compared. The codes that some recordings add are not, for a state does not show its
//! arrays; the operation that makes them is compared by itself.

use std::collections::BTreeMap;

use mlxengine_models::{CacheFile, CacheOptions, KvQuantization, LanguageModel, State};

use crate::golden::{Golden, last_rows};
use crate::language::{load, other_token};
use crate::manifest::{CacheArguments, CacheEntry, CacheInFile, Caches};
use crate::sequence::{Sequence, generate};
use crate::sheet::Sheet;
use crate::{Case, Measure, Stop};

fn options(args: &CacheArguments) -> CacheOptions {
    let quantize = args.kv_bits.map(|bits| KvQuantization {
        bits,
        group: args.kv_group_size.unwrap_or(64),
        start: Some(args.quantized_kv_start.unwrap_or(0)),
    });
    CacheOptions { max_tokens: args.max_kv_size, quantize }
}

/// What is generated with an unusual cache.
pub(crate) fn generated(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: Caches = case.read()?;
    let golden = Golden::open(case)?;
    let model = load(&case.root.join(&manifest.model).join("model"))?;
    for entry in &manifest.entries {
        sheet.check(&entry.id, || {
            let chunk = entry.args.prefill_step_size.unwrap_or(2048);
            let count = entry.tokens.len();
            let steps = generate(model.as_ref(), &options(&entry.args), &entry.prompt_tokens, chunk, (count, &[]))?;
            let got: Vec<f32> = entry.logprob_steps.iter().flat_map(|i| steps[*i].logprobs.iter().copied()).collect();
            let want = golden.f32(&format!("{}.logprobs", entry.id))?;
            let mut measure = Measure::close(&got, want.f32s(), [entry.atol, 0.0])?;
            if let Some(fault) = other_token(&steps, &entry.tokens, &entry.margin) {
                measure.fault = Some(fault);
            }
            Ok(measure)
        });
    }
    Ok(())
}

/// A prompt in pieces through a cache of fewer bits, and a cache that is cut.
pub(crate) fn direct(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: Caches = case.read()?;
    let golden = Golden::open(case)?;
    let model = load(&case.root.join(&manifest.model).join("model"))?;
    for entry in &manifest.entries {
        sheet.check(&entry.id, || match entry.trimmed {
            Some(count) => cut(model.as_ref(), &golden, entry, count),
            None => quantized(model.as_ref(), &golden, entry),
        });
    }
    Ok(())
}

/// A prompt cache that the reference wrote: what follows it, and the same from the file that is written of it here.
pub(crate) fn file(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: CacheInFile = case.read()?;
    let golden = Golden::open(case)?;
    let model = load(&case.root.join(&manifest.model).join("model"))?;
    let read = |file: &CacheFile| State::restore(model.as_ref(), file, None, &CacheOptions::default());
    let follow = |state: State| {
        let pieces = [(0, 1), (1, 4), (4, 5), (5, 6)].map(|(from, to)| &manifest.cont[from..to]);
        let got = Sequence::with(model.as_ref(), state).feed_pieces(pieces);
        Measure::close(got.f32s(), golden.f32("logits")?.f32s(), [manifest.atol, 0.0])
    };
    let state = read(&CacheFile::open(&case.dir.join(&manifest.file))?)?;
    sheet.check("offset", || Measure::exact(&[state.offset()], &[manifest.prompt.len()]));
    sheet.check("logits", || follow(state.clone()));
    sheet.check("written", || {
        let bytes = state.save(model.as_ref(), &BTreeMap::new())?;
        follow(read(&CacheFile::parse(bytes.into(), "written")?)?)
    });
    Ok(())
}

/// Half a prompt, and the other half once as usual and once from a file: the very bits.
pub(crate) fn saved(model: &dyn LanguageModel, ids: &[u32], options: &CacheOptions) -> Result<Measure, Stop> {
    let (before, after) = ids.split_at(ids.len() / 2);
    let mut sequence = Sequence::new(model, options)?;
    sequence.hidden(before);
    let bytes = sequence.state.save(model, &BTreeMap::new())?;
    let file = CacheFile::parse(bytes.into(), "saved")?;
    let mut restored = Sequence::with(model, State::restore(model, &file, Some(before.len()), options)?);
    let pieces = || after.chunks(after.len().div_ceil(2));
    let bits = |t: &mlxengine_tensor::Tensor| t.f32s().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    Measure::exact(&bits(&restored.feed_pieces(pieces())), &bits(&sequence.feed_pieces(pieces())))
}

fn quantized(model: &dyn LanguageModel, golden: &Golden, entry: &CacheEntry) -> Result<Measure, Stop> {
    let (Some(bits), Some(group)) = (entry.bits, entry.group_size) else {
        return Err(Stop::failed("the entry has no bits or group size"));
    };
    let options = CacheOptions { quantize: Some(KvQuantization { bits, group, start: None }), ..Default::default() };
    let mut rest = &entry.prompt_tokens[..];
    let pieces: Vec<&[u32]> = entry.split.iter().map_while(|count| rest.split_off(..*count)).collect();
    let got = Sequence::new(model, &options)?.feed_pieces(pieces);
    let want = golden.f32(&format!("{}.logits", entry.id))?;
    Measure::close(last_rows(&got, want.shape().rows()), want.f32s(), [entry.atol, 0.0])
}

/// Twenty tokens, of which the last are forgotten, then eight others.
fn cut(model: &dyn LanguageModel, golden: &Golden, entry: &CacheEntry, count: usize) -> Result<Measure, Stop> {
    let mut sequence = Sequence::new(model, &CacheOptions::default())?;
    sequence.hidden(&entry.prompt_tokens[..20]);
    if !sequence.state.truncate(20 - count) || sequence.state.offset() != 20 - count {
        return Err(Stop::failed(format!("the state could not be cut by {count} tokens")));
    }
    let got = sequence.feed(&entry.prompt_tokens[25..33]);
    Measure::close(got.f32s(), golden.f32(&format!("{}.logits", entry.id))?.f32s(), [entry.atol, 0.0])
}
