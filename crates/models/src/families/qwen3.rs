//! Qwen3: grouped-query attention with a norm on each query and key head.

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    let qk_norm = Some(c.norm().into());
    c.decoder(false, |_| Ok(c.layer(Attention { qk_norm, ..c.attention()? }, c.mlp()?)))
}
