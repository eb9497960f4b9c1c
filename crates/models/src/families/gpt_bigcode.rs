//! GPT-BigCode and StarCoder: GPT-2 with one key head for all queries.

use mlxengine_tensor::Unary;
use serde::Deserialize;

use crate::spec::{Attention, Decoder, Layer, Plain, Projection};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    n_head: usize,
    n_positions: usize,
    multi_query: Option<bool>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let own: Own = config.read()?;
    let config = config
        .without(&["head_dim", "num_key_value_heads"])
        .aliases(super::gpt2::KEYS)
        .aliases(&[("intermediate_size", "n_inner")])
        .or("num_key_value_heads", if own.multi_query.unwrap_or(true) { 1 } else { own.n_head })
        .or("attention_bias", true)
        .or("mlp_bias", true);
    let c = config.common()?;
    let norm = c.layer_norm(true);
    let mlp = Plain { hidden: c.intermediate_size, act: Unary::Gelu, bias: c.mlp_bias };
    let decoder = c.decoder(true, |_| {
        let attention = Attention { projection: Projection::Joined, rope: None, ..c.attention()? };
        Ok(Layer { norm, ..c.layer(attention, mlp.into()) })
    })?;
    Ok(Decoder { norm, positions: Some(own.n_positions), renames: super::gpt2::RENAMES, ..decoder })
}
