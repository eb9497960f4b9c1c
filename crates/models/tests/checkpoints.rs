//! Checkpoints that are whole, cut, mislabelled or of unknown kinds, made on the spot.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use mlxengine_models::{CacheOptions, Checkpoint, Error, ErrorKind, LanguageModel, Precision, Span, decoder};
use mlxengine_tensor::{QuantFormat, QuantMode, Tensor, safetensors::serialize};
use serde_json::{Value, json};

/// A directory that goes away.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let path = std::env::temp_dir().join(format!(
            "mlxengine-models-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::write(self.0.join(file), bytes).unwrap();
        self
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config() -> Value {
    json!({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 96, "num_attention_heads": 2,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": 40, "max_position_embeddings": 128, "tie_word_embeddings": true})
}

type Tensors = HashMap<String, Tensor>;

fn tensor(seed: usize, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|i| ((i * 7 + seed * 13) % 31) as f32 / 100.0 - 0.15).collect();
    Tensor::from_f32(&numbers, shape)
}

fn tensors() -> Tensors {
    let layer = "model.layers.0.";
    let shapes: [(&str, &[usize]); 9] = [
        ("self_attn.q_proj.weight", &[64, 64]),
        ("self_attn.k_proj.weight", &[32, 64]),
        ("self_attn.v_proj.weight", &[32, 64]),
        ("self_attn.o_proj.weight", &[64, 64]),
        ("mlp.gate_proj.weight", &[96, 64]),
        ("mlp.up_proj.weight", &[96, 64]),
        ("mlp.down_proj.weight", &[64, 96]),
        ("input_layernorm.weight", &[64]),
        ("post_attention_layernorm.weight", &[64]),
    ];
    let mut all: Tensors =
        shapes.iter().enumerate().map(|(i, (name, shape))| (format!("{layer}{name}"), tensor(i, shape))).collect();
    all.insert("model.embed_tokens.weight".into(), tensor(20, &[40, 64]));
    all.insert("model.norm.weight".into(), tensor(21, &[64]));
    all
}

fn bytes(tensors: &Tensors) -> Vec<u8> {
    serialize(tensors.iter().map(|(n, t)| (n.as_str(), t)), HashMap::from([("format".into(), "mlx".into())])).unwrap()
}

fn load(path: &Path) -> Result<Box<dyn LanguageModel>, Error> {
    decoder::load(&Checkpoint::open_directory(path)?, Precision::Exact, |_, _| {})
}

fn load_parts(config: &Value, tensors: &Tensors) -> Result<Box<dyn LanguageModel>, Error> {
    let directory = Directory::new();
    directory.write("config.json", config.to_string()).write("model.safetensors", bytes(tensors));
    load(&directory.0)
}

#[track_caller]
fn refused(result: Result<Box<dyn LanguageModel>, Error>, kind: ErrorKind, says: &[&str]) {
    let error = result.err().expect("refused");
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{message}");
    for part in says {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    assert!(!message.contains('\n'), "{message:?} is one sentence");
}

#[test]
fn a_whole_checkpoint_runs_and_is_accounted_for() {
    let mut tensors = tensors();
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), tensor(1, &[16]));
    tensors.insert("lm_head.weight".into(), tensor(2, &[40, 64]));
    let model = load_parts(&config(), &tensors).unwrap();
    let mut state = model.state(&CacheOptions::default()).unwrap();
    let hidden = model.forward(&mut [Span { tokens: &[1, 2, 3], state: &mut state }]);
    assert_eq!(*model.logits(&hidden).shape(), [3, 40].into());
    let ignored: Vec<&str> = model.record().ignored.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(ignored.len(), 2, "{ignored:?}");
    assert_eq!(model.record().parameters(), 40 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 3 * 64);
}

/// The same weights inside a checkpoint that also sees images.
fn wrapped(prefix: &str) -> Tensors {
    let mut all: Tensors = HashMap::new();
    for (name, tensor) in tensors() {
        all.insert(format!("{prefix}{}", name.strip_prefix("model.").unwrap()), tensor);
    }
    all.insert("vision_tower.blocks.0.weight".into(), tensor(3, &[8, 8]));
    all.insert("model.multi_modal_projector.linear_1.weight".into(), tensor(4, &[64, 8]));
    all
}

