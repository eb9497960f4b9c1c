//! GLM-4.5 and GLM-4.6: a sigmoid router over experts beside a shared one, rotations of a part of each head.

use serde::Deserialize;

use crate::config::Mixture;
use crate::spec::{Attention, Decoder, Head};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    use_qk_norm: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, own, mixture): (_, Own, _) = (config.common()?, config.read()?, Mixture::read(config)?);
    let rope = c.plain_rope(10_000.0)?;
    let qk_norm = own.use_qk_norm.then_some(c.norm().into());
    let decoder = c.decoder(false, |index| {
        let attention = Attention { rope: Some(rope.clone()), qk_norm, out_bias: false, ..c.attention()? };
        Ok(c.layer(attention, mixture.mlp(&c, index)?))
    })?;
    Ok(Decoder { head: Head::OwnIfPresent, more_layers: true, renames: &[Mixture::SHARED], ..decoder })
}
