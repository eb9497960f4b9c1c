//! MiniCPM3: attention over latents, and a residual stream that is scaled by the model's depth.

use serde::Deserialize;

use crate::spec::{Decoder, Latent, Layer, Mixer, Norm, Rope};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Scales {
    dim_model_base: f32,
    scale_depth: f32,
    scale_emb: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let scales: Scales = config.read()?;
    let c = config.without(&["head_dim"]).common()?;
    let config = config.without(&["v_head_dim"]).or("v_head_dim", c.head_dim());
    let (c, latent) = config.latent(1_000_000.0)?;
    if c.rope_scaling.is_none() {
        return Err(Error::invalid("config.json: there is no `rope_scaling`, which this family needs"));
    }
    let rope = latent.rope.map(|rope| Rope { traditional: c.rope_traditional, ..rope });
    let latent = Latent { norm: Norm { eps: 1e-5, ..latent.norm }, rope, ..latent };
    let scale = scales.scale_depth / (c.num_hidden_layers as f32).sqrt();
    let decoder = c.decoder(false, |_| {
        let mixer = Some(Mixer::Latent(latent.clone()));
        Ok(Layer { mixer, scales: [scale; 2], ..c.layer(c.attention()?, c.mlp()?) })
    })?;
    let own = !c.tie_word_embeddings.unwrap_or(false);
    let logit_scale = own.then_some(scales.dim_model_base / c.hidden_size as f32);
    Ok(Decoder { embed_scale: Some(scales.scale_emb), logit_scale, ..decoder })
}