#[test]
fn a_text_model_comes_out_of_its_wrapper() {
    let text = config();
    let wrapper = json!({"model_type": "mistral3", "text_config": text, "vision_config": {"hidden_size": 8}});
    let alone = load_parts(&config(), &tensors()).unwrap();
    let logits = |model: &dyn LanguageModel| {
        let mut state = model.state(&CacheOptions::default()).unwrap();
        let hidden = model.forward(&mut [Span { tokens: &[1, 2, 3], state: &mut state }]);
        model.logits(&hidden).f32s().to_vec()
    };
    for prefix in ["language_model.model.", "model.language_model."] {
        let model = load_parts(&wrapper, &wrapped(prefix)).unwrap();
        let ignored: Vec<&str> = model.record().ignored.iter().map(|(_, reason)| *reason).collect();
        assert_eq!(ignored, ["text is read, no images and no sound"; 2], "{prefix}");
        assert_eq!(logits(&*model), logits(&*alone), "{prefix}");
    }
    let mut odd = wrapped("language_model.model.");
    odd.insert("language_model.model.layers.0.mlp.extra.weight".into(), tensor(5, &[8, 8]));
    refused(
        load_parts(&wrapper, &odd),
        ErrorKind::InvalidCheckpoint,
        &["`language_model.model.layers.0.mlp.extra.weight`"],
    );
}

#[test]
fn files_that_are_not_there() {
    let directory = Directory::new();
    refused(load(&directory.0.join("none")), ErrorKind::NotFound, &["there is no model at", "none"]);
    refused(load(&directory.0), ErrorKind::NotFound, &["has no config.json"]);
    directory.write("model.gguf", "GGUF");
    refused(load(&directory.0), ErrorKind::NotFound, &["only model.gguf", "imported"]);
    directory.write("config.json", config().to_string());
    refused(load(&directory.0), ErrorKind::NotFound, &["has no *.safetensors"]);
    refused(load(&directory.0.join("config.json")), ErrorKind::NotFound, &["is a file"]);
}

#[test]
fn files_that_are_damaged() {
    let directory = Directory::new();
    let whole = bytes(&tensors());
    directory.write("config.json", config().to_string()).write("model.safetensors", &whole[..whole.len() / 2]);
    refused(load(&directory.0), ErrorKind::InvalidCheckpoint, &["model.safetensors", "cut short", "download it again"]);
    directory.write("model.safetensors", b"");
    refused(load(&directory.0), ErrorKind::InvalidCheckpoint, &["0 bytes"]);
    directory.write("model.safetensors", &whole).write("config.json", "{\"model_type\":");
    refused(load(&directory.0), ErrorKind::InvalidCheckpoint, &["config.json is not valid JSON"]);
    directory.write("config.json", "[]");
    refused(load(&directory.0), ErrorKind::InvalidCheckpoint, &["not a JSON object"]);
}

#[test]
fn tensors_that_do_not_fit() {
    let mut missing = tensors();
    missing.remove("model.layers.0.mlp.up_proj.weight");
    refused(
        load_parts(&config(), &missing),
        ErrorKind::InvalidCheckpoint,
        &["`model.layers.0.mlp.up_proj.weight` is missing"],
    );
    let mut extra = tensors();
    extra.insert("model.layers.1.mlp.up_proj.weight".into(), tensor(1, &[96, 64]));
    refused(
        load_parts(&config(), &extra),
        ErrorKind::InvalidCheckpoint,
        &["`model.layers.1.mlp.up_proj.weight` F32[96,64]"],
    );
    let mut wrong = tensors();
    wrong.insert("model.layers.0.mlp.up_proj.weight".into(), tensor(1, &[64, 96]));
    refused(load_parts(&config(), &wrong), ErrorKind::InvalidCheckpoint, &["up_proj.weight", "F32[64,96]", "[96,64]"]);
    let mut integers = tensors();
    integers.insert("model.norm.weight".into(), Tensor::from_u32(&[1; 64], [64]));
    refused(load_parts(&config(), &integers), ErrorKind::InvalidCheckpoint, &["model.norm.weight", "U32[64]"]);
}

#[test]
fn a_missing_shard_is_named() {
    let directory = Directory::new();
    let mut part = tensors();
    part.remove("model.norm.weight");
    let index = json!({"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors", "x": "model-00001-of-00002.safetensors"}});
    directory.write("config.json", config().to_string()).write("model-00001-of-00002.safetensors", bytes(&part));
    directory.write("model.safetensors.index.json", index.to_string());
    refused(
        load(&directory.0),
        ErrorKind::InvalidCheckpoint,
        &["model.norm.weight", "model-00002-of-00002.safetensors, which is not there"],
    );
}

