//! Mamba, and Falcon's, which norms what selects: state spaces and nothing else.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::spec::{Decoder, Layer, Mixer, Norm, StateSpace};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Keys {
    state_size: usize,
    conv_kernel: usize,
    use_bias: bool,
    use_conv_bias: bool,
    time_step_rank: Value,
    #[serde(default)]
    use_bcdt_rms: bool,
    mixer_rms_eps: Option<f32>,
}

/// Names of a stack of nothing but mixers.
pub(super) const RENAMES: &[(&str, &str)] =
    &[("^backbone.", "^model."), (".embeddings.", ".embed_tokens."), (".norm_f.", ".norm.")];

const ALIASES: &[(&str, &str)] = &[
    ("hidden_size", "d_model"),
    ("intermediate_size", "d_inner"),
    ("state_size", "d_state"),
    ("num_hidden_layers", "n_layer"),
    ("conv_kernel", "d_conv"),
    ("use_bias", "bias"),
    ("use_conv_bias", "conv_bias"),
];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let falcon = config.model_type() == "falcon_mamba";
    let config = config.aliases(ALIASES).without(&["rms_norm_eps", "num_attention_heads", "head_dim"]);
    let config = config.defaults(json!({"rms_norm_eps": 1e-5, "num_attention_heads": 1, "head_dim": 2}));
    let config = config.without(&["num_key_value_heads", "rope_scaling", "rope_parameters"]);
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    let rank = match keys.time_step_rank.as_u64() {
        Some(rank) => rank as usize,
        None if keys.time_step_rank == "auto" => c.hidden_size.div_ceil(16),
        None => return Err(Error::invalid("config.json: time_step_rank is neither a number nor `auto`")),
    };
    let mamba = StateSpace {
        inner: c.intermediate_size,
        state_dim: keys.state_size,
        rank,
        kernel: keys.conv_kernel,
        conv_bias: keys.use_conv_bias,
        bias: keys.use_bias,
        norms: (keys.use_bcdt_rms || falcon)
            .then(|| Norm { eps: keys.mixer_rms_eps.unwrap_or(1e-6), ..c.norm().bare() }),
    }
    .checked()?;
    let decoder = c.decoder(true, |_| {
        Ok(Layer { mixer: Some(Mixer::StateSpace(mamba)), mlp: None, ..c.layer(c.attention()?, c.mlp()?) })
    })?;
    Ok(Decoder { renames: RENAMES, ..decoder })
}
