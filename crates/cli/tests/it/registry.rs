//! The models that are known by a short name.

use std::fs;

use crate::common::{Folder, mlxengine, run, transcript};

const NOTE: &str =
    "! ~ is estimated; memory is with a context of 4096 tokens unless --context says how many\n[exit 0]\n";

#[test]
fn a_known_model() {
    let table = "model       kind      family  weights  size     context  memory   licence
qwen3-0.6b  language  qwen3   4bit     ~335 MB  40960    ~805 MB  apache-2.0
";
    assert_eq!(run(&["models", "QWEN3-0.6b"]), format!("{table}{NOTE}"));
    let longer = run(&["models", "qwen3-0.6b", "--context", "40960"]);
    assert!(longer.contains("~335 MB  40960    ~5.0 GB"), "{longer}");
    let json = run(&["models", "qwen3-0.6b", "--json"]);
    for fact in [
        "\"name\": \"mlx-community/Qwen3-0.6B-4bit\"",
        "\"estimated\": true",
        "\"cache\": 469762048",
        "\"total\": 805012048",
        "\"license\": \"model card of Qwen/Qwen3-0.6B\"",
    ] {
        assert!(json.contains(fact), "{fact} is not in {json}");
    }
}

#[test]
fn models_that_fit() {
    let small = run(&["models", "--kind", "language", "--max-memory", "1GB"]);
    assert!(small.contains("qwen3-0.6b") && !small.contains("qwen3-8b") && small.ends_with(NOTE), "{small}");
    let none = run(&["models", "--family", "qwen3", "--max-memory", "1kB"]);
    assert_eq!(none, "! no model of the registry is like this; `mlxengine search` asks the Hub\n[exit 0]\n");
    let wrong = run(&["models", "--kind", "sound"]);
    assert!(wrong.contains("[possible values: language, vision, embedding, rerank, diffusion]"), "{wrong}");
}

#[test]
fn a_short_name_is_one_of_the_hub_unless_there_is_such_a_file() {
    let here = Folder::new();
    let show = || transcript(mlxengine(&["show", "qwen3-0.6b"]).current_dir(here.path("")), None);
    let said = show();
    assert!(said.contains("the model mlx-community/Qwen3-0.6B-4bit is not on this machine"), "{said}");
    fs::create_dir(here.path("qwen3-0.6b")).unwrap();
    let said = show();
    assert!(!said.contains("mlx-community") && said.contains("config.json"), "{said}");
}
