//! Command R7B and Command A: as its predecessor, but most layers see a window, and those that see everything know no
//! positions.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Head, Layer, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    #[serde(default)]
    layer_norm_bias: bool,
    logit_scale: f32,
    sliding_window: usize,
    sliding_window_pattern: usize,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("rms_norm_eps", "layer_norm_eps").defaults(json!({
        "hidden_size": 4096, "head_dim": 128, "num_hidden_layers": 32, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 256_000, "rms_norm_eps": 1e-5,
        "logit_scale": 0.0625, "sliding_window": 4096, "sliding_window_pattern": 4
    }));
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let norm = c.layer_norm(own.layer_norm_bias);
    let rope = c.plain_rope(50_000.0)?.neighbours();
    let decoder = c.decoder(true, |index| {
        let slides = !(index + 1).is_multiple_of(own.sliding_window_pattern.max(1));
        let window = slides.then_some(own.sliding_window.max(1));
        let attention = Attention { rope: slides.then(|| rope.clone()), window, ..c.attention()? };
        Ok(Layer { residual: Residual::Parallel, norm, ..c.layer(attention, c.mlp()?) })
    })?;
    Ok(Decoder { norm, head: Head::Tied, logit_scale: Some(own.logit_scale), ..decoder })
}
