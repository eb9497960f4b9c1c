//! Nemotron: norms with mean and bias stored as the distance from 1, units of squared ReLU, a part of each head turns.

use mlxengine_tensor::Unary;

use crate::spec::{Attention, Decoder, Layer, Norm, Plain};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("rms_norm_eps", "norm_eps").or("partial_rotary_factor", 0.5);
    let c = config.common()?;
    let norm = Norm { offset: 1.0, ..c.layer_norm(true) };
    let rope = c.rope(10_000.0)?;
    let mlp = Plain { hidden: c.intermediate_size, act: Unary::Relu2, bias: c.mlp_bias };
    let decoder = c.decoder(false, |_| {
        Ok(Layer { norm, ..c.layer(Attention { rope: Some(rope.clone()), ..c.attention()? }, mlp.into()) })
    })?;
    Ok(Decoder { norm, ..decoder })
}
