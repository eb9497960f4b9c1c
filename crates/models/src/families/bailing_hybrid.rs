//! Ling and Ring 2.5: attention whose past fades in most layers, attention over latents in the last of each group.

use serde::Deserialize;

use super::bailing_moe::{Own, RENAMES};
use super::bailing_moe_linear::{attends, keys, rates};
use super::bailing_moe_v3;
use crate::config::Mixture;
use crate::spec::{Decoder, Latent, Layer, LinearAttention, Mixer, Norm, Rope};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Groups {
    layer_group_size: usize,
    group_norm_size: usize,
    rope_interleave: bool,
    num_shared_experts: usize,
    moe_shared_expert_intermediate_size: Option<usize>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    // Files of the next generation have the same model type.
    if config.get("architectures").and_then(|names| names.get(0)).is_some_and(|name| name == "BailingMoeV3ForCausalLM")
    {
        return bailing_moe_v3::decoder(config);
    }
    let config = keys(config).without(&["moe_router_enable_shared_expert", "rope_traditional", "rotary_dim"]).defaults(
        serde_json::json!({
            "rope_interleave": true, "partial_rotary_factor": 0.5, "use_qk_norm": true, "score_function": "sigmoid",
            "norm_topk_prob": true, "moe_router_enable_expert_bias": true
        }),
    );
    let groups: Groups = config.read()?;
    // Here the size is that of all shared experts together.
    let each = groups.moe_shared_expert_intermediate_size.map(|size| size / groups.num_shared_experts.max(1));
    let config = match each {
        Some(size) => {
            config.without(&["moe_shared_expert_intermediate_size"]).or("moe_shared_expert_intermediate_size", size)
        }
        None => config,
    };
    let (c, own, mixture): (_, Own, _) = (config.common()?, config.read()?, Mixture::read(&config)?);
    let (turned, latent) = config.latent(10_000.0)?;
    let latent = Latent {
        norm: Norm { eps: turned.rms_norm_eps, ..latent.norm },
        rope: latent.rope.map(|rope| Rope { traditional: groups.rope_interleave, ..rope }),
        ..latent
    };
    let decoder = c.decoder(false, |index| {
        let layer = c.layer(c.attention()?, own.mlp(&c, &mixture, index)?);
        let mixer = if attends(&c, groups.layer_group_size, index) {
            Mixer::Latent(latent.clone())
        } else {
            let fading = LinearAttention {
                rates: rates(&c, index),
                head_dim: c.head_dim(),
                bias: [c.attention_bias, c.mlp_bias],
                qk_norm: own.use_qk_norm.then(|| c.norm()),
                rope: c.rope(10_000.0)?,
                groups: groups.group_norm_size,
                eps: c.rms_norm_eps,
            };
            Mixer::LinearAttention(fading.checked()?)
        };
        Ok(Layer { mixer: Some(mixer), ..layer })
    })?;
    Ok(Decoder { more_layers: true, renames: RENAMES, ..decoder })
}
