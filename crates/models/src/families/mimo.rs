//! MiMo: Qwen2 with a head of its own; what predicts further tokens is left.

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.without(&["head_dim", "attention_bias", "mlp_bias"]).common()?;
    c.decoder(false, |_| Ok(c.layer(Attention { qkv_bias: true, ..c.attention()? }, c.mlp()?)))
}
