//! InternLM3: Llama with biases asked for by other names.

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "attention_bias", "mlp_bias"]);
    let c = config.or_key("attention_bias", "qkv_bias").or_key("mlp_bias", "bias").common()?;
    let rope = c.rope(10_000.0)?;
    c.decoder(false, |_| Ok(c.layer(Attention { rope: Some(rope.clone()), ..c.attention()? }, c.mlp()?)))
}
