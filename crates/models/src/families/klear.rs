//! Klear: a mixture and a unit beside it, whose shares a softmax weighs.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Experts, Gated, Head, Router, Shared, SharedGate, Unit};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    mlp_only_layers: Vec<usize>,
    num_experts: usize,
    num_experts_per_tok: usize,
    decoder_sparse_step: usize,
    n_shared_experts: usize,
    moe_intermediate_size: usize,
    norm_topk_prob: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "mlp_bias", "rope_scaling", "rope_parameters", "hidden_act"]);
    let (c, own): (_, Own) = (config.without(&["partial_rotary_factor"]).common()?, config.read()?);
    let unit = |hidden| Ok::<_, crate::Error>(Gated { hidden, ..c.gated()? });
    let beside = unit(own.moe_intermediate_size.saturating_mul(own.n_shared_experts))?;
    let router = Router { eps: 0.0, ..Router::sigmoid(own.norm_topk_prob, 1.0) };
    let experts = Experts {
        shared: Some(Shared { unit: Unit::Gated(beside), gate: Some(SharedGate::Balance) }),
        ..Experts::new([own.num_experts, own.num_experts_per_tok], unit(own.moe_intermediate_size)?, router)
    };
    let decoder = c.decoder(false, |index| {
        let attention = Attention { qk_norm: Some(c.norm().into()), ..c.attention()? };
        let step = (index + 1).is_multiple_of(own.decoder_sparse_step.max(1));
        let sparse = own.num_experts > 0 && step && !own.mlp_only_layers.contains(&index);
        Ok(c.layer(attention, if sparse { experts.checked()? } else { c.mlp()? }))
    })?;
    let renames =
        &[(".mlp.shared_experts.", ".mlp.shared_expert."), (".mlp.expert_bias", ".mlp.gate.e_score_correction_bias")];
    Ok(Decoder { head: Head::Own, renames, ..decoder })
}
