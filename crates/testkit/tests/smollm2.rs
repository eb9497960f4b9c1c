//! A real checkpoint, SmolLM2-135M-Instruct quantized to 4 bits, against what transformers computed from the same weights.
//!
//! The recording lies in `shared/models` beside the repository; the checkpoint where `MLXENGINE_SMOLLM2` says, else in
//! `target/smollm2`.
#![allow(clippy::print_stderr, reason = "with --nocapture a test says how far it is off")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlxengine_engine::{
    FinishReason, GenerateOptions, GenerateParams, Generation, LoadedModel, Message, RenderOptions, Step,
};
use mlxengine_models::{CacheOptions, Checkpoint, Precision};
use mlxengine_testkit::{Agreement, Sequence, log_sum_exp};
use serde::Deserialize;
use serde_json::Value;

/// Below this margin between the two likeliest tokens either may come first.
const CLEAR: f64 = 1e-3;

#[derive(Deserialize)]
struct Recording {
    chats: Vec<Chat>,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Value,
    text: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    greedy_text: String,
    logprobs: Vec<f64>,
    margins: Vec<f64>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    nll_sum: f64,
    perplexity: f64,
    argmax: Vec<u32>,
    margin: Vec<f64>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The checkpoint and its recording, or a line that says that the test was skipped.
fn checkpoint(precision: Precision) -> Option<(Arc<LoadedModel>, Recording)> {
    let recording = repository().join("../shared/models/smollm2-goldens.json");
    let model =
        std::env::var_os("MLXENGINE_SMOLLM2").map_or_else(|| repository().join("target/smollm2"), PathBuf::from);
    for needed in [recording.clone(), model.join("config.json")] {
        if !needed.is_file() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{} must be there in CI", needed.display());
            // Not by `eprintln!`, which the harness keeps to itself where a test passes.
            let remedy = "shared/models/README.md says how to make it";
            let _ = writeln!(std::io::stderr(), "SKIPPED: {} is not there; {remedy}", needed.display());
            return None;
        }
    }
    let recording = serde_json::from_slice(&std::fs::read(&recording).unwrap()).unwrap();
    let checkpoint = Checkpoint::open_directory(&model).unwrap();
    Some((Arc::new(LoadedModel::load(&checkpoint, precision, |_, _| {}).unwrap()), recording))
}

fn check_chat(model: &Arc<LoadedModel>, chat: &Chat) -> Result<(), String> {
    let messages = Message::list_from_json(&chat.messages).unwrap();
    let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
    let text = model.render(&messages, &options).unwrap();
    if text != chat.text {
        return Err(format!("rendered {text:?}"));
    }
    let prompt = model.encode_chat(&messages, &options).unwrap();
    if prompt != chat.prompt_ids {
        return Err(format!("prompt ids {prompt:?}, want {:?}", chat.prompt_ids));
    }
    let params = GenerateParams::default().with_max_tokens(64);
    let answer = Generation::new(Arc::clone(model), None, prompt, &params, &GenerateOptions::default()).unwrap();
    let steps: Vec<Step> = answer.map(Result::unwrap).collect();
    let clear = chat.margins.iter().position(|margin| *margin < CLEAR).unwrap_or(chat.margins.len());
    let got: Vec<u32> = steps.iter().map(|s| s.token).collect();
    if got.get(..clear) != Some(&chat.greedy_ids[..clear]) {
        return Err(format!("ids {got:?}, want {:?}", chat.greedy_ids));
    }
    for (i, (step, want)) in steps.iter().zip(&chat.logprobs).take(clear).enumerate() {
        let error = (f64::from(step.logprob) - want).abs();
        if error > 1e-3 {
            return Err(format!("token {i}: log-probability {}, want {want}", step.logprob));
        }
    }
    let said: String = steps.iter().map(|s| s.text.as_str()).collect();
    let ended = steps.last().and_then(|s| s.finish) == Some(FinishReason::Stop);
    if clear == chat.margins.len() && (said != chat.greedy_text || ended != (steps.len() < 64)) {
        return Err(format!("said {said:?}, want {:?}", chat.greedy_text));
    }
    Ok(())
}

