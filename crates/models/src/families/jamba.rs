//! Jamba: attention without positions in every few layers, state spaces in the others, experts in every other.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::spec::{Attention, Decoder, Experts, Layer, Mixer, Router, StateSpace};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Keys {
    attn_layer_offset: usize,
    attn_layer_period: usize,
    expert_layer_offset: usize,
    expert_layer_period: usize,
    mamba_d_conv: usize,
    mamba_d_state: usize,
    mamba_expand: usize,
    num_experts: usize,
    num_experts_per_tok: usize,
    mamba_dt_rank: Option<Value>,
    mamba_proj_bias: Option<bool>,
    mamba_conv_bias: Option<bool>,
    layers_block_type: Option<Vec<String>>,
}

const RENAMES: &[(&str, &str)] = &[
    (".mamba.", ".state_space."),
    (".feed_forward.router.", ".mlp.gate."),
    (".feed_forward.", ".mlp."),
    (".pre_ff_layernorm.", ".post_attention_layernorm."),
    (".final_layernorm.", ".norm."),
];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["rope_scaling", "rope_parameters", "head_dim", "mlp_bias", "attention_bias"]);
    config.only("hidden_act", &json!("silu"))?;
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    let rank = keys.mamba_dt_rank.as_ref().and_then(Value::as_u64).map(|rank| rank as usize);
    let mamba = StateSpace {
        inner: keys.mamba_expand.saturating_mul(c.hidden_size),
        state_dim: keys.mamba_d_state,
        rank: rank.unwrap_or(c.hidden_size.div_ceil(16)),
        kernel: keys.mamba_d_conv,
        conv_bias: keys.mamba_conv_bias.unwrap_or(true),
        bias: keys.mamba_proj_bias.unwrap_or(false),
        norms: Some(c.norm()),
    }
    .checked()?;
    let attends = |index: usize| match &keys.layers_block_type {
        Some(types) => types.get(index).is_some_and(|name| name == "attention"),
        None => index % keys.attn_layer_period.max(1) == keys.attn_layer_offset,
    };
    let experts = Experts::new([keys.num_experts, keys.num_experts_per_tok], c.gated()?, Router::softmax(true));
    let period = keys.expert_layer_period.max(1);
    let decoder = c.decoder(true, |index| {
        let sparse =
            keys.num_experts > 1 && (index % period + keys.expert_layer_offset % period).is_multiple_of(period);
        let mlp = if sparse { experts.checked()? } else { c.mlp()? };
        let layer = c.layer(Attention { rope: None, ..c.attention()? }, mlp);
        Ok(if attends(index) { layer } else { Layer { mixer: Some(Mixer::StateSpace(mamba)), ..layer } })
    })?;
    Ok(Decoder { renames: RENAMES, ..decoder })
}
