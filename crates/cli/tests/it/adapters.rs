//! Adapters, merged and not, and prompts that are read once.

use std::fs;

use crate::common::{Folder, mlxengine, run, transcript};

/// An adapter of rank 2 whose second matrix is 0, so that nothing changes, over one module of the demo model.
fn adapter(folder: &Folder, module: &str) -> String {
    let directory = folder.path("still");
    fs::create_dir_all(&directory).unwrap();
    let config = r#"{"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0}}"#;
    fs::write(directory.join("adapter_config.json"), config).unwrap();
    let (inputs, outputs) = (256, 256);
    let (a, b) = (8 * inputs, 8 * outputs);
    let header = format!(
        r#"{{"{module}.lora_a":{{"dtype":"F32","shape":[{inputs},2],"data_offsets":[0,{a}]}},"{module}.lora_b":{{"dtype":"F32","shape":[2,{outputs}],"data_offsets":[{a},{}]}}}}"#,
        a + b
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..2 * inputs).flat_map(|i| (i as f32 / 100.0).to_le_bytes()));
    file.extend(vec![0; b]);
    fs::write(directory.join("adapters.safetensors"), file).unwrap();
    directory.to_str().unwrap().to_owned()
}

const FRANCE: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.\n[exit 0]\n";
const MODULE: &str = "model.layers.0.self_attn.q_proj";

#[test]
fn an_adapter_is_used_merged_or_refused() {
    let folder = Folder::new();
    let still = adapter(&folder, MODULE);
    assert_eq!(run(&["run", "demo", FRANCE, "--adapter", &still]), PARIS);
    assert_eq!(run(&["run", "demo", FRANCE, "--adapter-path", &format!("one={still}"), "--adapter", &still]), PARIS);
    let twice = run(&["run", "demo", FRANCE, "--adapter", &still, "--adapter", &still]);
    assert_eq!(twice, "! error: two adapters are called still; give one as NAME=DIRECTORY\n[exit 1]\n");
    let merged = folder.path("merged");
    let merged = merged.to_str().unwrap();
    let said = run(&["fuse", "demo", "--adapter", &still, "--output", merged]);
    assert!(said.contains(" modules merged into ") && said.ends_with("[exit 0]\n"), "{said}");
    assert_eq!(run(&["run", merged, FRANCE]), PARIS);
    let again = run(&["fuse", "demo", "--adapter", &still, "--output", merged]);
    assert!(again.contains("is there already; choose another directory, or --force"), "{again}");
    let forced = run(&["fuse", "demo", "--adapter", &still, "--output", merged, "--dequantize", "--force"]);
    assert!(forced.ends_with("[exit 0]\n"), "{forced}");
    assert_eq!(run(&["run", merged, FRANCE]), PARIS);
    let left: Vec<_> = fs::read_dir(folder.name()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing half written stays: {left:?}");
    let other = adapter(&folder, "model.layers.99.self_attn.q_proj");
    let refused = run(&["run", "demo", FRANCE, "--adapter", &other]);
    assert!(refused.contains("model.layers.99.self_attn.q_proj") && refused.contains("the nearest is"), "{refused}");
    let nothing = run(&["run", "demo", FRANCE, "--adapter", "no/such"]);
    assert!(nothing.contains("there is no adapter at no/such"), "{nothing}");
}

#[test]
fn adapters_are_chosen_in_a_conversation() {
    let folder = Folder::new();
    let still = adapter(&folder, MODULE);
    let mut chat = mlxengine(&["chat", "demo", "--defaults", "greedy", "--adapter", &still]);
    assert_eq!(transcript(&mut chat, Some(FRANCE)), PARIS);
}

#[test]
fn a_prompt_is_read_once() {
    let folder = Folder::new();
    let file = folder.path("cache.safetensors");
    let file = file.to_str().unwrap();
    let text = "What is the capital";
    let kept = run(&["cache-prompt", "demo", "--prompt", text, "--prompt-cache-file", file]);
    assert!(kept.contains("tokens are kept in") && kept.ends_with("[exit 0]\n"), "{kept}");
    assert_eq!(run(&["run", "demo", "--prompt-cache-file", file, " of France?"]), PARIS);
    let still = adapter(&folder, MODULE);
    let other = run(&["run", "demo", "--prompt-cache-file", file, " of France?", "--adapter", &still]);
    assert!(other.contains("was made by another model, or under another adapter"), "{other}");
    fs::write(file, "no tensors").unwrap();
    let damaged = run(&["run", "demo", "--prompt-cache-file", file, "Hi"]);
    assert!(damaged.contains("cache.safetensors") && damaged.ends_with("[exit 1]\n"), "{damaged}");
}

#[test]
fn a_budget_says_what_would_fit() {
    let said = run(&["run", "demo", FRANCE, "--cache-memory", "100kB"]);
    assert!(said.contains("its budget is 100 kB; a context of") && said.ends_with("[exit 1]\n"), "{said}");
    assert_eq!(run(&["run", "demo", FRANCE, "--cache-memory", "1GB"]), PARIS);
}
