//! DBRX: clipped projections and a mixture in every layer, norms that take off the mean.

use serde::Deserialize;
use serde_json::Value;

use crate::spec::{Attention, Decoder, Experts, Head, Layer, Projection, Router};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    ffn_config: Units,
    attn_config: Heads,
}

#[derive(Deserialize)]
struct Units {
    ffn_hidden_size: usize,
    moe_num_experts: usize,
    moe_top_k: usize,
    ffn_act_fn: Option<Value>,
    moe_normalize_expert_weights: Option<f32>,
}

#[derive(Deserialize)]
struct Heads {
    kv_n_heads: usize,
    clip_qkv: f32,
    rope_theta: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let own: Own = config.read()?;
    let (units, heads) = (&own.ffn_config, &own.attn_config);
    let act = units.ffn_act_fn.as_ref().and_then(|act| act.get("name")).and_then(Value::as_str);
    if act.is_some_and(|name| name != "silu") || units.moe_normalize_expert_weights.is_some_and(|p| p != 1.0) {
        let message = "config.json: ffn_config asks for another function than SiLU, or for shares that do not sum to 1";
        return Err(Error::unsupported(message));
    }
    let c = config
        .aliases(KEYS)
        .or("num_key_value_heads", heads.kv_n_heads)
        .or("intermediate_size", units.ffn_hidden_size)
        .or("rope_theta", f64::from(heads.rope_theta))
        .or("rms_norm_eps", 1e-5)
        .common()?;
    let norm = c.layer_norm(false);
    let unit = c.gated()?;
    let experts = Experts::new([units.moe_num_experts, units.moe_top_k], unit, Router::softmax(true)).checked()?;
    let decoder = c.decoder(false, |_| {
        let projection = Projection::Joined;
        let attention = Attention { projection, clip: Some(heads.clip_qkv), ..c.attention()? };
        Ok(Layer { norm, ..c.layer(attention, experts) })
    })?;
    Ok(Decoder { norm, head: Head::Own, renames: RENAMES, converted_only: true, ..decoder })
}

const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("max_position_embeddings", "max_seq_len"),
];

const RENAMES: &[(&str, &str)] = &[
    ("^transformer.blocks.", "^model.layers."),
    ("^transformer.wte.", "^model.embed_tokens."),
    ("^transformer.norm_f.", "^model.norm."),
    (".norm_attn_norm.norm_1.", ".input_layernorm."),
    (".norm_attn_norm.norm_2.", ".post_attention_layernorm."),
    (".norm_attn_norm.attn.Wqkv.", ".self_attn.qkv_proj."),
    (".norm_attn_norm.attn.out_proj.", ".self_attn.o_proj."),
    (".ffn.router.layer.", ".mlp.gate."),
    (".ffn.experts.", ".mlp.experts."),
    (".w1.", ".gate_proj."),
    (".v1.", ".up_proj."),
    (".w2.", ".down_proj."),
];
