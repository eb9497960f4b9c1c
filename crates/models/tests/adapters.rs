//! Adapters over every way in which modules are read: what a model computes with one is what it computes with the weights
//! merged by hand.

use std::collections::BTreeMap;

use mlxengine_models::{
    Adapter, CacheOptions, Checkpoint, Config, Error, LanguageModel, Precision, Source, Span, decoder,
};
use mlxengine_tensor::{QuantFormat, QuantMode, Tensor};
use serde_json::{Value, json};

type Tensors = BTreeMap<String, Tensor>;

fn noise(seed: usize, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let mut state = (seed as u32).wrapping_mul(747_796_405) + 1;
    let numbers: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 0.4 - 0.2
        })
        .collect();
    Tensor::from_f32(&numbers, shape)
}

/// Weights of a norm: about 1, so that what attention chooses between is apart.
fn norm(seed: usize) -> Tensor {
    noise(seed, &[64]).add(&Tensor::from_f32(&[1.0], [1]))
}

fn config(model_type: &str, extra: Value) -> Value {
    let mut config = json!({"model_type": model_type, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": 40,
        "max_position_embeddings": 128, "tie_word_embeddings": true});
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    config
}

fn tensors(layer: &[(&str, &[usize])]) -> Tensors {
    let mut all = Tensors::new();
    for index in 0..2 {
        for (i, (name, shape)) in layer.iter().enumerate() {
            all.insert(format!("model.layers.{index}.{name}.weight"), noise(100 * index + i, shape));
        }
        for (i, name) in ["input_layernorm", "post_attention_layernorm"].iter().enumerate() {
            all.insert(format!("model.layers.{index}.{name}.weight"), norm(60 + i));
        }
    }
    all.insert("model.embed_tokens.weight".into(), noise(90, &[40, 64]));
    all.insert("model.norm.weight".into(), norm(91));
    all
}

fn llama() -> Tensors {
    tensors(&[
        ("self_attn.q_proj", &[64, 64]),
        ("self_attn.k_proj", &[32, 64]),
        ("self_attn.v_proj", &[32, 64]),
        ("self_attn.o_proj", &[64, 64]),
        ("mlp.gate_proj", &[96, 64]),
        ("mlp.up_proj", &[96, 64]),
        ("mlp.down_proj", &[64, 96]),
    ])
}

fn checkpoint(config: &Value, tensors: &Tensors) -> Checkpoint {
    Checkpoint {
        source: Source::Embedded { name: "a test", files: &[] },
        config: Config::parse(config.to_string().as_bytes()).unwrap(),
        tensors: tensors.iter().map(|(name, t)| (name.clone(), t.clone())).collect(),
        mlx_format: true,
        missing_shards: Vec::new(),
    }
}

fn logits(model: &dyn LanguageModel) -> Vec<f32> {
    let mut state = model.state(&CacheOptions::default()).unwrap();
    let hidden = model.forward(&mut [Span { tokens: &[1, 2, 3, 39, 0], state: &mut state }]);
    model.logits(&hidden).f32s().to_vec()
}

fn under(config: &Value, tensors: &Tensors, adapter: &Adapter) -> Result<Box<dyn LanguageModel>, Error> {
    decoder::load_adapted(&checkpoint(config, tensors), Some(adapter), Precision::Exact, |_, _| {})
}

/// The two matrices of a change in MLX's layout, `[inputs, rank]` and `[rank, outputs]`.
fn pair(seed: usize, [outputs, inputs]: [usize; 2]) -> [Tensor; 2] {
    [noise(seed, &[inputs, 3]), noise(seed + 1, &[3, outputs])]
}

/// `W + 2 (a b)ᵀ`.
fn merge(weight: &Tensor, [a, b]: &[Tensor; 2]) -> Tensor {
    weight.clone().add(&a.matmul(b, false).permute(&[1, 0]).scale(2.0))
}

fn mlx(kind: &str, changes: impl IntoIterator<Item = (String, Tensor)>) -> Adapter {
    let config = json!({"fine_tune_type": kind, "lora_parameters": {"scale": 2.0, "rank": 3}});
    Adapter::from_parts(&config, changes.into_iter().collect()).unwrap()
}

fn lora(module: &str, [a, b]: [Tensor; 2]) -> [(String, Tensor); 2] {
    [(format!("{module}.lora_a"), a), (format!("{module}.lora_b"), b)]
}

