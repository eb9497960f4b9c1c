//! Phi-3 and Phi-4: joined projections, rotations of a part of each head. Its sliding window is inert, as in the reference.

use crate::spec::{Attention, Decoder, Gated, Projection};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    c.decoder(false, |_| {
        let projection = Projection::Joined;
        Ok(c.layer(Attention { projection, ..c.attention()? }, Gated { projection, ..c.gated()? }.into()))
    })
}
