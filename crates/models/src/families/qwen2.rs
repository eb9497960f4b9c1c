//! Qwen2: biases on queries, keys and values. Its sliding-window keys are inert, as in the reference.

use crate::spec::{Attention, Decoder, Layer, Mixer, Residual};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    c.decoder(true, |_| {
        Ok(Layer {
            mixer: Some(Mixer::Attention(Attention {
                qkv_bias: true,
                out_bias: false,
                rope: Some(c.rope(1_000_000.0)?),
                ..c.attention()?
            })),
            mlp: Some(c.mlp()?),
            residual: Residual::PreNorm,
            norm: c.norm(),
        })
    })
}
