//! Mistral 4: attention over latents whose queries grow with their position, and experts chosen by softmax.

use serde::Deserialize;

use super::deepseek_v2::RENAMES;
use crate::spec::{Decoder, Layer, Mixer, Rope, Router, Temperature};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    rope_interleave: Option<bool>,
    rope_parameters: Growth,
}

#[derive(Deserialize)]
struct Growth {
    llama_4_scaling_beta: f32,
    original_max_position_embeddings: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let own: Own = config.read()?;
    let config = config.without(&["rope_theta", "rope_scaling"]).or_key("rope_scaling", "rope_parameters");
    let ((c, mut latent), mixture) = (config.latent(100_000.0)?, config.mixture()?);
    let Growth { llama_4_scaling_beta: slope, original_max_position_embeddings: length } = own.rope_parameters;
    latent.temperature = Some(Temperature { slope, length, shift: 0.0 }.checked()?);
    latent.rope = latent.rope.map(|rope| Rope { traditional: own.rope_interleave.unwrap_or(true), ..rope });
    let scale = mixture.routed_scaling_factor.unwrap_or(1.0);
    let groups = mixture.groups(2);
    let router = Router { groups, scale, ..Router::softmax(mixture.norm_topk_prob.unwrap_or(false)) };
    let decoder = c.decoder(false, |index| {
        let mlp = mixture.mlp(index, c.gated()?, router)?;
        Ok(Layer { mixer: Some(Mixer::Latent(latent.clone())), ..c.layer(c.attention()?, mlp) })
    })?;
    Ok(Decoder { renames: RENAMES, ..decoder })
}
