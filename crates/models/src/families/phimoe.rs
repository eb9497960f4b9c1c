//! Phi-3.5-MoE: norms with mean and bias, biases in attention and head, experts chosen one after another.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Experts, Head, Layer, Router, Scores};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    num_local_experts: usize,
    num_experts_per_tok: usize,
    router_jitter_noise: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "attention_bias", "mlp_bias", "hidden_act"]).defaults(json!({
        "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "num_local_experts": 16,
        "num_experts_per_tok": 2, "router_jitter_noise": 0.01
    }));
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let (norm, rope) = (c.layer_norm(true), c.rope(10_000.0)?);
    let scores = Scores::Near { distance: 2.0 * own.router_jitter_noise };
    let router = Router { scores, ..Router::softmax(false) };
    let counts = [own.num_local_experts, own.num_experts_per_tok];
    let experts = Experts::new(counts, c.gated()?, router).checked()?;
    let decoder = c.decoder(false, |_| {
        let attention = Attention { qkv_bias: true, out_bias: true, rope: Some(rope.clone()), ..c.attention()? };
        Ok(Layer { norm, ..c.layer(attention, experts) })
    })?;
    let renames =
        &[(".block_sparse_moe.", ".mlp."), (".w1.", ".gate_proj."), (".w2.", ".down_proj."), (".w3.", ".up_proj.")];
    Ok(Decoder { norm, head: Head::Own, head_bias: true, renames, ..decoder })
}
