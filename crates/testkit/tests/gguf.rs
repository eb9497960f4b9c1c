//! Checkpoints that were imported from GGUF files, against those that the files were made of.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlxengine_engine::LoadedModel;
use mlxengine_models::{Checkpoint, ErrorKind, Precision, gguf};
use mlxengine_tensor::gguf::File;
use mlxengine_testkit::{Outcome, Row, Selection, Set, failures, run};
use serde_json::Value;

/// A directory for one test that is removed after it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("mlxengine-gguf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Keys that GGUF does not have, for all models of the kind agree; the recorded ones differ, so that it would be noticed.
const UNSAID: [&str; 7] = [
    "no_rope_layers",
    "norm_topk_prob",
    "query_pre_attn_scalar",
    "rope_local_base_freq",
    "rope_traditional",
    "sliding_window_pattern",
    "swiglu_limit",
];

/// What fails in a recorded case of the folder `cases` if its model is imported from a GGUF file.
fn disagreement(cases: &Path, name: &str, file: &Path) -> Option<String> {
    let scratch = Scratch::new(name);
    let [from, to] = [cases, &scratch.0].map(|set| set.join("models").join(name));
    std::fs::create_dir_all(&to).unwrap();
    for file in ["manifest.json", "golden.safetensors"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let mut index = read(&cases.join("index.json"));
    let path = format!("models/{name}");
    index["cases"].as_array_mut().unwrap().retain(|case| case["path"] == path.as_str());
    std::fs::write(scratch.0.join("index.json"), index.to_string()).unwrap();
    let model = to.join("model");
    let opened = File::open(file).unwrap();
    let written = gguf::Model::read(&opened).and_then(|read| read.write(&model, |_| ControlFlow::Continue(())));
    match written {
        Err(error) => return Some(error.to_string()),
        Ok(report) => assert!(report.inexact.is_empty(), "{:?}", report.inexact),
    }
    let (mut config, recorded) = (read(&model.join("config.json")), read(&from.join("model/config.json")));
    for key in UNSAID {
        if let Some(value) = recorded.get(key) {
            config[key] = value.clone();
        }
    }
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let set = Set::open(&scratch.0).unwrap();
    let rows: Vec<Row> = set.select(&Selection::default()).flat_map(run).collect();
    assert!(rows.iter().any(|row| row.outcome == Outcome::Pass), "nothing of {name} agrees: {rows:?}");
    failures(&rows)
}

#[test]
fn small_models_compute_what_was_recorded() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    // Rows that change places and stretched frequencies; norms with one added, and pieces with scores.
    for name in ["llama", "gemma2"] {
        assert_eq!(disagreement(&cases, name, &cases.join(format!("gguf/{name}.gguf"))), None);
    }
}

/// Files that `tools/make_gguf.py` made of the recorded models beside the repository, where `MLXENGINE_GGUF_CASES` says.
#[test]
fn other_small_models_do_too() {
    let Some(files) = std::env::var_os("MLXENGINE_GGUF_CASES") else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: MLXENGINE_GGUF_CASES names no folder of GGUF files");
        return;
    };
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/llm");
    let cases = std::env::var_os("MLXENGINE_CASES").map_or(cases, PathBuf::from);
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(files).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|end| end == "gguf") {
            wrong.extend(disagreement(&cases, &name, &path).map(|why| format!("{name}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A real checkpoint beside the GGUF file that it was made of, or a line that says that the test was skipped.
fn smollm2() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let model = std::env::var_os("MLXENGINE_SMOLLM2").map_or_else(|| repository.join("target/smollm2"), PathBuf::from);
    if model.join("original.gguf").is_file() {
        return Some(model);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{} must hold original.gguf in CI", model.display());
    let _ = writeln!(std::io::stderr(), "SKIPPED: {} has no original.gguf", model.display());
    None
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_real_file_becomes_the_very_checkpoint() {
    let Some(model) = smollm2() else { return };
    let scratch = Scratch::new("real");
    let imported = scratch.0.join("model");
    let file = File::open(&model.join("original.gguf")).unwrap();
    let report = gguf::Model::read(&file).unwrap().write(&imported, |_| ControlFlow::Continue(())).unwrap();
    assert!(report.inexact.is_empty(), "{:?}", report.inexact);
    assert_eq!(read(&imported.join("config.json")), read(&model.join("config.json")));
    assert_eq!(read(&imported.join("generation_config.json")), read(&model.join("generation_config.json")));
    assert_eq!(read(&imported.join("tokenizer.json")), read(&model.join("tokenizer.json")));
    let [got, want] = [&imported, &model].map(|directory| std::fs::read(directory.join("model.safetensors")).unwrap());
    assert!(got == want, "the weights differ");
    let load = |directory: &Path| {
        LoadedModel::load(&Checkpoint::open_directory(directory).unwrap(), Precision::Exact, |_, _| {}).unwrap()
    };
    let (got, want) = (load(&imported), load(&model));
    assert_eq!(got.templates.select(None, false).unwrap(), want.templates.select(None, false).unwrap());
    assert_eq!(got.tokenizer.special_tokens(), want.tokenizer.special_tokens());
    for text in ["The capital of France is Paris.", " 3 + 4567\n\n\tżółw <|im_end|> 🦆", "", "a  b   c's"] {
        for special in [false, true] {
            let [got, want] = [&got, &want].map(|model| model.tokenizer.encode(text, special).unwrap());
            assert_eq!(got, want, "{text:?}");
        }
    }
}

#[test]
fn an_import_that_is_stopped_leaves_nothing() {
    let Some(model) = smollm2() else { return };
    let scratch = Scratch::new("stopped");
    let file = File::open(&model.join("original.gguf")).unwrap();
    let mut calls = 0;
    let stop = |progress: gguf::Progress| {
        calls += 1;
        assert!(progress.done <= progress.total);
        if calls == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = gguf::Model::read(&file).unwrap().write(&scratch.0.join("model"), stop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
}
