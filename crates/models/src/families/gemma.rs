//! Gemma: embeddings scaled by the root of their size, norms stored as the distance from 1, and, as in the reference, the
//! exact GELU whatever `hidden_act` says.

use mlxengine_tensor::Unary;

use crate::spec::{Decoder, Gated, Layer, Norm};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    let norm = Norm { offset: 1.0, ..c.norm() };
    let decoder = c.decoder(true, |_| {
        let mlp = Gated { act: Unary::Gelu.into(), ..c.gated()? };
        Ok(Layer { norm, ..c.layer(c.attention()?, mlp.into()) })
    })?;
    Ok(Decoder { norm, embed_scale: Some((c.hidden_size as f32).sqrt()), ..decoder })
}
