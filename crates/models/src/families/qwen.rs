//! The first Qwen: joined projections, half the inner size for each of gate and up.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Gated, Head, Projection};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    no_bias: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["num_key_value_heads", "head_dim", "rope_theta"]);
    let config = config.aliases(&[("rms_norm_eps", "layer_norm_epsilon"), ("head_dim", "kv_channels")]);
    let config = config.defaults(json!({
        "hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 24, "head_dim": 128,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "intermediate_size": 11008, "no_bias": true,
        "vocab_size": 151_936
    }));
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let bias = !own.no_bias;
    let rope = c.rope_of(c.head_dim(), 10_000.0)?;
    let mlp = Gated { hidden: c.intermediate_size / 2, bias, ..c.gated()? };
    let decoder = c.decoder(false, |_| {
        let (projection, rope) = (Projection::Joined, Some(rope.clone()));
        let attention = Attention { projection, qkv_bias: true, out_bias: bias, rope, ..c.attention()? };
        Ok(c.layer(attention, mlp.into()))
    })?;
    Ok(Decoder { head: Head::Own, head_bias: bias, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    ("^transformer.h.", "^model.layers."),
    ("^transformer.wte.", "^model.embed_tokens."),
    ("^transformer.ln_f.", "^model.norm."),
    (".attn.c_attn.", ".self_attn.qkv_proj."),
    (".attn.c_proj.", ".self_attn.o_proj."),
    (".ln_1.", ".input_layernorm."),
    (".ln_2.", ".post_attention_layernorm."),
    (".mlp.w2.", ".mlp.gate_proj."),
    (".mlp.w1.", ".mlp.up_proj."),
    (".mlp.c_proj.", ".mlp.down_proj."),
];
