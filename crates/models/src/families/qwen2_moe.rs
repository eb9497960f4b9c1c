//! Qwen1.5 and Qwen2 with experts: every layer a mixture beside a gated unit that works on every token.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Experts, Gated, Head, Router, Shared, Unit};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Mixture {
    num_experts: usize,
    num_experts_per_tok: usize,
    moe_intermediate_size: usize,
    shared_expert_intermediate_size: usize,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "attention_bias"]);
    config.only("decoder_sparse_step", &json!(1))?;
    config.only("mlp_only_layers", &json!([]))?;
    let (c, mixture): (_, Mixture) = (config.common()?, config.read()?);
    let unit = |hidden| Ok::<_, crate::Error>(Gated { hidden, ..c.gated()? });
    let shared = Shared { unit: Unit::Gated(unit(mixture.shared_expert_intermediate_size)?), gated: true };
    let counts = [mixture.num_experts, mixture.num_experts_per_tok];
    let experts = Experts {
        shared: Some(shared),
        ..Experts::new(counts, unit(mixture.moe_intermediate_size)?, Router::softmax(false))
    };
    let rope = c.plain_rope(1_000_000.0)?;
    let decoder = c.decoder(false, |_| {
        let attention = Attention { qkv_bias: true, rope: Some(rope.clone()), ..c.attention()? };
        Ok(c.layer(attention, experts.checked()?))
    })?;
    Ok(Decoder { head: Head::OwnIfPresent, ..decoder })
}
