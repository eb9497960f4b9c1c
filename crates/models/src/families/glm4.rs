//! GLM-4: a norm on both sides of each half, under names of its own; neighbours turn in a part of each head.

use crate::spec::{Attention, Decoder, Gated, Head, Layer, Projection, Residual};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.or("rope_traditional", true).common()?;
    let rope = c.plain_rope(10_000.0)?;
    let decoder = c.decoder(false, |_| {
        let attention = Attention { rope: Some(rope.clone()), out_bias: false, ..c.attention()? };
        let mlp = Gated { projection: Projection::Joined, bias: false, ..c.gated()? };
        Ok(Layer { residual: Residual::Sandwich, ..c.layer(attention, mlp.into()) })
    })?;
    let renames = &[
        (".post_attention_layernorm.", ".pre_feedforward_layernorm."),
        (".post_self_attn_layernorm.", ".post_attention_layernorm."),
        (".post_mlp_layernorm.", ".post_feedforward_layernorm."),
    ];
    Ok(Decoder { head: Head::OwnIfPresent, renames, ..decoder })
}
