//! SmolLM3: Llama, but some layers know no positions.

use serde::Deserialize;

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Positions {
    no_rope_layer_interval: Option<usize>,
    /// 1 for layers with positions.
    no_rope_layers: Option<Vec<u8>>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, positions): (_, Positions) = (config.common()?, config.read()?);
    let interval = positions.no_rope_layer_interval.unwrap_or(4).max(1);
    let turns = |index: usize| match &positions.no_rope_layers {
        Some(layers) => layers.get(index).is_none_or(|turns| *turns != 0),
        None => !(index + 1).is_multiple_of(interval),
    };
    c.decoder(true, |index| {
        let attention = c.attention()?;
        let rope = attention.rope.clone().filter(|_| turns(index));
        Ok(c.layer(Attention { rope, window: c.window(index)?, ..attention }, c.mlp()?))
    })
}
