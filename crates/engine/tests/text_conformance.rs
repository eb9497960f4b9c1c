//! Agreement of tokenizers, detokenizers, chat templates and samplers with the reference implementation's recordings.
//!
//! The recordings lie in `shared/conformance` beside the repository; `MLXENGINE_CONFORMANCE` names another place.

#![allow(clippy::print_stderr, reason = "a skipped test says so, and a passed one how much it compared")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlxengine_engine::sample::filters::{self, Scratch};
use mlxengine_engine::text::{CivilTime, DetokenizerKind};
use mlxengine_engine::{
    ChatTemplate, ErrorKind, GenerateParams, Message, RenderOptions, Sampler, Tokenizer, TokenizerFiles,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The directory of the recordings of language models, or a line that says that the test was skipped.
fn conformance() -> Option<PathBuf> {
    let given = std::env::var_os("MLXENGINE_CONFORMANCE").map(PathBuf::from);
    let beside = || {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.ancestors().map(|dir| dir.join("shared/conformance")).find(|dir| dir.is_dir())
    };
    let found = given.or_else(beside).map(|dir| dir.join("llm")).filter(|dir| dir.is_dir());
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the conformance recordings must be present in CI");
        eprintln!("SKIPPED: no shared/conformance/llm beside the repository");
    }
    found
}

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn optional_json(path: &Path) -> Option<Value> {
    path.is_file().then(|| json(path))
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut dirs: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    dirs
}

fn tokenizer(dir: &Path) -> Tokenizer {
    let bytes = std::fs::read(dir.join("tokenizer.json")).unwrap();
    let config = optional_json(&dir.join("tokenizer_config.json"));
    let map = optional_json(&dir.join("special_tokens_map.json"));
    let model_config = optional_json(&dir.join("config.json"));
    let files = TokenizerFiles {
        tokenizer_json: Some(&bytes),
        tokenizer_config: config.as_ref(),
        special_tokens_map: map.as_ref(),
        model_type: model_config.as_ref().and_then(|c| c["model_type"].as_str()),
        file_names: &[],
    };
    Tokenizer::from_files(&files).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn ids(value: &Value) -> Vec<u32> {
    Vec::deserialize(value).unwrap()
}

/// Counts comparisons and collects those that fail, so that one run shows all of them.
#[derive(Default)]
struct Report {
    checked: usize,
    failures: Vec<String>,
}

impl Report {
    fn check<T: PartialEq + std::fmt::Debug + ?Sized>(&mut self, what: impl FnOnce() -> String, got: &T, want: &T) {
        self.checked += 1;
        if got != want {
            self.failures.push(format!("{}\n   got {got:?}\n  want {want:?}", what()));
        }
    }

    fn fail(&mut self, what: String) {
        self.checked += 1;
        self.failures.push(what);
    }

    #[track_caller]
    fn finish(self, what: &str) {
        let shown = self.failures.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(self.failures.is_empty(), "{} of {} {what} differ:\n{shown}", self.failures.len(), self.checked);
        assert!(self.checked > 0, "no {what} were found");
        eprintln!("{} {what} agree", self.checked);
    }
}

#[test]
fn tokenizers_encode_and_decode() {
    let Some(root) = conformance() else { return };
    let mut report = Report::default();
    for dir in subdirectories(&root.join("tokenizers")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let tokenizer = tokenizer(&dir.join("tokenizer"));
        let manifest = json(&dir.join("manifest.json"));
        report.check(
            || format!("{name} size"),
            &(tokenizer.vocab_size() as u64),
            &manifest["vocab_size"].as_u64().unwrap(),
        );
        for case in json(&dir.join("encode.json")).as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let what = |which: &str| format!("{name} {which} of {text:?}");
            let plain = tokenizer.encode(text, false).unwrap();
            report.check(|| what("ids"), &plain, &ids(&case["ids"]));
            let special = tokenizer.encode(text, true).unwrap();
            report.check(|| what("ids_special"), &special, &ids(&case["ids_special"]));
            let entries: Vec<String> = plain.iter().filter_map(|id| tokenizer.id_to_token(*id)).collect();
            report.check(|| what("tokens"), &entries, &Vec::<String>::deserialize(&case["tokens"]).unwrap());
            for (key, ids, skip) in
                [("decoded", &plain, false), ("decoded_special", &special, false), ("decoded_skip", &special, true)]
            {
                let got = tokenizer.decode(ids, skip).unwrap();
                report.check(|| what(key), got.as_str(), case[key].as_str().unwrap());
            }
        }
        for (id, want) in json(&dir.join("single_decode.json")).as_array().unwrap().iter().enumerate() {
            let got = tokenizer.decode(&[id as u32], false).unwrap();
            report.check(|| format!("{name} token {id}"), got.as_str(), want.as_str().unwrap());
        }
        let ends: Vec<u32> = tokenizer.end_tokens(None, None, None).iter().map(|end| end.id).collect();
        report.check(|| format!("{name} end tokens"), &ends, &ids(&manifest["eos_token_ids"]));
    }
    report.finish("tokenizer results");
}

