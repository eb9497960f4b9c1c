//! Kimi K3, text: Kimi Linear whose halves see means over depth, with bounded decays, gates capped on both sides, and experts
//! in a smaller space.

use serde::Deserialize;
use serde_json::json;

use super::kimi_linear;
use crate::config::within;
use crate::spec::{Decoder, ExpertLatent, Gate, HeadGate, KeyedDecay, Mixer, Mlp, Norm, Unit};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Keys {
    activation_situ_beta: Option<f32>,
    activation_situ_linear_beta: Option<f32>,
    attn_res_block_size: Option<usize>,
    q_lora_rank: Option<usize>,
    #[serde(default)]
    mla_use_output_gate: bool,
    routed_expert_hidden_size: Option<usize>,
    #[serde(default)]
    latent_moe_use_norm: bool,
    linear_attn_config: Linear,
}

#[derive(Deserialize)]
struct Linear {
    gate_lower_bound: Option<f32>,
    #[serde(default)]
    use_full_rank_gate: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let text = config.text();
    text.only("hidden_act", &json!("situ"))?;
    text.only("mla_use_nope", &json!(true))?;
    text.only("moe_router_activation_func", &json!("sigmoid"))?;
    let keys: Keys = text.read()?;
    let cap = keys.activation_situ_beta.filter(|beta| *beta != 0.0).unwrap_or(1.0);
    if keys.activation_situ_linear_beta == Some(0.0) {
        return Err(Error::invalid("config.json: activation_situ_linear_beta is 0, which no cap is"));
    }
    let act = Gate::Capped { cap, up_cap: keys.activation_situ_linear_beta };
    let gated = |unit: &mut Unit| {
        if let Unit::Gated(unit) = unit {
            unit.act = act;
        }
    };
    let mut decoder =
        kimi_linear::decoder(&text.without(&["hidden_act"]).or("rms_norm_eps", 1e-5).or("num_experts_per_token", 16))?;
    let query_rank = keys.q_lora_rank.map(|rank| within("q_lora_rank", rank)).transpose()?;
    let depth_blocks = keys.attn_res_block_size.map(|size| within("attn_res_block_size", size)).transpose()?;
    for layer in &mut decoder.layers {
        match &mut layer.mixer {
            Some(Mixer::Latent(latent)) => {
                (latent.query_rank, latent.gate) = (query_rank, keys.mla_use_output_gate.then_some(HeadGate::Each));
                latent.norm = Norm { eps: 1e-6, ..latent.norm };
            }
            Some(Mixer::KeyedDelta(delta)) => {
                delta.full_gate = keys.linear_attn_config.use_full_rank_gate;
                if let Some(bound) = keys.linear_attn_config.gate_lower_bound {
                    delta.decay = KeyedDecay::Bounded { bound };
                }
            }
            _ => {}
        }
        match &mut layer.mlp {
            Some(Mlp::Dense(unit)) => gated(unit),
            Some(Mlp::Experts(experts)) => {
                gated(&mut experts.unit);
                experts.shared.iter_mut().for_each(|shared| gated(&mut shared.unit));
                let norm = keys.latent_moe_use_norm.then_some(layer.norm);
                experts.latent = keys.routed_expert_hidden_size.map(|dim| ExpertLatent { dim, norm, bias: false });
                experts.checked()?;
            }
            None => {}
        }
    }
    Ok(Decoder { depth_blocks, ..decoder })
}
