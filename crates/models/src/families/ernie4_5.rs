//! ERNIE 4.5: Llama with neighbours turning, and biases everywhere or nowhere.

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["attention_bias", "mlp_bias"]);
    let c = config.or_key("attention_bias", "use_bias").or_key("mlp_bias", "use_bias").common()?;
    let rope = c.plain_rope(10_000.0)?.neighbours();
    c.decoder(false, |_| Ok(c.layer(Attention { rope: Some(rope.clone()), ..c.attention()? }, c.mlp()?)))
}
