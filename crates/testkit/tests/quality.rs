//! How good models are: perplexities, likelihoods and right answers, beside those that mlx-lm finds of the same weights.
//!
//! The checkpoint lies in `shared/models` beside the repository; `tools/make_evaluation.py` made the recording.
#![allow(clippy::print_stderr, reason = "with --nocapture a test says what it found")]

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlxengine_engine::evaluate::{Perplexity, likelihoods, losses};
use mlxengine_engine::{
    Batch, BatchEvent, BatchOptions, Draft, DraftSource, GenerateOptions, GenerateParams, Generation, LoadedModel,
    Message, RenderOptions, Request,
};
use mlxengine_models::{Checkpoint, Precision};
use mlxengine_tensor::safetensors::{File, serialize};
use mlxengine_tensor::{Dtype, QuantFormat, QuantMode, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Recording {
    perplexity: BTreeMap<String, Recorded>,
    questions: Vec<Question>,
    chats: Chats,
}

#[derive(Deserialize)]
struct Recorded {
    sequence_length: usize,
    samples: usize,
    perplexity: f64,
    standard_error: f64,
}

#[derive(Deserialize)]
struct Question {
    context: String,
    choices: Vec<String>,
    chat: bool,
    logprobs: Vec<f64>,
    greedy: Vec<bool>,
}

#[derive(Deserialize)]
struct Chats {
    every: usize,
    count: usize,
    right: BTreeMap<String, usize>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn recording() -> Recording {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/evaluation.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A folder of `shared/models`, or a line that says that the test was skipped.
fn shared(name: &str) -> Option<PathBuf> {
    let dir = repository().join("../shared/models").join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{} must be there in CI", dir.display());
    // Not by `eprintln!`, which the harness keeps to itself where a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {} is not there", dir.display());
    None
}

fn load(dir: &Path, precision: Precision) -> Arc<LoadedModel> {
    Arc::new(LoadedModel::load(&Checkpoint::open_directory(dir).unwrap(), precision, |_, _| {}).unwrap())
}

/// The lines of the test split.
fn rows(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("data/test.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Those that are nothing but a conversation.
fn plain(rows: &[Value]) -> impl Iterator<Item = &Value> {
    rows.iter().filter(|row| row.get("tools").is_none() && row.get("enable_thinking").is_none())
}

fn options(add_generation_prompt: bool) -> RenderOptions {
    RenderOptions { add_generation_prompt, ..RenderOptions::default() }
}

#[test]
fn perplexities_are_those_of_mlx_lm() {
    let Some(dir) = shared("demo-chat") else { return };
    let (model, rows, recorded) = (load(&dir, Precision::Exact), rows(&dir), recording().perplexity);
    let chats = plain(&rows).take(24).map(|row| {
        let messages = Message::list_from_json(&row["messages"]).unwrap();
        model.encode_chat(&messages, &options(false)).unwrap()
    });
    let texts = plain(&rows).take(60).map(|row| {
        let text = row["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
        let mut tokens = model.tokenizer.encode(text, true).unwrap();
        tokens.extend(model.tokenizer.eos_id());
        tokens
    });
    for (name, tokens) in [("messages", chats.flatten().collect::<Vec<u32>>()), ("text", texts.flatten().collect())] {
        let want = &recorded[name];
        let samples: Vec<&[u32]> = tokens.chunks_exact(want.sequence_length).collect();
        assert_eq!(samples.len(), want.samples, "{name}");
        let found: Vec<f32> = samples.chunks(8).flat_map(|batch| losses(&*model.network, batch).unwrap()).collect();
        let found = Perplexity::of(&found);
        for (found, want) in [(found.perplexity, want.perplexity), (found.standard_error, want.standard_error)] {
            assert!((found / want - 1.0).abs() < 1e-5, "{name}: {found}, want {want}");
        }
    }
}

#[test]
fn likelihoods_are_those_of_mlx_lm() {
    let Some(dir) = shared("demo-chat") else { return };
    let model = load(&dir, Precision::Exact);
    for question in recording().questions {
        let Question { context, choices, chat, logprobs, greedy } = question;
        let context = if chat { model.render(&[Message::user(context)], &options(true)).unwrap() } else { context };
        let encode = |text: &str| model.tokenizer.encode(text, !chat).unwrap();
        let before = encode(&context);
        let endings: Vec<Vec<u32>> =
            choices.iter().map(|choice| encode(&format!("{context}{choice}"))[before.len()..].to_vec()).collect();
        for (chunk, network) in [(512, &*model.network), (5, &*model.network)] {
            for (i, found) in likelihoods(network, &before, &endings, chunk).unwrap().iter().enumerate() {
                let error = (found.logprob - logprobs[i]).abs();
                assert!(error < 1e-4 * logprobs[i].abs().max(1.0), "{:?}: {found:?}, want {}", choices[i], logprobs[i]);
                assert_eq!(found.greedy, greedy[i], "{:?}", choices[i]);
            }
        }
    }
}

/// The demo checkpoint in a quantization, as `mlx_lm convert` makes it.
fn quantized(dir: &Path, name: &str, format: QuantFormat) -> PathBuf {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-chat-{name}"));
    std::fs::create_dir_all(&made).unwrap();
    let file = File::open(&dir.join("model.safetensors")).unwrap();
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (name, tensor) in file.tensors() {
        let Some(matrix) = name.strip_suffix(".weight").filter(|_| tensor.shape().len() == 2) else {
            tensors.push((name.to_owned(), tensor));
            continue;
        };
        let mut parts = tensor.to_f32().unwrap().quantize(format).into_iter();
        for part in ["weight", "scales", "biases"] {
            // Scales of groups are kept as the checkpoint's own type, so they are rounded to it.
            let rounded = |t: Tensor| if t.dtype() == Dtype::F32 { t.cast(Dtype::Bf16) } else { t };
            tensors.extend(parts.next().map(|t| (format!("{matrix}.{part}"), rounded(t))));
        }
    }
    let bytes = serialize(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), HashMap::new()).unwrap();
    std::fs::write(made.join("model.safetensors"), bytes).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        std::fs::copy(dir.join(name), made.join(name)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let mode = format!("{:?}", format.mode).to_lowercase();
    config["quantization"] = json!({"group_size": format.group, "bits": format.bits, "mode": mode});
    std::fs::write(made.join("config.json"), config.to_string()).unwrap();
    made
}

/// How many chats are answered right to the letter, many at once.
fn right(model: &Arc<LoadedModel>, chats: &[&Value]) -> usize {
    let split = |chat: &Value| {
        let mut messages = Message::list_from_json(&chat["messages"]).unwrap();
        let answer = messages.pop().unwrap().content.text();
        (messages, answer)
    };
    let (conversations, want): (Vec<_>, Vec<String>) = chats.iter().map(|chat| split(chat)).unzip();
    let params = GenerateParams::default().with_max_tokens(120);
    let requests: Vec<_> = conversations
        .iter()
        .map(|messages| Request::new(model.encode_chat(messages, &options(true)).unwrap(), params.clone()))
        .collect();
    let limits = BatchOptions { sequences: 16, cache_bytes: None };
    let mut said = vec![String::new(); chats.len()];
    let requests = requests.into_iter().map(Ok);
    for (index, event) in Batch::new(Arc::clone(model), requests, &GenerateOptions::default(), limits).unwrap() {
        match event {
            BatchEvent::Step(step) => said[index].push_str(&step.text),
            BatchEvent::Finished(_) => {}
            BatchEvent::Failed(error) => panic!("{error}"),
        }
    }
    said.iter().zip(&want).filter(|(said, want)| said == want).count()
}

/// The gate of every quantization: what mlx-lm gets right of the same weights, up to a chat that is a near tie.
#[test]
fn answers_are_as_right_as_those_of_mlx_lm() {
    let Some(dir) = shared("demo-chat") else { return };
    let (rows, recorded) = (rows(&dir), recording().chats);
    let chats: Vec<&Value> = plain(&rows).filter(|row| row["exact"] == true).step_by(recorded.every).collect();
    assert_eq!(chats.len(), recorded.count);
    for (name, want) in &recorded.right {
        let dir = match format(name) {
            None => dir.clone(),
            Some(format) => quantized(&dir, name, format),
        };
        // What is exact differs from mode to mode only in how weights are read, which the recorded models cover.
        let both = ["affine4", "nvfp4"].contains(&name.as_str());
        for precision in [Precision::Fast, Precision::Exact].into_iter().take(if both { 2 } else { 1 }) {
            let found = right(&load(&dir, precision), &chats);
            eprintln!("{name} {precision:?}: {found} of {} right, mlx-lm {want}", chats.len());
            // Few bits leave near ties everywhere, which the last bit of a sum may decide.
            let ties = if name == "affine2" { 4 } else { 1 };
            assert!(found + ties >= *want, "{name} {precision:?}: {found} of {} right, mlx-lm {want}", chats.len());
        }
    }
}

fn format(name: &str) -> Option<QuantFormat> {
    let (mode, bits, group) = match name {
        "bf16" => return None,
        "mxfp4" => (QuantMode::Mxfp4, 4, 32),
        "mxfp8" => (QuantMode::Mxfp8, 8, 32),
        "nvfp4" => (QuantMode::Nvfp4, 4, 16),
        affine => (QuantMode::Affine, affine.strip_prefix("affine").unwrap().parse().unwrap(), 32),
    };
    Some(QuantFormat { mode, bits, group })
}

/// A draft model says most of what the model says, and a lookup what was there before.
#[test]
fn drafts_are_accepted() {
    let (Some(dir), Some(small)) = (shared("demo-chat-4bit"), shared("demo-chat-draft-8bit")) else { return };
    let model = load(&dir, Precision::Fast);
    let draft = load(&small, Precision::Fast);
    // A text that goes on past its end repeats itself.
    for (source, question, (most, ignore_eos), least) in [
        (DraftSource::Model(draft), "What is the capital of France?", (60, false), 0.5),
        (DraftSource::PromptLookup(3), "Tell me a story about a fox.", (300, true), 0.5),
    ] {
        let prompt = model.encode_chat(&[Message::user(question)], &options(true)).unwrap();
        let answer = |draft| {
            let options = GenerateOptions { draft, ..GenerateOptions::default() };
            let params = GenerateParams::default().with_max_tokens(most).with_ignore_eos(ignore_eos);
            let mut answer = Generation::new(Arc::clone(&model), None, prompt.clone(), &params, &options).unwrap();
            let tokens: Vec<u32> = answer.by_ref().map(|step| step.unwrap().token).collect();
            (tokens, answer.stats().speculation)
        };
        let (tokens, speculation) = answer(Some(Draft { source: source.clone(), tokens: 3 }));
        let speculation = speculation.unwrap();
        eprintln!("{question} {speculation:?}");
        assert_eq!(tokens, answer(None).0);
        assert!(speculation.acceptance() >= least, "{question}: {speculation:?}");
    }
}
