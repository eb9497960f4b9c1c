//! Gemma 2: caps on scores and logits, a norm on both sides of each half. Its sliding window is inert, as in the reference.

use mlxengine_tensor::Unary;
use serde::Deserialize;

use crate::spec::{Attention, Decoder, Gated, Layer, Norm, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Caps {
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, caps): (_, Caps) = (config.common()?, config.read()?);
    let norm = Norm { offset: 1.0, ..c.norm() };
    let decoder = c.decoder(true, |_| {
        let attention = Attention {
            scale: c.query_pre_attn_scalar.unwrap_or(144.0).powf(-0.5),
            softcap: Some(caps.attn_logit_softcapping.unwrap_or(50.0)),
            ..c.attention()?
        };
        let mlp = Gated { act: Unary::GeluTanh.into(), ..c.gated()? };
        Ok(Layer { residual: Residual::Sandwich, norm, ..c.layer(attention, mlp.into()) })
    })?;
    Ok(Decoder {
        norm,
        embed_scale: Some((c.hidden_size as f32).sqrt()),
        logit_softcap: Some(caps.final_logit_softcapping.unwrap_or(30.0)),
        ..decoder
    })
}
