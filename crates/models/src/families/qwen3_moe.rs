//! Qwen3 with experts: every `decoder_sparse_step`-th layer is a mixture, the others are dense.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Experts, Layer, Mixer, Mlp, Residual, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Mixture {
    num_experts: usize,
    num_experts_per_tok: usize,
    moe_intermediate_size: usize,
    decoder_sparse_step: Option<usize>,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
    #[serde(default)]
    norm_topk_prob: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, mixture): (_, Mixture) = (config.common()?, config.read()?);
    let experts = Experts {
        count: mixture.num_experts,
        active: mixture.num_experts_per_tok,
        hidden: mixture.moe_intermediate_size,
        act: c.act()?,
        router: if mixture.norm_topk_prob { Router::SoftmaxOfChosen } else { Router::SoftmaxOfAll },
    };
    let step = mixture.decoder_sparse_step.unwrap_or(1).max(1);
    let sparse = |index: usize| {
        experts.count > 0 && (index + 1).is_multiple_of(step) && !mixture.mlp_only_layers.contains(&index)
    };
    c.decoder(false, |index| {
        Ok(Layer {
            mixer: Some(Mixer::Attention(Attention { qk_norm: Some(c.norm()), ..c.attention()? })),
            mlp: Some(if sparse(index) { Mlp::Experts(experts.checked()?) } else { c.mlp()? }),
            residual: Residual::PreNorm,
            norm: c.norm(),
        })
    })
}
