//! Youtu: attention over latents and gated units.

use serde_json::json;

use crate::spec::{Decoder, Latent, Layer, Mixer, Rope};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.defaults(json!({"rms_norm_eps": 1e-6, "rope_theta": 1.6e6, "rope_traditional": true}));
    let (c, latent) = config.latent(1.6e6)?;
    let rope = latent.rope.map(|rope| Rope { traditional: c.rope_traditional, ..rope });
    let scale = ((latent.nope_dim + latent.rope_dim) as f32).powf(-0.5);
    let latent = Latent { norm: c.norm(), rope, scale, ..latent };
    c.decoder(true, |_| Ok(Layer { mixer: Some(Mixer::Latent(latent.clone())), ..c.layer(c.attention()?, c.mlp()?) }))
}
