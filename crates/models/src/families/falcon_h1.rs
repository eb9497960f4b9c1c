//! Falcon H1: attention and a state space side by side in every layer. Converted checkpoints have the multipliers of its
//! parametrization in their weights; those of others are multiplied here, as the conversion does it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::mamba2::state_space;
use crate::spec::{Decoder, GateNorm, Layer, Mixer, ScalarStateSpace};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Keys {
    projectors_bias: bool,
    mamba_rms_norm: bool,
    mamba_norm_before_gate: bool,
    embedding_multiplier: f32,
    lm_head_multiplier: f32,
}

const RENAMES: &[(&str, &str)] = &[
    (".mamba.", ".state_space."),
    (".feed_forward.", ".mlp."),
    (".pre_ff_layernorm.", ".post_attention_layernorm."),
    (".final_layernorm.", ".norm."),
];

/// The defaults of the reference.
pub(super) fn defaults() -> Value {
    json!({
        "rms_norm_eps": 1e-5, "mamba_d_ssm": 1536, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_d_conv": 4,
        "mamba_n_groups": 1, "mamba_n_heads": 24, "mamba_conv_bias": true, "mamba_proj_bias": false, "head_dim": 64,
        "projectors_bias": false, "mamba_rms_norm": false, "mamba_norm_before_gate": false, "rope_theta": 1e11,
        "embedding_multiplier": 5.656_854_249_492_381, "lm_head_multiplier": 0.039_062_5, "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 0.9375, "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.235_702_260_395_515_87,
        "mlp_multipliers": [0.883_883_476_483_184_4, 0.585_937_5], "ssm_multipliers": [0.353_553_390_593_273_8, 0.25,
        0.353_553_390_593_273_8, 0.5, 0.353_553_390_593_273_8]
    })
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.defaults(defaults());
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    let norm = GateNorm { eps: c.rms_norm_eps, groups: 1, before_gate: keys.mamba_norm_before_gate };
    let mamba = state_space(&config.without(&["time_step_limit"]), keys.mamba_rms_norm.then_some(norm))?;
    let mamba = ScalarStateSpace { bias: [mamba.bias[0], keys.projectors_bias], ..mamba };
    config.only("mamba_d_ssm", &json!(mamba.inner()))?;
    let decoder = c.decoder(true, |_| {
        let both = vec![Mixer::ScalarStateSpace(mamba), Mixer::Attention(c.attention()?)];
        Ok(Layer { mixer: Some(Mixer::Sum(both)), ..c.layer(c.attention()?, c.mlp()?) })
    })?;
    let tied = c.tie_word_embeddings.unwrap_or(true);
    let logit_scale = tied.then_some(keys.lm_head_multiplier / keys.embedding_multiplier);
    Ok(Decoder { logit_scale, renames: RENAMES, ..decoder })
}
