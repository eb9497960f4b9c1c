//! Configurations of every kind, whole and with each key damaged in turn: refused or read, never a panic.

use mlxengine_models::{Config, families};
use serde_json::{Value, json};

/// One `config.json` a line.
const WHOLE: &str = include_str!("configurations.jsonl");

fn read(config: &Value) -> Result<usize, String> {
    let config = Config::parse(config.to_string().as_bytes()).map_err(|e| e.to_string())?;
    families::decoder(&config).map(|decoder| decoder.layers.len()).map_err(|e| e.to_string())
}

/// Every way to reach a value, from the top.
fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| paths(value, &format!("{at}/{key}"), all)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| paths(value, &format!("{at}/{i}"), all)),
        _ => {}
    }
    if !at.is_empty() {
        all.push(at.to_owned());
    }
}

#[test]
fn whole_ones_are_read() {
    for line in WHOLE.lines() {
        let config: Value = serde_json::from_str(line).unwrap();
        assert!(read(&config).is_ok_and(|layers| layers > 0), "{}: {:?}", config["model_type"], read(&config));
    }
}

#[test]
fn damaged_ones_are_refused_in_a_sentence_or_read() {
    let evil = [json!(0), json!(1), json!(3), json!(-1), json!(u64::MAX), json!(1e30), json!(-0.5), json!("x")];
    let evil = evil.into_iter().chain([json!(null), json!([]), json!([7]), json!({}), json!(true)]);
    let evil: Vec<Value> = evil.collect();
    for line in WHOLE.lines() {
        let config: Value = serde_json::from_str(line).unwrap();
        let mut all = Vec::new();
        paths(&config, "", &mut all);
        for path in all {
            for value in &evil {
                let mut damaged = config.clone();
                *damaged.pointer_mut(&path).unwrap() = value.clone();
                if let Err(message) = read(&damaged) {
                    assert!(!message.is_empty() && !message.contains('\n'), "{path} = {value}: {message:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let config = |kind: &str| {
        let of = |line: &&str| line.contains(&format!("\"model_type\": \"{kind}\""));
        serde_json::from_str::<Value>(WHOLE.lines().find(of).unwrap()).unwrap()
    };
    for (kind, path, value, says) in [
        ("hunyuan", "/use_cla", json!(true), "use_cla is true"),
        ("qwen2_moe", "/decoder_sparse_step", json!(2), "decoder_sparse_step is 2"),
        ("llama4", "/text_config/num_experts_per_tok", json!(2), "num_experts_per_tok is 2"),
        ("minimax", "/scoring_func", json!("softmax"), "scoring_func is \"softmax\""),
        ("rwkv7", "/attn", json!({"layers": [1]}), "attn asks for layers of attention"),
        ("rwkv7", "/hidden_act", json!("silu"), "hidden_act is \"silu\""),
        ("rwkv7", "/value_dim", json!([64, 128, 64]), "values of 128 numbers"),
        ("recurrent_gemma", "/block_types", json!(["recurrent", "global"]), "`global`"),
        ("recurrent_gemma", "/lru_width", json!(96), "lru_width is 96"),
        ("recurrent_gemma", "/rope_theta", json!(20000.0), "a base of 10000"),
        ("recurrent_gemma", "/attention_bias", json!(true), "attention_bias is true"),
        ("afm7", "/num_kv_reuse_layers", json!(4), "num_kv_reuse_layers leaves no layer"),
        ("prism_hadamard_qwen35", "/tensor_namespace", json!("other"), "tensor_namespace `other`"),
        ("prism_hadamard_qwen35", "/quantization/bits", json!(3), "quantization is"),
        ("prism_hadamard_qwen35", "/modules", json!([]), "modules lists none"),
        ("bitnet", "/quantization_config/linear_class", json!("bitlinear"), "linear_class is not `autobitlinear`"),
        ("baichuan_m1", "/conv_window", json!(3), "conv_window is 3"),
        ("phi3small", "/rope_scaling", json!({"type": "su"}), "rope_scaling is {"),
        ("plamo3", "/linear_type", json!("fp8"), "linear_type is \"fp8\""),
        ("nemotron-nas", "/block_configs/1/attention/replace_with_linear", json!(true), "`replace_with_linear`"),
    ] {
        let mut config = config(kind);
        let (parent, key) = path.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        let message = read(&config).unwrap_err();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn every_family_is_compared_with_the_reference() {
    for family in families::FAMILIES {
        assert!(family.cases() > 0, "no case of {}", family.name);
    }
    for line in include_str!("../src/families/cases.txt").lines() {
        let (name, count) = line.split_once(' ').unwrap();
        assert!(count.parse::<usize>().is_ok_and(|count| count > 0), "{line}");
        let known = families::FAMILIES.iter().any(|family| family.name == name || family.model_types.contains(&name));
        assert!(known, "{name} is no family");
    }
}
