//! Hunyuan, dense: a norm on each query and key head after the rotation, whose base a factor `alpha` raises.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, QkNorm};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    use_qk_norm: Option<bool>,
}

pub(super) const RENAMES: &[(&str, &str)] = &[(".query_layernorm.", ".q_norm."), (".key_layernorm.", ".k_norm.")];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let rope = c.alpha_rope()?;
    let norm = QkNorm { turned: true, ..QkNorm::from(c.norm()) };
    let qk_norm = own.use_qk_norm.unwrap_or(true).then_some(norm);
    let decoder =
        c.decoder(false, |_| Ok(c.layer(Attention { rope: Some(rope.clone()), qk_norm, ..c.attention()? }, c.mlp()?)))?;
    Ok(Decoder { renames: RENAMES, ..decoder })
}