#[track_caller]
fn alike(got: &[f32], want: &[f32]) {
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    assert!(got.len() == want.len() && worst < 2e-4, "they differ by {worst}");
}

/// Every module of a checkpoint changed in turn, against the same by hand.
#[track_caller]
fn every_module(config: &Value, base: &Tensors, modules: &[&str]) {
    for (i, module) in modules.iter().enumerate() {
        let name = format!("{module}.weight");
        let shape = base[&name].shape();
        let change = pair(300 + 2 * i, [shape[0], shape[1]]);
        let mut merged = base.clone();
        merged.insert(name.clone(), merge(&base[&name], &change));
        let want = logits(&*decoder::load(&checkpoint(config, &merged), Precision::Exact, |_, _| {}).unwrap());
        let model = under(config, base, &mlx("lora", lora(module, change))).unwrap();
        alike(&logits(&*model), &want);
        assert_eq!(model.record().adapter.as_ref().map(|report| report.modules), Some(1));
        let plain = logits(&*decoder::load(&checkpoint(config, base), Precision::Exact, |_, _| {}).unwrap());
        // Beyond the tolerance, or the comparison would show nothing.
        let change = plain.iter().zip(&want).map(|(p, w)| (p - w).abs()).fold(0.0, f32::max);
        assert!(change > 1e-3, "{module} changes results by {change}");
    }
}

#[test]
fn every_module_of_a_dense_model() {
    let parts = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"];
    let modules = parts.map(|part| format!("model.layers.1.{part}"));
    every_module(&config("llama", json!({})), &llama(), &modules.each_ref().map(String::as_str));
}

#[test]
fn layers_that_are_read_joined() {
    let base = tensors(&[
        ("self_attn.qkv_proj", &[128, 64]),
        ("self_attn.o_proj", &[64, 64]),
        ("mlp.gate_up_proj", &[192, 64]),
        ("mlp.down_proj", &[64, 96]),
    ]);
    let modules = ["model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.gate_up_proj"];
    every_module(&config("phi3", json!({"rope_scaling": null})), &base, &modules);
}

#[test]
fn heads_that_are_tied_follow_the_embedding_or_change_alone() {
    let (config, base) = (config("llama", json!({})), llama());
    let name = "model.embed_tokens.weight";
    // A table's matrices lie the other way round.
    let [a, b] = pair(400, [64, 40]);
    let mut merged = base.clone();
    merged.insert(name.into(), base[name].clone().add(&a.matmul(&b, false).scale(2.0)));
    let want = logits(&*decoder::load(&checkpoint(&config, &merged), Precision::Exact, |_, _| {}).unwrap());
    let adapter = mlx("lora", lora("model.embed_tokens", [a, b]));
    alike(&logits(&*under(&config, &base, &adapter).unwrap()), &want);

    let change = pair(402, [40, 64]);
    let mut own = base.clone();
    own.insert("lm_head.weight".into(), merge(&base[name], &change));
    let untied = super_config(&config, "tie_word_embeddings", json!(false));
    let want = logits(&*decoder::load(&checkpoint(&untied, &own), Precision::Exact, |_, _| {}).unwrap());
    alike(&logits(&*under(&config, &base, &mlx("lora", lora("lm_head", change))).unwrap()), &want);
}

fn super_config(config: &Value, key: &str, value: Value) -> Value {
    let mut config = config.clone();
    config[key] = value;
    config
}

#[test]
fn experts_stacked_or_one_by_one() {
    let extra = json!({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1,
        "mlp_only_layers": [], "norm_topk_prob": true, "head_dim": 32});
    let config = config("qwen3_moe", extra);
    let mut base = tensors(&[
        ("self_attn.q_proj", &[64, 64]),
        ("self_attn.k_proj", &[32, 64]),
        ("self_attn.v_proj", &[32, 64]),
        ("self_attn.o_proj", &[64, 64]),
        ("self_attn.q_norm", &[32]),
        ("self_attn.k_norm", &[32]),
        ("mlp.gate", &[4, 64]),
        ("mlp.switch_mlp.gate_proj", &[4, 32, 64]),
        ("mlp.switch_mlp.up_proj", &[4, 32, 64]),
        ("mlp.switch_mlp.down_proj", &[4, 64, 32]),
    ]);
    let module = "model.layers.1.mlp.switch_mlp.up_proj";
    let (down, up) = (noise(500, &[4, 3, 64]), noise(501, &[4, 32, 3]));
    let stack = mlx("lora", lora(module, [down.clone(), up.clone()]));
    let got = logits(&*under(&config, &base, &stack).unwrap());
    let one = |t: &Tensor, e: usize| {
        let [rows, columns] = [t.shape()[1], t.shape()[2]];
        t.clone().slice(0, e, 1).reshape([rows, columns]).permute(&[1, 0])
    };
    let each =
        (0..4).flat_map(|e| lora(&format!("model.layers.1.mlp.experts.{e}.up_proj"), [one(&down, e), one(&up, e)]));
    alike(&logits(&*under(&config, &base, &mlx("lora", each)).unwrap()), &got);
    let weight = base[&format!("{module}.weight")].clone();
    base.insert(format!("{module}.weight"), weight.add(&up.matmul(&down, false).scale(2.0)));
    alike(&logits(&*decoder::load(&checkpoint(&config, &base), Precision::Exact, |_, _| {}).unwrap()), &got);
}