#[test]
fn detokenizers_stream() {
    let Some(root) = conformance() else { return };
    let mut report = Report::default();
    for dir in subdirectories(&root.join("tokenizers")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let tokenizer = tokenizer(&dir.join("tokenizer"));
        let manifest = json(&dir.join("manifest.json"));
        let kind = match tokenizer.detokenizer_kind() {
            DetokenizerKind::ByteLevel => "BPEStreamingDetokenizer",
            DetokenizerKind::SentencePiece { .. } => "SPMStreamingDetokenizer",
            DetokenizerKind::Naive { .. } => "NaiveStreamingDetokenizer",
        };
        report.check(|| format!("{name} kind"), kind, manifest["detokenizer"].as_str().unwrap());
        let mut stream = tokenizer.detokenizer();
        for (i, case) in json(&dir.join("stream.json")).as_array().unwrap().iter().enumerate() {
            stream.reset();
            let ids = ids(&case["ids"]);
            let mut segments: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
            segments.push(stream.finish());
            let want = Vec::<String>::deserialize(&case["segments"]).unwrap();
            report.check(|| format!("{name} stream {i} {ids:?}"), &segments, &want);
            report.check(
                || format!("{name} decode {i} {ids:?}"),
                tokenizer.decode(&ids, false).unwrap().as_str(),
                case["decode"].as_str().unwrap(),
            );
        }
    }
    report.finish("streams and decodes");
}

fn civil(text: &str) -> CivilTime {
    let n = |range: std::ops::Range<usize>| text[range].parse::<u16>().unwrap();
    let small = |range| u8::try_from(n(range)).unwrap();
    CivilTime {
        year: i32::from(n(0..4)),
        month: small(5..7),
        day: small(8..10),
        hour: small(11..13),
        minute: small(14..16),
        second: small(17..19),
    }
}

/// The keyword arguments of transformers' `apply_chat_template` as options.
fn render_options(kwargs: &Value) -> RenderOptions {
    let mut extra: Map<String, Value> = kwargs.as_object().unwrap().clone();
    let mut list = |key: &str| extra.shift_remove(key).and_then(|v| v.as_array().cloned());
    let (tools, documents) = (list("tools"), list("documents"));
    let mut flag = |key: &str| extra.shift_remove(key).is_some_and(|v| v == true);
    let (add_generation_prompt, continue_final_message) =
        (flag("add_generation_prompt"), flag("continue_final_message"));
    RenderOptions { tools, documents, add_generation_prompt, continue_final_message, extra }
}

/// Byte ranges as character ranges.
fn in_characters(text: &str, spans: &[std::ops::Range<usize>]) -> Vec<[usize; 2]> {
    spans.iter().map(|span| [span.start, span.end].map(|at| text[..at].chars().count())).collect()
}

