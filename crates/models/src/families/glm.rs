//! GLM: neighbours turn, gate and up are joined.

use crate::spec::{Attention, Decoder, Gated, Projection};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.without(&["partial_rotary_factor", "mlp_bias"]).common()?;
    let rope = c.rope_of(c.head_dim(), c.rope_theta.unwrap_or(10_000.0))?.neighbours();
    c.decoder(true, |_| {
        let attention = Attention { rope: Some(rope.clone()), out_bias: false, ..c.attention()? };
        Ok(c.layer(attention, Gated { projection: Projection::Joined, ..c.gated()? }.into()))
    })
}
