//! PLaMo 3: norms after each half whose weights are small, and windows between full layers.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::spec::{Attention, Decoder, Gated, Layer, Norm, Projection, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    window_size: usize,
    sliding_window_pattern: usize,
    rope_local_theta: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("linear_type", &json!("normal"))?;
    config.only("rope_scaling", &Value::Null)?;
    let unread = ["attention_bias", "mlp_bias", "rope_parameters", "rope_traditional", "partial_rotary_factor"];
    let config = match config.get("sliding_window") {
        Some(window) => config.without(&["window_size"]).or("window_size", window.clone()),
        None => config.clone(),
    };
    let config = config.without(&unread).without(&["hidden_act", "layer_types"]).defaults(json!({
        "hidden_size": 4096, "num_hidden_layers": 32, "rms_norm_eps": 1e-6, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 2048, "window_size": 2048,
        "sliding_window_pattern": 8, "rope_theta": 1_000_000.0, "rope_local_theta": 10_000.0,
        "intermediate_size": 13_312, "vocab_size": 32_000
    }));
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let weighted = |offset| Norm { offset, ..c.norm() };
    let norm = weighted(1.0);
    let after = Some([weighted(0.2), weighted(0.2 / 5f32.sqrt())]);
    let local = c.rope_of(c.head_dim(), own.rope_local_theta)?;
    let unit = Gated { projection: Projection::Joined, ..c.gated()? };
    let decoder = c.decoder(true, |index| {
        let slides = (index + 1) % own.sliding_window_pattern.max(1) != 0;
        let attention = Attention {
            projection: Projection::Joined,
            qk_norm: Some(norm.into()),
            rope: Some(if slides { local.clone() } else { c.plain_rope(1_000_000.0)? }),
            // A position sees so many before its own. The reference's masks show them; its caches keep one less.
            window: slides.then(|| own.window_size.saturating_add(1)),
            ..c.attention()?
        };
        Ok(Layer { residual: Residual::Sandwich, norm, after, ..c.layer(attention, unit.into()) })
    })?;
    Ok(Decoder { norm, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    ("^model.layers.layers.", "^model.layers."),
    (".pre_mixer_norm.", ".input_layernorm."),
    (".post_mixer_norm.", ".post_attention_layernorm."),
    (".pre_mlp_norm.", ".pre_feedforward_layernorm."),
    (".post_mlp_norm.", ".post_feedforward_layernorm."),
];
