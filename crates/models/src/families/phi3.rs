//! Phi-3 and Phi-4: joined projections, rotations of a part of each head. Its sliding window is inert, as in the reference.

use crate::spec::{Attention, Decoder, Gated, Layer, Mixer, Mlp, Projection, Residual};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    c.decoder(false, |_| {
        Ok(Layer {
            mixer: Some(Mixer::Attention(Attention { projection: Projection::Joined, ..c.attention()? })),
            mlp: Some(Mlp::Gated(Gated { projection: Projection::Joined, ..c.gated()? })),
            residual: Residual::PreNorm,
            norm: c.norm(),
        })
    })
}
