//! Lille 130M: joined projections, norms inside of the halves, and a size between projections that follows from the stream's.

use crate::spec::{Attention, Decoder, Head, Projection};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "intermediate_size", "attention_bias", "mlp_bias", "rope_scaling"]);
    let config = config.without(&["hidden_act", "partial_rotary_factor", "rope_parameters"]).aliases(KEYS);
    let dim = config.get("hidden_size").and_then(serde_json::Value::as_u64).unwrap_or(0).min(1 << 24);
    // Two thirds of four times the stream's, to the nearest multiple of 256.
    let hidden = 256 * ((8 * dim / 3) as f64 / 256.0).round_ties_even() as u64;
    let c = config.or("intermediate_size", hidden).common()?;
    let rope = c.rope_of(c.head_dim(), c.rope_theta.unwrap_or(10_000.0))?.neighbours();
    let decoder = c.decoder(true, |_| {
        let attention = Attention { projection: Projection::Joined, rope: Some(rope.clone()), ..c.attention()? };
        Ok(c.layer(attention, c.mlp()?))
    })?;
    Ok(Decoder { head: Head::Tied, renames: RENAMES, ..decoder })
}

const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("num_key_value_heads", "n_kv_heads"),
    ("rms_norm_eps", "layer_norm_eps"),
    ("max_position_embeddings", "block_size"),
];

const RENAMES: &[(&str, &str)] = &[
    ("^transformer.", "^model."),
    ("^model.tok_embeddings.", "^model.embed_tokens."),
    (".attention.norm.", ".input_layernorm."),
    (".feed_forward.norm.", ".post_attention_layernorm."),
    (".attention.qkv_proj.", ".self_attn.qkv_proj."),
    (".attention.out_proj.", ".self_attn.o_proj."),
    (".feed_forward.", ".mlp."),
];
