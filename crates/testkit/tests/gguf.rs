//! Checkpoints that were imported from GGUF files, against those that the files were made of.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlxengine_engine::LoadedModel;
use mlxengine_models::{Checkpoint, ErrorKind, Precision, gguf};
use mlxengine_tensor::gguf::File;
use mlxengine_testkit::{Outcome, Row, Selection, Set, failures, run};
use serde_json::{Value, json};

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

/// A recorded case whose model is imported from a GGUF file of it, but for what such files do not say.
#[track_caller]
fn case(name: &str, unsaid: &Value) {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let scratch = Scratch::new(name);
    let [from, to] = [&cases, &scratch.0].map(|set| set.join("models").join(name));
    std::fs::create_dir_all(&to).unwrap();
    for file in ["manifest.json", "golden.safetensors"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    std::fs::copy(cases.join("index.json"), scratch.0.join("index.json")).unwrap();
    let file = File::open(&cases.join(format!("gguf/{name}.gguf"))).unwrap();
    let report = gguf::Model::read(&file).unwrap().write(&to.join("model"), |_| ControlFlow::Continue(())).unwrap();
    assert!(report.inexact.is_empty(), "{:?}", report.inexact);
    let mut config = read(&to.join("model/config.json"));
    config.as_object_mut().unwrap().extend(unsaid.as_object().unwrap().clone());
    std::fs::write(to.join("model/config.json"), config.to_string()).unwrap();
    let selection = Selection { names: vec![format!("llm/{name}")], ..Selection::default() };
    let set = Set::open(&scratch.0).unwrap();
    let rows: Vec<Row> = set.select(&selection).flat_map(run).collect();
    assert!(rows.iter().any(|row| row.outcome == Outcome::Pass), "nothing was compared");
    assert_eq!(failures(&rows), None);
}

#[test]
fn turned_rows_and_stretched_frequencies_come_back() {
    case("llama", &json!({}));
}

#[test]
fn shifted_norms_and_scores_come_back() {
    let scale = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/models/gemma2/model/config.json"));
    case("gemma2", &json!({"query_pre_attn_scalar": scale["query_pre_attn_scalar"]}));
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
