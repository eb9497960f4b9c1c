//! OpenELM: heads and sizes that grow from layer to layer, joined projections.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Gated, Head, Projection};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    ffn_dim_divisor: usize,
    num_query_heads: Vec<usize>,
    num_kv_heads: Vec<usize>,
    ffn_multipliers: Vec<f64>,
    normalize_qk_projections: Option<bool>,
    share_input_output_layers: Option<bool>,
    rope_freq_constant: Option<f32>,
}

/// The multiple of `divisor` next to a size, but not a tenth below it.
fn divisible(size: f64, divisor: usize) -> usize {
    let near = ((size + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (near as f64) < 0.9 * size { near.saturating_add(divisor) } else { near }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("ffn_with_glu", &json!(true))?;
    let own: Own = config.read()?;
    let heads = own.num_query_heads.first().copied().unwrap_or(0);
    let keys = [("hidden_size", "model_dim"), ("num_hidden_layers", "num_transformer_layers")];
    let config = config.aliases(&keys).or("rms_norm_eps", 1e-6).or("num_attention_heads", heads);
    let c = config.or("intermediate_size", 1).without(&["num_key_value_heads"]).common()?;
    let rope = c.rope_of(c.head_dim(), own.rope_freq_constant.unwrap_or(10_000.0))?;
    let qk_norm = own.normalize_qk_projections.unwrap_or(true).then_some(c.norm().into());
    let projection = Projection::Joined;
    let decoder = c.decoder(true, |index| {
        let lists = (own.num_query_heads.get(index), own.num_kv_heads.get(index), own.ffn_multipliers.get(index));
        let (Some(heads), Some(kv_heads), Some(factor)) = lists else {
            return Err(Error::invalid(format!("config.json: the lists have no entry for layer {index}")));
        };
        let hidden = divisible(factor * c.hidden_size as f64, own.ffn_dim_divisor.max(1));
        if hidden > 1 << 24 {
            return Err(Error::invalid(format!("config.json: ffn_multipliers makes layer {index} {hidden} wide")));
        }
        let attention = c.with_heads([*heads, *kv_heads])?.attention()?;
        let mlp = Gated { hidden, projection, ..c.gated()? };
        Ok(c.layer(Attention { projection, rope: Some(rope.clone()), qk_norm, ..attention }, mlp.into()))
    })?;
    let head = if own.share_input_output_layers.unwrap_or(true) { Head::Tied } else { Head::Own };
    Ok(Decoder { head, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    ("^transformer.token_embeddings.", "^model.embed_tokens."),
    ("^transformer.", "^model."),
    (".attn.out_proj.", ".self_attn.o_proj."),
    (".attn.", ".self_attn."),
    (".ffn.proj_1.", ".mlp.gate_up_proj."),
    (".ffn.proj_2.", ".mlp.down_proj."),
    (".attn_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
];
