//! Mamba 2: state spaces with scalar decays and nothing else.

use serde::Deserialize;
use serde_json::json;

use super::mamba::RENAMES;
use crate::spec::{Decoder, GateNorm, Layer, Mixer, Norm, ScalarStateSpace};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Keys {
    layer_norm_epsilon: f32,
}

const ALIASES: &[(&str, &str)] = &[
    ("mamba_n_heads", "num_heads"),
    ("mamba_d_head", "head_dim"),
    ("mamba_n_groups", "n_groups"),
    ("mamba_d_state", "ssm_state_size"),
    ("mamba_d_state", "state_size"),
    ("mamba_d_conv", "conv_kernel"),
    ("mamba_conv_bias", "use_conv_bias"),
    ("mamba_proj_bias", "use_bias"),
];

#[derive(Deserialize)]
struct Sizes {
    mamba_n_heads: usize,
    mamba_d_head: usize,
    mamba_n_groups: usize,
    mamba_d_state: usize,
    mamba_d_conv: usize,
    mamba_conv_bias: bool,
    mamba_proj_bias: Option<bool>,
    time_step_limit: Option<[f32; 2]>,
}

/// The state space that keys beginning with `mamba_` describe; time steps have no bounds where none are given.
///
/// # Errors
/// Those of [`Config::read`] and [`ScalarStateSpace::checked`].
pub(super) fn state_space(config: &Config, norm: Option<GateNorm>) -> Result<ScalarStateSpace> {
    let sizes: Sizes = config.read()?;
    ScalarStateSpace {
        heads: sizes.mamba_n_heads,
        head_dim: sizes.mamba_d_head,
        groups: sizes.mamba_n_groups,
        state_dim: sizes.mamba_d_state,
        kernel: sizes.mamba_d_conv,
        conv_bias: sizes.mamba_conv_bias,
        bias: [sizes.mamba_proj_bias.unwrap_or(false); 2],
        time_step: sizes.time_step_limit.unwrap_or([0.0, f32::INFINITY]),
        norm,
    }
    .checked()
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let keys: Keys = config.read()?;
    let config =
        config.aliases(ALIASES).without(&["rms_norm_eps", "head_dim", "num_attention_heads", "num_key_value_heads"]);
    let config = config.without(&["rope_scaling", "rope_parameters"]);
    let config = config.defaults(json!({
        "rms_norm_eps": 1e-5, "num_attention_heads": 1, "head_dim": 2, "intermediate_size": 1,
    }));
    let c = config.common()?;
    let gate = GateNorm { eps: keys.layer_norm_epsilon, groups: 1, before_gate: false };
    let mamba = state_space(&config, Some(gate))?;
    let decoder = c.decoder(false, |_| {
        Ok(Layer { mixer: Some(Mixer::ScalarStateSpace(mamba)), mlp: None, ..c.layer(c.attention()?, c.mlp()?) })
    })?;
    let norm = Norm { eps: keys.layer_norm_epsilon, ..decoder.norm };
    Ok(Decoder { norm, renames: RENAMES, ..decoder })
}