fn with(key: &str, value: Value) -> Value {
    let mut config = config();
    config[key] = value;
    config
}

#[test]
fn configurations_that_cannot_be() {
    let invalid = |key: &str, value: Value, says: &[&str]| {
        refused(load_parts(&with(key, value), &tensors()), ErrorKind::InvalidCheckpoint, says)
    };
    invalid("hidden_size", json!("many"), &["config.json of a llama: hidden_size: ", "string"]);
    invalid("hidden_size", json!(0), &["hidden_size is 0"]);
    invalid("num_hidden_layers", json!(1_000_000_000_000u64), &["num_hidden_layers is 1000000000000"]);
    invalid("num_key_value_heads", json!(3), &["2 attention heads cannot be shared by 3"]);
    invalid("rope_scaling", json!({"type": "linear"}), &["`linear` needs a positive `factor`"]);
    invalid("layer_types", json!(["sliding_attention"]), &["no `sliding_window`"]);
    let unsupported = |key: &str, value: Value, says: &[&str]| {
        refused(load_parts(&with(key, value), &tensors()), ErrorKind::UnsupportedModel, says)
    };
    unsupported("rope_scaling", json!({"rope_type": "spiral"}), &["`spiral` is not supported"]);
    unsupported("hidden_act", json!("quick_gelu"), &["hidden_act is `quick_gelu`"]);
    unsupported("layer_types", json!(["linear_attention"]), &["`linear_attention`"]);
    let mut bare = config();
    bare.as_object_mut().unwrap().remove("vocab_size");
    refused(load_parts(&bare, &tensors()), ErrorKind::InvalidCheckpoint, &["missing field `vocab_size`"]);
}

#[test]
fn an_unknown_family_hears_of_the_nearest_and_of_what_differs() {
    let mut odd = with("model_type", json!("qwen3_moee"));
    odd["kv_lora_rank"] = json!(16);
    refused(
        load_parts(&odd, &tensors()),
        ErrorKind::UnsupportedModel,
        &["`qwen3_moee` is not supported", "`qwen3_moe`", "`kv_lora_rank`"],
    );
}

#[test]
fn unknown_quantizations_are_named() {
    let hqq = with("quantization_config", json!({"quant_method": "hqq", "bits": 4}));
    refused(load_parts(&hqq, &tensors()), ErrorKind::UnsupportedQuantization, &["`hqq`"]);
    let mode = with("quantization", json!({"mode": "ternary", "bits": 2, "group_size": 64}));
    refused(load_parts(&mode, &tensors()), ErrorKind::UnsupportedQuantization, &["`ternary`"]);
    let mut seven = tensors();
    let name = "model.layers.0.self_attn.o_proj";
    seven.insert(format!("{name}.weight"), Tensor::from_u32(&[0; 64 * 14], [64, 14]));
    seven.insert(format!("{name}.scales"), tensor(1, &[64, 2]));
    seven.insert(format!("{name}.biases"), tensor(1, &[64, 2]));
    refused(load_parts(&config(), &seven), ErrorKind::UnsupportedQuantization, &["7 bits in groups of 32"]);
}

#[test]
fn quantized_layers_are_recognised_by_their_tensors() {
    for (bits, group) in [(1, 32), (2, 32), (4, 64), (8, 32)] {
        let format = QuantFormat { mode: QuantMode::Affine, bits, group };
        let mut packed = tensors();
        let name = "model.layers.0.self_attn.o_proj";
        let parts = packed[&format!("{name}.weight")].clone().quantize(format);
        for (part, tensor) in ["weight", "scales", "biases"].iter().zip(parts) {
            packed.insert(format!("{name}.{part}"), tensor);
        }
        let model = load_parts(&config(), &packed).unwrap();
        let stored = model.record().taken.iter().find(|t| t.module == name).unwrap().storage;
        assert_eq!(stored, mlxengine_models::weights::Storage::Quantized(format));
        packed.remove(&format!("{name}.biases"));
        refused(load_parts(&config(), &packed), ErrorKind::InvalidCheckpoint, &["o_proj.biases` is missing"]);
    }
}
