//! Kimi Linear: the delta rule with a decay for each number of a key, attention over latents without positions in every few
//! layers, and experts.

use serde::Deserialize;

use crate::config::within;
use crate::spec::{Decoder, KeyedDecay, KeyedDelta, Latent, Layer, Mixer, Router, Scores};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Keys {
    linear_attn_config: Linear,
    moe_router_activation_func: Option<String>,
    moe_renormalize: Option<bool>,
}

#[derive(Deserialize)]
struct Linear {
    kda_layers: Vec<usize>,
    num_heads: usize,
    head_dim: usize,
    short_conv_kernel_size: Option<usize>,
}

const ALIASES: &[(&str, &str)] = &[
    ("n_routed_experts", "num_experts"),
    ("n_shared_experts", "num_shared_experts"),
    ("num_experts_per_tok", "num_experts_per_token"),
    ("n_group", "num_expert_group"),
    ("qk_nope_head_dim", "head_dim"),
    ("v_head_dim", "head_dim"),
    ("max_position_embeddings", "model_max_length"),
];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    // Nothing turns, whatever is said of positions.
    let config = config.aliases(ALIASES).without(&["q_lora_rank", "rope_scaling", "rope_parameters", "attention_bias"]);
    let (keys, mixture): (Keys, _) = (config.read()?, config.mixture()?);
    let (c, latent) = config.latent(10_000.0)?;
    let latent = Latent { rope: None, norm: c.norm(), ..latent };
    let linear = &keys.linear_attn_config;
    let delta = KeyedDelta {
        heads: within("linear_attn_config.num_heads", linear.num_heads)?,
        head_dim: within("linear_attn_config.head_dim", linear.head_dim)?,
        kernel: within("linear_attn_config.short_conv_kernel_size", linear.short_conv_kernel_size.unwrap_or(4))?,
        norm: c.norm(),
        decay: KeyedDecay::Softplus,
        full_gate: false,
    };
    let scores = match keys.moe_router_activation_func.as_deref().unwrap_or("sigmoid") {
        "sigmoid" => Scores::Sigmoid,
        "softmax" => Scores::Softmax,
        other => return Err(Error::unsupported(format!("config.json: moe_router_activation_func is `{other}`"))),
    };
    let scale = mixture.routed_scaling_factor.unwrap_or(1.0);
    let router =
        Router { scores, groups: mixture.groups(2), ..Router::sigmoid(keys.moe_renormalize.unwrap_or(true), scale) };
    let decoder = c.decoder(false, |index| {
        let recurs = linear.kda_layers.contains(&(index + 1));
        let mixer = if recurs { Mixer::KeyedDelta(delta) } else { Mixer::Latent(latent.clone()) };
        let mlp = mixture.mlp(index, c.gated()?, router)?;
        Ok(Layer { mixer: Some(mixer), ..c.layer(c.attention()?, mlp) })
    })?;
    Ok(Decoder { renames: RENAMES, more_layers: true, ..decoder })
}

/// Names of Mixtral's experts, of what stands beside them, and of what its kin has more.
pub(super) const RENAMES: &[(&str, &str)] = &[
    (".block_sparse_moe.", ".mlp."),
    (".shared_experts.", ".shared_expert."),
    (".mlp.e_score_correction_bias", ".mlp.gate.e_score_correction_bias"),
    (".routed_expert_down_proj.", ".latent_down."),
    (".routed_expert_up_proj.", ".latent_up."),
    (".routed_expert_norm.", ".latent_norm."),
    ("_res.proj_weight", "_res_proj.weight"),
    ("_res.norm_weight", "_res_norm.weight"),
    (".w1.", ".gate_proj."),
    (".w2.", ".down_proj."),
    (".w3.", ".up_proj."),
];
