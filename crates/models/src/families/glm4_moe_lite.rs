//! GLM 4.7 Flash: DeepSeek V3 with other defaults, and one number in all its norms.

use serde_json::json;

use crate::spec::{Decoder, Mixer};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.defaults(json!({
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "routed_scaling_factor": 1.8, "first_k_dense_replace": 1,
        "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 4,
    }));
    let mut decoder = super::deepseek_v3::decoder(&config)?;
    for layer in &mut decoder.layers {
        if let Some(Mixer::Latent(latent)) = &mut layer.mixer {
            latent.norm = layer.norm;
        }
    }
    Ok(decoder)
}
