//! The keys of mixtures whose router scores by sigmoid and may choose by groups, which many families share.

use serde::Deserialize;
use serde_json::json;

use super::{Common, Config};
use crate::Result;
use crate::spec::{Experts, Gated, Groups, Mlp, Router, Shared, Unit};

/// A mixture beside shared experts, in all but the first layers.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Mixture {
    #[serde(alias = "moe_num_experts", alias = "num_experts")]
    n_routed_experts: Option<usize>,
    #[serde(alias = "moe_top_k")]
    num_experts_per_tok: usize,
    moe_intermediate_size: usize,
    #[serde(alias = "num_shared_experts")]
    n_shared_experts: Option<usize>,
    #[serde(alias = "moe_router_scaling_factor")]
    routed_scaling_factor: Option<f32>,
    #[serde(default, alias = "norm_expert_weight")]
    norm_topk_prob: bool,
    n_group: Option<usize>,
    topk_group: Option<usize>,
    #[serde(default)]
    first_k_dense_replace: usize,
}

impl Mixture {
    /// The name that files give to the unit beside the chosen ones, and ours.
    pub(crate) const SHARED: (&str, &str) = (".mlp.shared_experts.", ".mlp.shared_expert.");

    pub(crate) fn read(config: &Config) -> Result<Self> {
        config.only("topk_method", &json!("noaux_tc"))?;
        config.read()
    }

    /// What works in layer `index`.
    pub(crate) fn mlp(&self, c: &Common, index: usize) -> Result<Mlp> {
        match self.n_routed_experts {
            Some(_) if index >= self.first_k_dense_replace => self.experts(c)?.checked(),
            _ => c.mlp(),
        }
    }

    /// The mixture.
    pub(crate) fn experts(&self, c: &Common) -> Result<Experts> {
        let unit = Gated { hidden: self.moe_intermediate_size, bias: false, ..c.gated()? };
        let beside = |count| Gated { hidden: unit.hidden.saturating_mul(count), bias: c.mlp_bias, ..unit };
        let shared = self.n_shared_experts.filter(|count| *count > 0).map(beside);
        let normalize = self.norm_topk_prob && self.num_experts_per_tok > 1;
        let router = Router {
            groups: Groups::of(self.n_group.unwrap_or(1), self.topk_group.unwrap_or(1), 2),
            ..Router::sigmoid(normalize, self.routed_scaling_factor.unwrap_or(1.0))
        };
        let counts = [self.n_routed_experts.unwrap_or(0), self.num_experts_per_tok];
        let shared = shared.map(|unit| Shared { unit: Unit::Gated(unit), gated: false });
        Ok(Experts { shared, ..Experts::new(counts, unit, router) })
    }
}
