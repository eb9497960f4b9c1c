//! MiniCPM: Llama with embeddings, residuals and logits scaled by width and depth.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Head, Layer};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    dim_model_base: f32,
    scale_depth: f32,
    scale_emb: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "attention_bias", "mlp_bias"]);
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let rope = c.rope(1_000_000.0)?;
    let scale = own.scale_depth / (c.num_hidden_layers as f32).sqrt();
    let decoder = c.decoder(false, |_| {
        let attention = Attention { rope: Some(rope.clone()), ..c.attention()? };
        Ok(Layer { scales: [scale; 2], ..c.layer(attention, c.mlp()?) })
    })?;
    // A head of its own sees less; checkpoints that tie it without saying so are read the same way.
    let (head, logit_scale) = match decoder.head {
        Head::Tied => (Head::Tied, None),
        _ => (Head::OwnIfPresent, Some(own.dim_model_base / c.hidden_size as f32)),
    };
    Ok(Decoder { embed_scale: Some(own.scale_emb), head, logit_scale, ..decoder })
}
