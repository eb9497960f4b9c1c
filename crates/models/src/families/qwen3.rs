//! Qwen3: grouped-query attention with a norm on each query and key head.

use crate::spec::{Attention, Decoder, Layer, Mixer, Residual};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    c.decoder(false, |_| {
        Ok(Layer {
            mixer: Some(Mixer::Attention(Attention { qk_norm: Some(c.norm()), ..c.attention()? })),
            mlp: Some(c.mlp()?),
            residual: Residual::PreNorm,
            norm: c.norm(),
        })
    })
}
