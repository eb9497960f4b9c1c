//! GPT-2: learned positions, joined projections, units without gates. Original files hold the matrices transposed.

use mlxengine_tensor::Unary;
use serde::Deserialize;

use crate::spec::{Attention, Decoder, Head, Layer, Plain, Projection};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    n_embd: usize,
    n_positions: usize,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let own: Own = config.read()?;
    let config = config
        .without(&["head_dim", "num_key_value_heads", "intermediate_size"])
        .aliases(KEYS)
        .or("intermediate_size", own.n_embd.saturating_mul(4));
    let c = config.common()?;
    let norm = c.layer_norm(true);
    let decoder = c.decoder(true, |_| {
        let projection = Projection::Joined;
        let attention = Attention { projection, qkv_bias: true, out_bias: true, rope: None, ..c.attention()? };
        let mlp = Plain { hidden: c.intermediate_size, act: Unary::GeluTanh, bias: true };
        Ok(Layer { norm, ..c.layer(attention, mlp.into()) })
    })?;
    let transposed = &["h.", "transformer.h."];
    Ok(Decoder { norm, head: Head::Tied, positions: Some(own.n_positions), renames: RENAMES, transposed, ..decoder })
}

/// Our names of keys, and those of this family.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("rms_norm_eps", "layer_norm_epsilon"),
    ("max_position_embeddings", "n_positions"),
];

pub(super) const RENAMES: &[(&str, &str)] = &[
    ("^transformer.", "^"),
    ("^h.", "^model.h."),
    ("^w", "^model.w"),
    ("^ln_f.", "^model.ln_f."),
    ("^model.h.", "^model.layers."),
    ("^model.wte.", "^model.embed_tokens."),
    ("^model.wpe.", "^model.embed_positions."),
    ("^model.ln_f.", "^model.norm."),
    (".ln_1.", ".input_layernorm."),
    (".ln_2.", ".post_attention_layernorm."),
    (".attn.c_attn.", ".self_attn.qkv_proj."),
    (".attn.c_proj.", ".self_attn.o_proj."),
    (".mlp.c_fc.", ".mlp.up_proj."),
    (".mlp.c_proj.", ".mlp.down_proj."),
];
