//! Ministral 3: Llama with windows in some layers, and queries that grow with their position.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Temperature};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    rope_parameters: Growth,
}

#[derive(Deserialize)]
struct Growth {
    llama_4_scaling_beta: f32,
    original_max_position_embeddings: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["rope_theta", "rope_scaling", "attention_bias", "mlp_bias"]);
    let (c, Own { rope_parameters: growth }) = (config.common()?, config.read::<Own>()?);
    let length = growth.original_max_position_embeddings;
    let temperature = Some(Temperature { slope: growth.llama_4_scaling_beta, length, shift: 0.0 }.checked()?);
    c.decoder(true, |index| {
        let attention = Attention { temperature, window: c.window(index)?, ..c.attention()? };
        Ok(c.layer(attention, c.mlp()?))
    })
}
