//! Qwen3-Next: the gated delta rule, gated attention in every few layers, and experts beside a gated unit.

use serde::Deserialize;

use crate::config::Common;
use crate::spec::{
    Attention, Decoder, DeltaProjection, Experts, Gated, HeadGate, Layer, Mixer, Mlp, Norm, Router, Shared, Unit,
};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
pub(super) struct Keys {
    full_attention_interval: Option<usize>,
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    decoder_sparse_step: Option<usize>,
    shared_expert_intermediate_size: Option<usize>,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
    moe_intermediate_size: Option<usize>,
    #[serde(default)]
    norm_topk_prob: bool,
}

impl Keys {
    fn mlp(&self, c: &Common, index: usize) -> Result<Mlp> {
        let count = self.num_experts.unwrap_or(0);
        let step = self.decoder_sparse_step.unwrap_or(1).max(1);
        if count == 0 || !(index + 1).is_multiple_of(step) || self.mlp_only_layers.contains(&index) {
            return c.mlp();
        }
        let unit = |hidden: Option<usize>| Ok::<_, Error>(Gated { hidden: hidden.unwrap_or(0), ..c.gated()? });
        let shared = Shared { unit: Unit::Gated(unit(self.shared_expert_intermediate_size)?), gated: true };
        let counts = [count, self.num_experts_per_tok.unwrap_or(0)];
        let experts = Experts::new(counts, unit(self.moe_intermediate_size)?, Router::softmax(self.norm_topk_prob));
        Experts { shared: Some(shared), ..experts }.checked()
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    stack(config, DeltaProjection::ByHead)
}

/// The same with projections stored either way.
pub(super) fn stack(config: &Config, projection: DeltaProjection) -> Result<Decoder> {
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    let norm = Norm { original_offset: 1.0, ..c.norm() };
    let interval = keys.full_attention_interval.unwrap_or(4).max(1);
    let delta = config.without(&["linear_allow_neg_eigval"]).gated_delta(c.norm(), projection)?;
    let decoder = c.decoder(false, |index| {
        let attention = Attention { qk_norm: Some(norm.into()), gate: Some(HeadGate::Query), ..c.attention()? };
        let layer = Layer { norm, ..c.layer(attention, keys.mlp(&c, index)?) };
        let attends = (index + 1).is_multiple_of(interval);
        Ok(if attends { layer } else { Layer { mixer: Some(Mixer::GatedDelta(delta)), ..layer } })
    })?;
    Ok(Decoder { norm, ..decoder })
}
