//! Gemma 3, text: most layers see a window and turn faster than the few that see everything.

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Gated, Head, Layer, Norm, Residual, Rope, RopeScaling};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Windows {
    rope_local_base_freq: Option<f32>,
    sliding_window: Option<usize>,
    sliding_window_pattern: Option<usize>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.defaults(json!({
        "hidden_size": 1152, "num_hidden_layers": 26, "intermediate_size": 6912, "num_attention_heads": 4,
        "head_dim": 256, "rms_norm_eps": 1e-6, "vocab_size": 262_144, "num_key_value_heads": 1,
        "max_position_embeddings": 32768
    }));
    let (c, windows): (_, Windows) = (config.common()?, config.read()?);
    let norm = Norm { offset: 1.0, ..c.norm() };
    let global = c.rope(1_000_000.0)?;
    let local =
        Rope { base: windows.rope_local_base_freq.unwrap_or(10_000.0), scaling: RopeScaling::None, ..global.clone() };
    let pattern = windows.sliding_window_pattern.unwrap_or(6).max(1);
    let window = windows.sliding_window.unwrap_or(512).max(1);
    let decoder = c.decoder(true, |index| {
        let slides = (index + 1) % pattern != 0;
        let attention = Attention {
            qk_norm: Some(norm.into()),
            rope: Some(if slides { local.clone() } else { global.clone() }),
            scale: c.query_pre_attn_scalar.unwrap_or(256.0).powf(-0.5),
            window: slides.then_some(window),
            ..c.attention()?
        };
        let mlp = Gated { act: Unary::GeluTanh.into(), ..c.gated()? };
        Ok(Layer { residual: Residual::Sandwich, norm, ..c.layer(attention, mlp.into()) })
    })?;
    // The reference rounds this factor to bfloat16.
    let scale = mlxengine_tensor::round_bf16((c.hidden_size as f32).sqrt());
    Ok(Decoder { norm, embed_scale: Some(scale), head: Head::OwnIfPresent, ..decoder })
}
