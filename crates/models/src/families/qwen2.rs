//! Qwen2: biases on queries, keys and values. Its sliding-window keys are inert, as in the reference.

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    let rope = c.rope(1_000_000.0)?;
    c.decoder(true, |_| {
        let attention = Attention { qkv_bias: true, out_bias: false, rope: Some(rope.clone()), ..c.attention()? };
        Ok(c.layer(attention, c.mlp()?))
    })
}
