//! Ling 3: the delta rule with a decay for each number of a key in most layers, attention over latents with a gate on each head
//! in the last of each group.

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde_json::json;

use super::bailing_moe::{Own, RENAMES};
use super::bailing_moe_linear::{attends, keys};
use crate::config::{Mixture, within};
use crate::spec::{Decoder, HeadGate, KeyedDecay, KeyedDelta, Latent, Layer, Mixer, Norm};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Sizes {
    head_dim: usize,
    layer_group_size: usize,
    short_conv_kernel_size: usize,
    kda_lower_bound: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    for key in ["kda_safe_gate", "no_kda_lora", "rope_interleave"] {
        config.only(key, &json!(true))?;
    }
    // The reference reads none of these: no projection has a bias, and experts are chosen in one way.
    let fixed = ["use_qkv_bias", "use_bias", "score_function", "norm_topk_prob", "moe_router_enable_expert_bias"];
    let other = ["moe_router_enable_shared_expert", "partial_rotary_factor", "num_key_value_heads", "rotary_dim"];
    let config = keys(&config.without(&fixed).without(&other)).defaults(json!({
        "vocab_size": 157_184, "hidden_size": 1536, "intermediate_size": 4608, "moe_intermediate_size": 512,
        "moe_shared_expert_intermediate_size": 512, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_experts": 128, "num_experts_per_tok": 8, "num_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 8,
        "topk_group": 4, "routed_scaling_factor": 2.5, "layer_group_size": 4, "head_dim": 128, "q_lora_rank": 256,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "short_conv_kernel_size": 4, "kda_lower_bound": -5.0, "rms_norm_eps": 1e-6, "rope_theta": 6e6,
        "max_position_embeddings": 131_072, "score_function": "sigmoid", "norm_topk_prob": true,
        "moe_router_enable_expert_bias": true,
    }));
    let (own, mixture, sizes): (Own, _, Sizes) = (config.read()?, Mixture::read(&config)?, config.read()?);
    let (c, latent) = config.latent(6e6)?;
    let norm = Norm { eps: c.rms_norm_eps, ..latent.norm };
    let latent = Latent { norm, gate: Some(HeadGate::Head(Unary::Sigmoid)), ..latent };
    let delta = KeyedDelta {
        heads: c.num_attention_heads,
        head_dim: within("head_dim", sizes.head_dim)?,
        kernel: within("short_conv_kernel_size", sizes.short_conv_kernel_size)?,
        norm: c.norm(),
        decay: KeyedDecay::Bounded { bound: sizes.kda_lower_bound },
        full_gate: true,
    };
    let decoder = c.decoder(false, |index| {
        let attends = attends(&c, sizes.layer_group_size, index);
        let mixer = if attends { Mixer::Latent(latent.clone()) } else { Mixer::KeyedDelta(delta) };
        Ok(Layer { mixer: Some(mixer), ..c.layer(c.attention()?, own.mlp(&c, &mixture, index)?) })
    })?;
    Ok(Decoder { more_layers: true, renames: RENAMES, ..decoder })
}
