//! What targets share.

use mlxengine_models::{Adapter, Checkpoint, Config, LanguageModel, Precision, Result, Source, decoder};
use mlxengine_tensor::Tensor;

/// A model of one layer and a few thousand weights, under an adapter if one is given.
pub fn small_model(adapter: Option<&Adapter>) -> Result<Box<dyn LanguageModel>> {
    let config = br#"{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32,
        "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": 16,
        "max_position_embeddings": 128, "tie_word_embeddings": true}"#;
    let filled = |shape: &[usize]| Tensor::from_f32(&vec![0.01; shape.iter().product()], shape);
    let mut tensors = vec![
        ("model.norm.weight".to_owned(), filled(&[32])),
        ("model.embed_tokens.weight".to_owned(), filled(&[16, 32])),
    ];
    for part in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"] {
        tensors.push((format!("model.layers.0.{part}_proj.weight"), filled(&[32, 32])));
    }
    for part in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push((format!("model.layers.0.{part}.weight"), filled(&[32])));
    }
    let checkpoint = Checkpoint {
        source: Source::Embedded { name: "fuzzed", files: &[] },
        config: Config::parse(config)?,
        tensors,
        mlx_format: true,
        missing_shards: Vec::new(),
    };
    decoder::load_adapted(&checkpoint, adapter, Precision::Exact, |_, _| {})
}
