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

#[test]
fn a_file_of_ones_own() {
    let here = Folder::new();
    let file = here.path("mine.json");
    let entry = r#"[{"name": "me/mine", "kind": "language", "aliases": ["mine"], "family": "llama"}]"#;
    fs::write(&file, entry).unwrap();
    let file = file.to_str().unwrap();
    let listed = run(&["models", "mine", "--registry", file]);
    assert!(listed.contains("mine   language  llama"), "{listed}");
    let said = run(&["show", "mine", "--registry", file]);
    assert!(said.contains("the model me/mine is not on this machine"), "{said}");
    let by_environment = transcript(mlxengine(&["show", "mine"]).env("MLXENGINE_REGISTRY", file), None);
    assert_eq!(by_environment, said);
    let missing = run(&["models", "--registry", "no-such-file"]);
    assert!(missing.contains("! error: the models of no-such-file cannot be read"), "{missing}");
}

#[test]
fn what_is_recommended_fits_and_is_fast_enough() {
    let here = Folder::new();
    let recommend = |arguments: &[&str]| -> serde_json::Value {
        let arguments = [&["recommend", "--json"][..], arguments].concat();
        let command = &mut mlxengine(&arguments);
        let said = transcript(command.env("XDG_CACHE_HOME", here.path("cache")), None);
        serde_json::from_str(said.trim_end_matches("[exit 0]\n")).unwrap_or_else(|e| panic!("{e}: {said}"))
    };
    let said = recommend(&["--memory", "8GB", "--min-tps", "0.01", "--limit", "100"]);
    let list = said["models"].as_array().unwrap();
    let names: Vec<&str> = list.iter().map(|model| model["name"].as_str().unwrap()).collect();
    // Six billion weights of 4.5 bits fit in 8 GB, thirty do not.
    assert!(names.contains(&"qwen3-8b") && names.contains(&"qwen3-0.6b"), "{names:?}");
    assert!(!names.contains(&"qwen3-30b-a3b") && !names.contains(&"llama-3.3-70b"), "{names:?}");
    let at = |name: &str| names.iter().position(|n| *n == name).unwrap();
    assert!(at("qwen3-8b") < at("qwen3-1.7b") && at("qwen3-1.7b") < at("qwen3-0.6b"), "{names:?}");
    let speed = |name: &str| list[at(name)]["speed"]["tokens_per_second"].as_f64().unwrap();
    assert!(speed("qwen3-8b") < speed("qwen3-1.7b") && speed("qwen3-1.7b") < speed("qwen3-0.6b"));
    let plan = &list[at("qwen3-0.6b")]["memory"];
    assert_eq!((plan["context"].as_u64(), plan["cache"].as_u64()), (Some(4096), Some(469_762_048)));
    assert!(list.iter().all(|model| model["verdict"] == "runs" && model["here"] == false));
    assert!(said["calibration"]["weights"].as_f64() > Some(0.0));
    // Everything, and why not.
    let all = recommend(&["--memory", "8GB", "--min-tps", "1000000", "--limit", "100", "--all"]);
    let all = all["models"].as_array().unwrap();
    let verdicts = |name: &str| all.iter().find(|model| model["name"] == name).map(|model| model["verdict"].clone());
    assert_eq!(verdicts("qwen3-8b").unwrap(), "too_slow");
    assert_eq!(verdicts("llama-3.3-70b").unwrap(), "too_large");
    let long = recommend(&["--memory", "900GB", "--context", "40000", "--min-tps", "0", "--limit", "100", "--all"]);
    let long = long["models"].as_array().unwrap();
    assert!(long.iter().any(|model| model["name"] == "mistral-7b" && model["verdict"] == "too_short"), "{long:?}");
    let images = recommend(&["--kind", "diffusion", "--all"]);
    let images = images["models"].as_array().unwrap();
    assert!(!images.is_empty() && images.iter().all(|model| model["verdict"] == "not_runnable"), "{images:?}");
}

#[test]
fn the_model_behind_the_numbers_is_stated() {
    let here = Folder::new();
    let command = &mut mlxengine(&["recommend", "--memory", "4GB", "--min-tps", "0.01", "--limit", "2"]);
    let said = transcript(command.env("XDG_CACHE_HOME", here.path("cache")), None);
    for part in [
        "model",
        "tokens/s",
        "first token",
        "! the most capable first",
        "bytes of its weights /",
        "operations a weight /",
        "more come after these; --limit shows them",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let nothing =
        transcript(mlxengine(&["recommend", "--memory", "1MB"]).env("XDG_CACHE_HOME", here.path("cache")), None);
    assert!(nothing.contains("! nothing fits in 1.00 MB;") && nothing.contains("needs least"), "{nothing}");
    // A folder of models is looked through as well.
    let models = here.path("models/me/own");
    fs::create_dir_all(&models).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxengine/demo").join(file);
        fs::copy(demo, models.join(file)).unwrap();
    }
    let mut command = mlxengine(&["recommend", "--limit", "100", "--context", "1000"]);
    command.env("XDG_CACHE_HOME", here.path("cache")).env("MLXENGINE_MODELS", here.path("models"));
    let said = transcript(&mut command, None);
    assert!(said.lines().any(|line| line.starts_with("mlx://me/own") && line.ends_with("here")), "{said}");
}
