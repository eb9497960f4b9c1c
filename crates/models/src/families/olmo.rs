//! OLMo, the first: norms without weights that take off the mean. Its own files and those for transformers have other keys
//! and names.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Gated, Layer, Projection};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    #[serde(default)]
    weight_tying: bool,
    mlp_ratio: Option<usize>,
    mlp_hidden_size: Option<usize>,
    clip_qkv: Option<f32>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (own, native): (Own, bool) = (config.read()?, config.get("d_model").is_some());
    let config = config.aliases(KEYS).without(&["rms_norm_eps", "head_dim"]).or("rms_norm_eps", 1e-5);
    let (mut config, mut projection) = (config, [Projection::Separate; 2]);
    if native {
        let dim = config.get("hidden_size").and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
        let both = own.mlp_hidden_size.unwrap_or_else(|| dim.saturating_mul(own.mlp_ratio.unwrap_or(4)));
        config = config.without(&["vocab_size", "intermediate_size", "num_key_value_heads", "tie_word_embeddings"]);
        config = config.or("intermediate_size", both / 2).or_key("vocab_size", "embedding_size");
        config = config.or("tie_word_embeddings", own.weight_tying);
        projection = [Projection::Joined, Projection::UpFirst];
    }
    let c = config.common()?;
    let norm = c.layer_norm(false).bare();
    let unit = Gated { projection: projection[1], ..c.gated()? };
    let clip = if native { None } else { own.clip_qkv };
    let decoder = c.decoder(false, |_| {
        let attention = Attention { projection: projection[0], clip, ..c.attention()? };
        Ok(Layer { norm, ..c.layer(attention, unit.into()) })
    })?;
    Ok(Decoder { norm, renames: if native { NATIVE } else { &[] }, ..decoder })
}

const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("max_position_embeddings", "max_sequence_length"),
];

const NATIVE: &[(&str, &str)] = &[
    ("^model.model.", "^model."),
    ("^model.transformer.blocks.", "^model.layers."),
    ("^model.transformer.wte.", "^model.embed_tokens."),
    ("^model.transformer.ff_out.", "^lm_head."),
    (".att_proj.", ".self_attn.qkv_proj."),
    (".attn_out.", ".self_attn.o_proj."),
    (".ff_proj.", ".mlp.gate_up_proj."),
    (".ff_out.", ".mlp.down_proj."),
];