#[test]
fn chat_templates_render() {
    let Some(root) = conformance() else { return };
    let mut report = Report::default();
    for dir in subdirectories(&root.join("chat_templates")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let cases = json(&dir.join("cases.json"));
        let Some(now) = cases["now"].as_str().map(civil) else { continue };
        let special: BTreeMap<String, String> = ["bos_token", "eos_token", "unk_token"]
            .iter()
            .filter_map(|role| Some(((*role).to_owned(), cases[*role].as_str()?.to_owned())))
            .collect();
        let source = std::fs::read_to_string(dir.join("template.jinja")).unwrap();
        let template = ChatTemplate::with_clock(&source, &special, move || now).unwrap();
        for case in cases["cases"].as_array().unwrap() {
            let (conversation, option) = (case["conversation"].as_str().unwrap(), case["option"].as_str().unwrap());
            let what = || format!("{name} {conversation} {option}");
            let messages = cases["conversations"][conversation].as_array().unwrap().clone();
            let options = render_options(&cases["options"][option]);
            let typed = Message::list_from_json(&Value::from(messages.clone()));
            match (template.render_values(messages, &options), case.get("error")) {
                (Ok(rendered), None) => {
                    report.check(what, rendered.text.as_str(), case["text"].as_str().unwrap());
                    if let Some(spans) = case.get("generation_spans") {
                        // The recording counts what stands behind the cut of a continued message.
                        let end = rendered.text.chars().count();
                        let mut want: Vec<[usize; 2]> = Vec::deserialize(spans).unwrap();
                        want.iter_mut().flatten().for_each(|at| *at = (*at).min(end));
                        report.check(what, &in_characters(&rendered.text, &rendered.generation_spans), &want);
                    }
                    // OpenAI's string arguments become objects on the typed way, which is the point of it.
                    if let (Ok(typed), true) = (typed, conversation != "tool_str_args") {
                        let got = template.render(&typed, &options).unwrap_or_else(|e| format!("error: {e}"));
                        report.check(
                            || format!("{name} {conversation} {option} typed"),
                            got.as_str(),
                            case["text"].as_str().unwrap(),
                        );
                    }
                }
                (Err(error), Some(kind)) => {
                    let raised =
                        format!("the chat template refuses the conversation: {}", case["message"].as_str().unwrap());
                    if kind == "TemplateError" {
                        report.check(what, error.message(), raised.as_str());
                    } else {
                        report.check(
                            what,
                            &matches!(error.kind(), ErrorKind::Template | ErrorKind::InvalidInput),
                            &true,
                        );
                    }
                }
                (got, _) => report.fail(format!("{}\n   got {got:?}\n  want {case}", what())),
            }
        }
    }
    report.finish("template renderings");
}

#[test]
fn thinking_is_on_where_the_vocabulary_has_it() {
    let Some(root) = conformance() else { return };
    let dir = root.join("chat_templates/wrapper_defaults");
    let cases = json(&dir.join("cases.json"));
    let source = std::fs::read_to_string(dir.join("template.jinja")).unwrap();
    let mut report = Report::default();
    for case in cases["cases"].as_array().unwrap() {
        let tokenizer = tokenizer(&dir.join(format!("tokenizer_{}", case["tokenizer"].as_str().unwrap())));
        let template = ChatTemplate::new(&source, tokenizer.special_tokens()).unwrap();
        let thinking = tokenizer.think_markers().is_some();
        report.check(
            || format!("thinking of {}", case["tokenizer"]),
            &thinking,
            &case["has_thinking"].as_bool().unwrap(),
        );
        let mut options = render_options(&case["kwargs"]);
        options.extra.entry("enable_thinking").or_insert(thinking.into());
        let messages =
            Message::list_from_json(&cases["conversations"][case["conversation"].as_str().unwrap()]).unwrap();
        let text = template.render(&messages, &options).unwrap();
        report.check(|| case.to_string(), text.as_str(), case["text"].as_str().unwrap());
        report.check(|| case.to_string(), &tokenizer.encode(&text, false).unwrap(), &ids(&case["ids"]));
    }
    report.finish("wrapper defaults");
}

#[test]
fn texts_of_models() {
    let Some(root) = conformance() else { return };
    let mut report = Report::default();
    for dir in subdirectories(&root.join("models")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let text = json(&dir.join("manifest.json"))["text"].clone();
        if text.is_null() {
            continue;
        }
        let model = dir.join("model");
        let tokenizer = tokenizer(&model);
        let prompt = tokenizer.encode(text["prompt"].as_str().unwrap(), true).unwrap();
        report.check(|| format!("{name} prompt"), &prompt, &ids(&text["prompt_tokens"]));
        let mut tokens = ids(&text["tokens"]);
        let source = std::fs::read_to_string(model.join("chat_template.jinja")).ok();
        let (generation, config) =
            (optional_json(&model.join("generation_config.json")), json(&model.join("config.json")));
        let ends = tokenizer.end_tokens(generation.as_ref(), Some(&config), source.as_deref());
        let end_at = tokens.iter().position(|id| ends.iter().any(|end| end.id == *id));
        let stops = (text["finish_reason"] == "stop").then(|| tokens.len() - 1);
        report.check(|| format!("{name} end, of {ends:?}"), &end_at, &stops);
        tokens.truncate(stops.unwrap_or(tokens.len()));
        let mut stream = tokenizer.detokenizer();
        let mut segments: Vec<String> = tokens.iter().map(|id| stream.push(*id)).collect();
        segments.push(stream.finish());
        report.check(|| format!("{name} text"), segments.concat().as_str(), text["text"].as_str().unwrap());
        report.check(|| format!("{name} has a template"), &source.is_some(), &text["chat"].is_object());
        if let (Some(source), Some(chat)) = (&source, text["chat"].as_object()) {
            let template = ChatTemplate::new(source, tokenizer.special_tokens()).unwrap();
            let messages = Message::list_from_json(&chat["messages"]).unwrap();
            let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
            let got = template.render(&messages, &options).unwrap();
            report.check(|| format!("{name} chat"), got.as_str(), chat["text"].as_str().unwrap());
            report.check(
                || format!("{name} chat tokens"),
                &tokenizer.encode(&got, false).unwrap(),
                &ids(&chat["tokens"]),
            );
        }
    }
    report.finish("texts of models");
}

