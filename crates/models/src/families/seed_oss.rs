//! Seed-OSS: Llama with a bias of its own for the output projection.

use serde::Deserialize;

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    #[serde(default)]
    attention_out_bias: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    c.decoder(true, |_| Ok(c.layer(Attention { out_bias: own.attention_out_bias, ..c.attention()? }, c.mlp()?)))
}