#[test]
fn chats() {
    let Some((model, recording)) = checkpoint(Precision::Exact) else { return };
    let faults: Vec<String> = recording
        .chats
        .iter()
        .enumerate()
        .filter_map(|(i, chat)| check_chat(&model, chat).err().map(|e| format!("chat {i}: {e}")))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn texts() {
    let Some((model, recording)) = checkpoint(Precision::Exact) else { return };
    for (i, text) in recording.texts.iter().enumerate() {
        assert!(model.tokenizer.encode(&text.text, false).unwrap().starts_with(&text.ids), "ids of text {i}");
        let network = model.network.as_ref();
        let mut sequence = Sequence::new(network, &CacheOptions::default()).unwrap();
        let (mut nll, mut position, mut wrong) = (0.0, 0, 0);
        for piece in text.ids.chunks(256) {
            let logits = sequence.feed(piece);
            for row in logits.f32s().chunks_exact(logits.shape().last()) {
                if let Some(next) = text.ids.get(position + 1) {
                    nll += log_sum_exp(row) - f64::from(row[*next as usize]);
                }
                let other = row[text.argmax.get(position).map_or(0, |id| *id as usize)]
                    < row.iter().copied().fold(f32::MIN, f32::max);
                wrong += usize::from(other && text.margin.get(position).is_some_and(|margin| *margin >= CLEAR));
                position += 1;
            }
        }
        let perplexity = (nll / (text.ids.len() - 1) as f64).exp();
        let relative = (perplexity / text.perplexity - 1.0).abs();
        eprintln!(
            "text {i}: nll {nll:.4}, want {:.4}; perplexity {perplexity:.6}, off by {relative:.2e}",
            text.nll_sum
        );
        assert_eq!(wrong, 0, "text {i}: positions where another token is the likeliest");
        assert!(relative <= 1e-5, "text {i}: perplexity {perplexity}, want {}", text.perplexity);
    }
}

/// The bounds within which the fast precision is the default: texts and chats read in pieces, and token by token.
#[test]
fn fast_predicts_as_exact() {
    let Some((exact, recording)) = checkpoint(Precision::Exact) else { return };
    let Some((fast, _)) = checkpoint(Precision::Fast) else { return };
    for (chunk, most) in [(256, usize::MAX), (1, 128)] {
        let (mut agreement, mut nll) = (Agreement::default(), [0.0; 2]);
        let chats = recording.chats.iter().map(|chat| [&chat.prompt_ids[..], &chat.greedy_ids].concat());
        for ids in recording.texts.iter().map(|text| text.ids.clone()).chain(chats) {
            let ids = &ids[..ids.len().min(most)];
            let options = CacheOptions::default();
            let [mut exact, mut fast] = [&exact, &fast].map(|model| Sequence::new(&*model.network, &options).unwrap());
            let mut next = ids[1..].iter();
            for piece in ids.chunks(chunk) {
                let (exact, fast) = (exact.feed(piece), fast.feed(piece));
                let columns = exact.shape().last();
                for (p, q) in exact.f32s().chunks_exact(columns).zip(fast.f32s().chunks_exact(columns)) {
                    agreement.add(p, q);
                    let Some(&next) = next.next() else { continue };
                    for (nll, row) in nll.iter_mut().zip([p, q]) {
                        *nll += log_sum_exp(row) - f64::from(row[next as usize]);
                    }
                }
            }
        }
        let (divergence, same) = (agreement.divergence(), agreement.same());
        let perplexity = ((nll[1] - nll[0]) / agreement.count as f64).exp_m1();
        eprintln!(
            "{} positions in pieces of {chunk}: KL {divergence:.1e}, likeliest {same:.4}, perplexity {perplexity:+.1e}",
            agreement.count
        );
        assert!(divergence <= 2e-3 && same >= 0.99 && perplexity.abs() <= 3e-3, "pieces of {chunk}");
    }
}
