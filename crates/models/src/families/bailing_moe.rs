//! Ling and Ring: joined projections under other names, a router over experts beside shared ones.

use serde::Deserialize;
use serde_json::json;

use super::bailing_moe_linear::keys;
use crate::config::{Common, Mixture};
use crate::spec::{Attention, Decoder, Experts, Gated, Mlp, Projection, Router, Scores, Shared, Unit};
use crate::{Config, Result};

#[derive(Deserialize)]
pub(super) struct Own {
    num_experts: Option<usize>,
    num_shared_experts: usize,
    first_k_dense_replace: usize,
    #[serde(default)]
    pub(super) use_qk_norm: bool,
    rotary_dim: Option<usize>,
    moe_router_enable_expert_bias: Option<bool>,
    score_function: Option<String>,
    moe_shared_expert_intermediate_size: Option<usize>,
    moe_router_enable_shared_expert: Option<bool>,
}

impl Own {
    /// What works in layer `index`.
    pub(super) fn mlp(&self, c: &Common, mixture: &Mixture, index: usize) -> Result<Mlp> {
        if self.num_experts.is_none() || index < self.first_k_dense_replace {
            return c.mlp();
        }
        let experts = mixture.experts(c)?;
        let unit = Gated { hidden: experts.unit.hidden(), ..c.gated()? };
        let hidden = self.moe_shared_expert_intermediate_size.filter(|size| *size > 0).unwrap_or(unit.hidden);
        let beside = Unit::Gated(Gated { hidden: hidden.saturating_mul(self.num_shared_experts), ..unit });
        let shared = self.num_shared_experts > 0 && self.moe_router_enable_shared_expert.unwrap_or(true);
        let sigmoid = self.score_function.as_deref() == Some("sigmoid");
        let router = Router {
            scores: if sigmoid { Scores::Sigmoid } else { Scores::Softmax },
            correction: self.moe_router_enable_expert_bias.unwrap_or(false),
            ..experts.router
        };
        let shared = shared.then_some(Shared { unit: beside, gated: false });
        Experts { unit: Unit::Gated(unit), shared, router, ..experts }.checked()
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = keys(config).without(&["head_dim"]);
    // The reference divides the head's rows at loading, even those of a converted checkpoint.
    config.only("norm_head", &json!(false))?;
    let (c, own, mixture): (_, Own, _) = (config.common()?, config.read()?, Mixture::read(&config)?);
    let mut rope = c.rope(10_000.0)?;
    if let Some(dims) = own.rotary_dim {
        rope = c.rope_stretched(c.rope_of(dims, rope.base)?)?;
    }
    let decoder = c.decoder(false, |index| {
        let attention = Attention {
            projection: Projection::Joined,
            out_bias: c.mlp_bias,
            qk_norm: own.use_qk_norm.then_some(c.norm().into()),
            rope: Some(rope.clone()),
            ..c.attention()?
        };
        Ok(c.layer(attention, own.mlp(&c, &mixture, index)?))
    })?;
    Ok(Decoder { renames: RENAMES, ..decoder })
}

pub(super) const RENAMES: &[(&str, &str)] = &[
    ("^model.word_embeddings.", "^model.embed_tokens."),
    (".attention.", ".self_attn."),
    (".query_key_value.", ".qkv_proj."),
    (".self_attn.dense.", ".self_attn.o_proj."),
    (".query_layernorm.", ".q_norm."),
    (".key_layernorm.", ".k_norm."),
    (".mlp.gate.gate_proj.", ".mlp.gate."),
    (".mlp.gate.expert_bias", ".mlp.gate.e_score_correction_bias"),
    Mixture::SHARED,
];
