//! Hunyuan with experts: a norm on each query and key head after the rotation, a mixture beside a shared unit.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::spec::{Attention, Decoder, Experts, Gated, Head, QkNorm, Router, Shared, Unit};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    moe_topk: Value,
    num_experts: usize,
    num_shared_expert: Value,
    use_mixed_mlp_moe: bool,
    use_qk_norm: bool,
    moe_intermediate_size: Option<Value>,
}

/// The number that a key holds for a layer: one for all, or one for each.
fn number(value: &Value, index: usize) -> Result<usize> {
    let one = value.get(index).unwrap_or(value).as_u64();
    one.map(|x| x as usize)
        .ok_or_else(|| Error::invalid(format!("config.json: {value} is no number for layer {index}")))
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    // Layers that see the keys of the layer before, turned and normed anew.
    config.only("use_cla", &json!(false))?;
    let config = config.without(&["head_dim", "mlp_bias"]);
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let rope = c.alpha_rope()?;
    let norm = QkNorm { turned: true, ..QkNorm::from(c.norm()) };
    let qk_norm = own.use_qk_norm.then_some(norm);
    let decoder = c.decoder(true, |index| {
        let dense = c.gated()?;
        let mlp = if own.num_experts == 1 {
            dense.into()
        } else {
            let size = own.moe_intermediate_size.as_ref().map(|size| number(size, index)).transpose()?;
            let unit = Gated { hidden: size.unwrap_or(dense.hidden), ..dense };
            let experts = Experts::new([own.num_experts, number(&own.moe_topk, index)?], unit, Router::softmax(false));
            let beside = dense.hidden.saturating_mul(number(&own.num_shared_expert, index)?);
            let shared = Shared { unit: Unit::Gated(Gated { hidden: beside, ..dense }), gated: false };
            Experts { shared: own.use_mixed_mlp_moe.then_some(shared), ..experts }.checked()?
        };
        Ok(c.layer(Attention { rope: Some(rope.clone()), qk_norm, ..c.attention()? }, mlp))
    })?;
    Ok(Decoder { head: Head::Tied, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    (".query_layernorm.", ".q_norm."),
    (".key_layernorm.", ".k_norm."),
    (".mlp.gate.wg.", ".mlp.gate."),
    (".mlp.shared_mlp.", ".mlp.shared_expert."),
];
