//! Muse Glimmer, text: a gate on what attention gives, queries and keys of length 1, windows that know positions between full
//! layers that do not.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::spec::{Attention, Decoder, HeadGate, Layer, Norm, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    post_norm_eps: f32,
    qk_scale_factor: f32,
    layer_rope_theta: Option<Vec<f32>>,
    final_logit_softcapping: f32,
    output_multiplier: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let text = config.text().lifted(&[("rope_theta", "rope_parameters", "rope_theta")]);
    let text = text.without(&["attention_bias", "mlp_bias", "rope_parameters", "rope_scaling", "hidden_activation"]);
    let text = text.without(&["hidden_act", "partial_rotary_factor"]);
    // What the text's part leaves out may stand beside it.
    let beside = config.values().iter().filter(|(key, value)| !value.is_object() && !BARRED.contains(&key.as_str()));
    let text = beside.fold(text, |text, (key, value)| text.or(key, value.clone())).defaults(json!({
        "hidden_size": 6656, "num_hidden_layers": 52, "intermediate_size": 19_968, "num_attention_heads": 32,
        "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 202_048, "rms_norm_eps": 1e-5, "post_norm_eps": 1e-8,
        "sliding_window": 2048, "qk_scale_factor": 3.87, "max_position_embeddings": 131_072, "rope_theta": 500_000.0,
        "final_logit_softcapping": 20.0, "output_multiplier": 0.196_116_135_138_184_04
    }));
    let layers = text.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0).min(4096);
    let kind = |i: u64| if i % 4 == 3 { "full_attention" } else { "sliding_attention" };
    let text = text.or("layer_types", (0..layers).map(kind).collect::<Vec<_>>());
    let (c, own): (_, Own) = (text.common()?, text.read()?);
    let norm = Norm { offset: 1.0, ..c.norm() };
    let after = Some([Norm { eps: own.post_norm_eps, ..norm }; 2]);
    let rope = c.rope_of(c.head_dim(), c.rope_theta.unwrap_or(500_000.0))?;
    let decoder = c.decoder(false, |index| {
        let window = c.window(index)?;
        let turns = match &own.layer_rope_theta {
            Some(bases) => bases.get(index).is_some_and(|base| *base != 0.0),
            None => window.is_some(),
        };
        let plain = c.attention()?;
        let attention = Attention {
            qk_norm: Some(c.norm().bare().into()),
            rope: turns.then(|| rope.clone()),
            scale: plain.scale * own.qk_scale_factor,
            gate: Some(HeadGate::Each),
            window,
            ..plain
        };
        Ok(Layer { residual: Residual::Sandwich, norm, after, ..c.layer(attention, c.mlp()?) })
    })?;
    Ok(Decoder {
        embed_norm: Some(c.norm().bare()),
        logit_scale: Some(own.output_multiplier),
        logit_softcap: Some(own.final_logit_softcapping),
        ..decoder
    })
}

/// Keys beside the text's part that are not the text's.
const BARRED: &[&str] = &["model_type", "attention_bias", "mlp_bias", "hidden_act", "hidden_activation"];
