//! Drawn tokens with drafts follow the model's distribution, with penalties and filters.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use mlxengine_engine::{Draft, DraftSource, GenerateOptions, GenerateParams, Generation, LoadedModel};
use mlxengine_models::{CacheOptions, Checkpoint, Precision, decoder};
use mlxengine_testkit::Sequence;

const PROMPT: [u32; 8] = [17, 301, 44, 301, 44, 290, 17, 301];

fn model(name: &str) -> LoadedModel {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/models").join(name).join("model");
    LoadedModel::load(&Checkpoint::open_directory(&dir).unwrap(), Precision::Exact, |_, _| {}).unwrap()
}

/// Few tokens are likely, and which depends on those before: drawn from the likeliest three, repeated ones less.
fn params() -> GenerateParams {
    let params = GenerateParams::default().with_temperature(1.4).with_top_k(3).with_repetition_penalty(1.3);
    params.with_max_tokens(3).with_ignore_eos(true)
}

/// The probability of each text of three tokens.
fn distribution(model: &LoadedModel) -> HashMap<Vec<u32>, f64> {
    let mut texts = HashMap::from([(Vec::new(), 1.0)]);
    for _ in 0..3 {
        let longer = texts.into_iter().flat_map(|(text, probability): (Vec<u32>, f64)| {
            let history = [&PROMPT[..], &text].concat();
            let mut sequence = Sequence::new(&*model.network, &CacheOptions::default()).unwrap();
            let logits = sequence.feed(&history);
            let row = logits.slice(0, history.len() - 1, 1).f32s().to_vec();
            likely(&history, row).into_iter().map(move |(token, share)| {
                let mut text = text.clone();
                text.push(token);
                (text, probability * share)
            })
        });
        texts = longer.collect();
    }
    texts
}

/// By the definition: repeated tokens punished, the three likeliest, at the temperature.
fn likely(history: &[u32], mut row: Vec<f32>) -> Vec<(u32, f64)> {
    let params = params();
    let seen: std::collections::BTreeSet<u32> = history.iter().rev().take(20).copied().collect();
    for token in seen {
        let logit = &mut row[token as usize];
        *logit = if *logit < 0.0 { *logit * params.repetition_penalty } else { *logit / params.repetition_penalty };
    }
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
    let weight = |token: u32| (f64::from(row[token as usize]) / f64::from(params.temperature)).exp();
    let total: f64 = order[..3].iter().map(|token| weight(*token)).sum();
    order[..3].iter().map(|token| (*token, weight(*token) / total)).collect()
}

#[test]
fn drawn_texts_have_the_probabilities_of_the_model() {
    let target = Arc::new(model("llama"));
    let gemma = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/models/gemma2/model");
    let mut other = model("llama");
    other.network = decoder::load(&Checkpoint::open_directory(&gemma).unwrap(), Precision::Exact, |_, _| {}).unwrap();
    let other = Arc::new(other);
    let want = distribution(&target);
    assert_eq!(want.len(), 27);
    let sources = [
        (DraftSource::Model(Arc::clone(&target)), 0.99),
        (DraftSource::Model(other), 0.0),
        (DraftSource::PromptLookup(1), 0.0),
    ];
    for (source, least) in sources {
        let count = 1500;
        let mut seen: HashMap<Vec<u32>, f64> = HashMap::new();
        let (mut drafted, mut accepted) = (0, 0);
        for seed in 0..count {
            let draft = Some(Draft { source: source.clone(), tokens: 2 });
            let options = GenerateOptions { draft, ..GenerateOptions::default() };
            let params = params().with_seed(seed);
            let mut answer = Generation::new(Arc::clone(&target), None, PROMPT.to_vec(), &params, &options).unwrap();
            let text: Vec<u32> = answer.by_ref().map(|step| step.unwrap().token).collect();
            let speculation = answer.stats().speculation.unwrap();
            (drafted, accepted) = (drafted + speculation.drafted, accepted + speculation.accepted);
            *seen.entry(text).or_default() += 1.0;
        }
        assert!(seen.keys().all(|text| want.contains_key(text)), "a text that cannot be");
        let difference = |(text, share): (&Vec<u32>, &f64)| {
            let expected = share * count as f64;
            (seen.get(text).copied().unwrap_or(0.0) - expected).powi(2) / expected
        };
        let chi2: f64 = want.iter().map(difference).sum();
        // 26 degrees of freedom: mean 26, standard deviation 7.2.
        assert!(chi2 < 55.0, "{source:?}: {chi2}");
        assert!(accepted as f64 >= least * drafted as f64, "{accepted} of {drafted}");
    }
}

#[test]
fn whoever_changes_logits_sees_each_position_once() {
    let target = Arc::new(model("llama"));
    for tokens in [1, 3, 7] {
        let draft = Some(Draft { source: DraftSource::Model(Arc::clone(&target)), tokens });
        let options = GenerateOptions { draft, ..GenerateOptions::default() };
        let params = GenerateParams::default().with_max_tokens(20).with_ignore_eos(true);
        let plain = |history: &[u32], logits: &mut [f32]| logits[history.len() % 512] += 4.0;
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        // A grammar would be such a processor: a position is asked for once, after the tokens that were chosen.
        let counted = move |history: &[u32], logits: &mut [f32]| {
            told.lock().unwrap().push(history.to_vec());
            plain(history, logits);
        };
        let new = |options: &GenerateOptions| {
            Generation::new(Arc::clone(&target), None, PROMPT.to_vec(), &params, options).unwrap()
        };
        let said = |answer: Generation| answer.map(|step| step.unwrap().token).collect::<Vec<_>>();
        let want = said(new(&GenerateOptions::default()).with_processor(plain));
        let got = said(new(&options).with_processor(counted));
        assert_eq!(got, want);
        let histories = seen.lock().unwrap();
        let whole = [&PROMPT[..], &want].concat();
        assert_eq!(histories.len(), 20);
        assert!(histories.iter().enumerate().all(|(i, history)| *history == whole[..PROMPT.len() + i]));
    }
}
