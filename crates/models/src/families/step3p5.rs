//! Step 3.5: windows with heads of their own, a gate on each head, clamped units, a mixture in most layers.

use std::collections::HashMap;

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{Common, Mixture};
use crate::spec::{Attention, Decoder, Experts, Gated, Head, HeadGate, Layer, Norm, Shared, Unit};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    rope_theta: Value,
    yarn_only_types: Vec<String>,
    partial_rotary_factors: Vec<f32>,
    attention_other_setting: Option<HashMap<String, Value>>,
    use_head_wise_attn_gate: bool,
    share_expert_dim: usize,
    moe_layers_enum: String,
    swiglu_limits: Vec<Option<f32>>,
    swiglu_limits_shared: Vec<Option<f32>>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("num_key_value_heads", "num_attention_groups").defaults(json!({
        "rms_norm_eps": 1e-5, "rope_theta": 1e4, "sliding_window": 512,
        "moe_num_experts": 288, "moe_top_k": 8, "moe_intermediate_size": 1280, "moe_router_scaling_factor": 3.0,
        "norm_expert_weight": true, "yarn_only_types": [], "partial_rotary_factors": [], "use_head_wise_attn_gate": true,
        "share_expert_dim": 1280, "moe_layers_enum": "", "swiglu_limits": [], "swiglu_limits_shared": []}));
    let (own, mixture): (Own, _) = (config.read()?, Mixture::read(&config)?);
    let c = config.without(&["rope_theta", "attention_bias", "mlp_bias"]).common()?;
    let (norm, gated) = (Norm { original_offset: 1.0, ..c.norm() }, c.gated()?);
    let listed: Vec<&str> = own.moe_layers_enum.split(',').map(str::trim).collect();
    let sparse = |i: usize| if listed == [""] { i > 0 } else { listed.contains(&i.to_string().as_str()) };
    let decoder = c.decoder(false, |index| {
        let kind = c.layer_types.as_ref().and_then(|types| types.get(index)).map(String::as_str);
        let slides = kind.map_or(index % 2 == 0, |kind| kind == "sliding_attention");
        let base = own.rope_theta.get(index).unwrap_or(&own.rope_theta).as_f64().map(|base| base as f32);
        let part = own.partial_rotary_factors.get(index).copied();
        let mut layer = Common { rope_theta: base, partial_rotary_factor: part, ..c.clone() };
        if let Some(heads) = own.attention_other_setting.as_ref().filter(|_| slides) {
            let count = |key| heads.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
            layer = layer.with_heads(["num_attention_heads", "num_attention_groups"].map(count))?;
        }
        let kinds = &own.yarn_only_types;
        let rope = if kinds.is_empty() || kinds.iter().any(|k| k == kind.unwrap_or("full_attention")) {
            layer.rope(1e4)?
        } else {
            layer.plain_rope(1e4)?
        };
        let gate = own.use_head_wise_attn_gate.then_some(HeadGate::Head(Unary::Sigmoid));
        let window = c.sliding_window.filter(|_| slides);
        let attention = Attention { qk_norm: Some(norm.into()), rope: Some(rope), gate, window, ..layer.attention()? };
        let unit =
            |hidden, limits: &[Option<f32>]| Gated { hidden, ..gated }.clamped(limits.get(index).copied().flatten());
        let beside = |hidden| unit(hidden, &own.swiglu_limits_shared);
        if !sparse(index) {
            return Ok(Layer { norm, ..c.layer(attention, beside(c.intermediate_size).into()) });
        }
        let experts = mixture.experts(&c)?;
        let each = Unit::Gated(unit(experts.unit.hidden(), &own.swiglu_limits));
        let shared = Some(Shared { unit: Unit::Gated(beside(own.share_expert_dim)), gated: false });
        let mlp = Experts { unit: each, shared, ..experts }.checked()?;
        Ok(Layer { norm, ..c.layer(attention, mlp) })
    })?;
    Ok(Decoder { norm, head: Head::OwnIfPresent, more_layers: true, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    (".mlp.share_expert.", ".share_expert."),
    (".share_expert.", ".mlp.shared_expert."),
    (".mlp.gate.gate.", ".mlp.gate."),
    (".gate.router_bias", ".gate.e_score_correction_bias"),
    (".moe.gate.", ".mlp.gate."),
    (".moe.router_bias", ".mlp.gate.e_score_correction_bias"),
    (".moe.", ".mlp.switch_mlp."),
];
