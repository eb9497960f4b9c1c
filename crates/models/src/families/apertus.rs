//! Apertus: units with a learned function, norms on queries and keys, layers' norms under names of their own.

use serde_json::json;

use crate::spec::{Attention, Decoder, Layer, Learned, Mlp, Unit};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("post_norm", &json!(false))?;
    let c = config.without(&["head_dim", "attention_bias", "hidden_act"]).common()?;
    let qk_norm = Some(c.norm().into());
    let rope = c.rope(12_000_000.0)?;
    let unit = Learned { hidden: c.intermediate_size, bias: c.mlp_bias };
    let decoder = c.decoder(false, |_| {
        let attention = Attention { rope: Some(rope.clone()), qk_norm, ..c.attention()? };
        Ok(Layer { mlp: Some(Mlp::Dense(Unit::Learned(unit))), ..c.layer(attention, c.mlp()?) })
    })?;
    let renames =
        &[(".attention_layernorm.", ".input_layernorm."), (".feedforward_layernorm.", ".post_attention_layernorm.")];
    Ok(Decoder { renames, ..decoder })
}
