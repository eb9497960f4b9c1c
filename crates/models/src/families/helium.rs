//! Helium: Llama with neighbours turning and a head of its own.

use crate::spec::{Attention, Decoder, Head};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.without(&["head_dim"]).common()?;
    let rope = c.plain_rope(10_000.0)?.neighbours();
    let decoder = c.decoder(false, |_| {
        Ok(c.layer(Attention { rope: Some(rope.clone()), out_bias: false, ..c.attention()? }, c.mlp()?))
    })?;
    Ok(Decoder { head: Head::OwnIfPresent, ..decoder })
}