#[test]
fn quantized_weights_are_not_touched() {
    let (config, mut base) = (config("llama", json!({})), llama());
    let module = "model.layers.0.mlp.up_proj";
    let format = QuantFormat { mode: QuantMode::Affine, bits: 4, group: 32 };
    let codes = base.remove(&format!("{module}.weight")).unwrap().quantize(format);
    for (part, tensor) in ["weight", "scales", "biases"].iter().zip(codes) {
        base.insert(format!("{module}.{part}"), tensor);
    }
    let change = pair(600, [96, 64]);
    let model = under(&config, &base, &mlx("lora", lora(module, change))).unwrap();
    let plain = decoder::load(&checkpoint(&config, &base), Precision::Exact, |_, _| {}).unwrap();
    assert_eq!(model.record().bytes(), plain.record().bytes());
    assert_ne!(logits(&*model), logits(&*plain));
    // What is trained whole takes the place of codes and scales.
    let whole = mlx("full", [(format!("{module}.weight"), noise(601, &[96, 64]))]);
    let replaced = under(&config, &base, &whole).unwrap();
    assert_eq!(replaced.record().adapter.as_ref().map(|report| report.tensors), Some(1));
    assert_ne!(logits(&*replaced), logits(&*plain));
}

#[track_caller]
fn refused(result: Result<Box<dyn LanguageModel>, Error>, says: &[&str]) {
    let message = result.err().expect("refused").to_string();
    for part in says {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn every_change_lands_or_is_named() {
    let (config, base) = (config("llama", json!({})), llama());
    let elsewhere = mlx("lora", lora("model.layers.2.mlp.up_proj", pair(1, [96, 64])));
    refused(
        under(&config, &base, &elsewhere),
        &["of the 1 changes", "model.layers.2.mlp.up_proj", "nearest is `model.layers."],
    );
    let wide = mlx("lora", lora("model.layers.1.mlp.up_proj", pair(1, [96, 65])));
    refused(under(&config, &base, &wide), &["model.layers.1.mlp.up_proj", "do not fit"]);
    let other = mlx("full", [("model.layers.1.mlp.up.weight".to_owned(), noise(1, &[96, 64]))]);
    refused(under(&config, &base, &other), &["model.layers.1.mlp.up.weight", "closest name is"]);
    let shape = mlx("full", [("model.norm.weight".to_owned(), noise(1, &[65]))]);
    refused(under(&config, &base, &shape), &["model.norm.weight", "another model"]);
    // What a text model does not use is said, not refused.
    let seen = lora("model.layers.1.mlp.up_proj", pair(1, [96, 64])).into_iter();
    let tower = lora("vision_tower.blocks.0.up_proj", pair(3, [8, 8]));
    let model = under(&config, &base, &mlx("lora", seen.chain(tower))).unwrap();
    let report = model.record().adapter.clone().unwrap();
    assert_eq!((report.modules, report.ignored.len(), report.parameters), (1, 1, 3 * (96 + 64 + 16)));
}

#[test]
fn halves_of_a_change_are_refused() {
    let config = json!({"fine_tune_type": "lora", "lora_parameters": {"scale": 2.0}});
    for (key, says) in [("x.lora_a", "one of its two"), ("x.weight", "no part"), ("x.m", "no part"), ("x", "no part")] {
        let error = Adapter::from_parts(&config, vec![(key.to_owned(), noise(1, &[4, 2]))]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let error = Adapter::from_parts(&json!({"lora_parameters": {"rank": 8, "alpha": 16}}), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("scale"));
}
