//! Qwen3 with experts: every `decoder_sparse_step`-th layer is a mixture, the others are dense.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Experts, Gated, JoinedExperts, Router};
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
    let counts = [mixture.num_experts, mixture.num_experts_per_tok];
    let unit = Gated { hidden: mixture.moe_intermediate_size, ..c.gated()? };
    let experts = Experts {
        joined: JoinedExperts::Columns,
        ..Experts::new(counts, unit, Router::softmax(mixture.norm_topk_prob))
    };
    let step = mixture.decoder_sparse_step.unwrap_or(1).max(1);
    let sparse = |index: usize| {
        mixture.num_experts > 0 && (index + 1).is_multiple_of(step) && !mixture.mlp_only_layers.contains(&index)
    };
    let qk_norm = Some(c.norm().into());
    c.decoder(false, |index| {
        let mlp = if sparse(index) { experts.checked()? } else { c.mlp()? };
        Ok(c.layer(Attention { qk_norm, ..c.attention()? }, mlp))
    })
}
