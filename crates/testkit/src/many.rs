//! Many answers at once: to the bit those that each prompt has alone.

use std::sync::Arc;

use mlxengine_engine::{
    Batch, BatchEvent, BatchOptions, GenerateOptions, GenerateParams, Generation, LoadedModel, Request, Step,
};

use crate::{Measure, Stop};

/// Most tokens of an answer.
const MOST: usize = 10;

/// Answers to prompts of several lengths, at most two at once and in too little memory, each with its own parameters, in the
/// exact precision.
pub(crate) fn same(model: &Arc<LoadedModel>, prompts: &[&[u32]]) -> Result<Measure, Stop> {
    let options = GenerateOptions { prefill_chunk: 16, ..GenerateOptions::default() };
    // Contexts of cases may be shorter than their longest prompt.
    let fits = |prompt: &&[u32]| model.context().is_none_or(|context| prompt.len() + MOST <= context);
    let prompts: Vec<&[u32]> = prompts.iter().copied().filter(fits).collect();
    let plain = GenerateParams::default().with_ignore_eos(true).with_logprobs(2);
    let requests: Vec<(Vec<u32>, GenerateParams)> = (0..prompts.len() + 1)
        .map(|i| {
            let params = plain.clone().with_max_tokens(MOST - 4 * (i % 3)).with_repetition_penalty(1.1);
            let params = if i % 2 == 0 { params } else { params.with_temperature(1.2).with_seed(i as u64) };
            (prompts[i % prompts.len()].to_vec(), params)
        })
        .collect();
    let mut want = Vec::new();
    for (prompt, params) in &requests {
        let answer = Generation::new(Arc::clone(model), None, prompt.clone(), params, &options)?;
        want.push(answer.collect::<Result<Vec<Step>, _>>()?);
    }
    let longest = requests.iter().map(|(prompt, _)| prompt.len()).max().unwrap_or(0);
    let memory = model.cache_bytes(longest + 300, &options.cache) as u64;
    let mut measures = Vec::new();
    for cache_bytes in [None, Some(memory)] {
        let limits = BatchOptions { sequences: 2, cache_bytes };
        let requests = requests.clone().into_iter().map(|(prompt, params)| Ok(Request::new(prompt, params)));
        let batch = Batch::new(Arc::clone(model), requests, &options, limits)?;
        let mut got: Vec<Vec<Step>> = vec![Vec::new(); want.len()];
        for (index, event) in batch {
            match event {
                BatchEvent::Step(step) => got[index].push(step),
                BatchEvent::Finished(finished) if finished.stats.generated_tokens == got[index].len() => {}
                other => return Err(Stop::failed(format!("request {index}: {other:?}"))),
            }
        }
        let name = if cache_bytes.is_some() { "little memory" } else { "enough memory" };
        measures.push((name.to_owned(), Measure::exact(&bits(&got), &bits(&want))));
    }
    Measure::worst(measures)
}

fn bits(answers: &[Vec<Step>]) -> Vec<u32> {
    let one = |step: &Step| -> Vec<u32> {
        let top = step.top_logprobs.iter().flat_map(|(token, logprob)| [*token, logprob.to_bits()]);
        [step.token, step.logprob.to_bits()].into_iter().chain(top).collect()
    };
    answers.iter().flatten().flat_map(one).collect()
}
