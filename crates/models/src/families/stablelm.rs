//! StableLM: norms with mean and bias, a part of each head turns, and in some both halves of a layer side by side.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Head, Layer, QkNorm, QkSpan, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    #[serde(default)]
    use_qkv_bias: bool,
    #[serde(default)]
    use_parallel_residual: bool,
    #[serde(default)]
    qk_layernorm: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("rms_norm_eps", "layer_norm_eps").without(&["head_dim", "attention_bias", "mlp_bias"]);
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let (norm, rope) = (c.layer_norm(true), c.plain_rope(10_000.0)?);
    let qk_norm = QkNorm { span: QkSpan::EachHead, ..c.layer_norm(false).into() };
    let residual = if own.use_parallel_residual { Residual::Parallel } else { Residual::PreNorm };
    let decoder = c.decoder(false, |_| {
        let attention = Attention {
            qkv_bias: own.use_qkv_bias,
            qk_norm: own.qk_layernorm.then_some(qk_norm),
            rope: Some(rope.clone()),
            ..c.attention()?
        };
        Ok(Layer { residual, norm, ..c.layer(attention, c.mlp()?) })
    })?;
    let renames = &[(".q_layernorm.", ".q_norm."), (".k_layernorm.", ".k_norm.")];
    Ok(Decoder { norm, head: Head::OwnIfPresent, renames, ..decoder })
}