/// Rows of the arrays of a safetensors file of f32.
fn rows(path: &Path) -> BTreeMap<String, Vec<Vec<f32>>> {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let array = |value: &Value| {
        let [from, to] = <[usize; 2]>::deserialize(&value["data_offsets"]).unwrap();
        let width = value["shape"].as_array().unwrap().last().unwrap().as_u64().unwrap() as usize;
        let floats: Vec<f32> =
            data[from..to].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        floats.chunks(width).map(<[f32]>::to_vec).collect()
    };
    header.iter().filter(|(_, v)| v["dtype"] == "F32").map(|(name, v)| (name.clone(), array(v))).collect()
}

fn close(got: &[f32], want: &[f32], tolerance: f32) -> Result<(), String> {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        if g.is_finite() != w.is_finite() || (g.is_finite() && (g - w).abs() > tolerance) {
            return Err(format!("entry {i}: got {g}, want {w}"));
        }
    }
    Ok(())
}

#[test]
fn filters_and_processors() {
    let Some(root) = conformance() else { return };
    let dir = root.join("samplers/basic");
    let manifest = json(&dir.join("manifest.json"));
    let arrays = rows(&dir.join(manifest["golden"].as_str().unwrap()));
    let mut report = Report::default();
    for case in manifest["filters"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let params = case["params"].as_object().unwrap();
        let number = |key: &str, default: f64| params.get(key).and_then(Value::as_f64).unwrap_or(default) as f32;
        let count = |key: &str, default: u64| params.get(key).and_then(Value::as_u64).unwrap_or(default) as usize;
        let input = &arrays[&format!("in.{}.logprobs", case["input"].as_str().unwrap())];
        for (row, logprobs) in input.iter().enumerate() {
            let (mut x, mut scratch) = (logprobs.clone(), Scratch::default());
            filters::top_p(&mut x, number("top_p", 0.0), &mut scratch);
            filters::min_p(&mut x, number("min_p", 0.0), count("min_tokens_to_keep", 1), &mut scratch);
            if number("xtc_probability", 0.0) > 0.0 {
                let protected = params.get("xtc_special_tokens").map(ids).unwrap_or_default();
                filters::xtc(&mut x, number("xtc_threshold", 0.1), &protected);
            }
            filters::top_k(&mut x, count("top_k", 0), &mut scratch);
            let want = &arrays[&format!("{id}.logprobs")][row];
            report.check(|| format!("{id} row {row}"), &close(&x, want, 1e-6), &Ok(()));
            let kept = x.iter().filter(|v| v.is_finite()).count() as u32;
            report.check(|| format!("{id} row {row} kept"), &kept, &ids(&case["kept"])[row]);
        }
    }
    for case in manifest["processors"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let params: GenerateParams = serde_json::from_value(case["params"].clone()).unwrap();
        let tokens = ids(&case["tokens"]);
        let logits = &arrays.get("proc.logits").or_else(|| arrays.get("in.proc.logits")).unwrap()[0];
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let copy = Arc::clone(&seen);
        let mut sampler = Sampler::new(&params, 0).with_processor(move |_: &[u32], logits: &mut [f32]| {
            *copy.lock().unwrap() = logits.to_vec();
        });
        sampler.sample(&mut logits.clone(), &tokens, 0);
        let want = &arrays[&format!("{id}.logits")][0];
        report.check(|| id.to_owned(), &close(&seen.lock().unwrap(), want, 1e-6), &Ok(()));
    }
    for name in ["flat", "peaked", "ties", "two", "batch"] {
        for (row, logits) in arrays[&format!("in.{name}.logits")].iter().enumerate() {
            let params = GenerateParams::default().with_logprobs(logits.len());
            let got = Sampler::new(&params, 0).sample(&mut logits.clone(), &[], 0);
            let mut logprobs = vec![0f32; logits.len()];
            got.top.iter().for_each(|(id, v)| logprobs[*id as usize] = *v);
            let want = &arrays[&format!("in.{name}.logprobs")][row];
            report.check(|| format!("{name} row {row}"), &close(&logprobs, want, 1e-6), &Ok(()));
        }
    }
    report.finish("filters and processors");
}
