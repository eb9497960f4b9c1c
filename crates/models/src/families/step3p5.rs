//! Step 3.5: windows with heads of their own, a gate on each head, clamped units, a mixture in most layers.

use serde::Deserialize;
use serde_json::Value;

use crate::config::Common;
use crate::spec::{
    Attention, Decoder, Experts, Gate, Gated, Head, HeadGate, Layer, Norm, RopeScaling, Router, Shared, Unit,
};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    rope_theta: Option<Value>,
    yarn_only_types: Option<Vec<String>>,
    partial_rotary_factors: Option<Vec<f32>>,
    attention_other_setting: Option<Heads>,
    use_head_wise_attn_gate: Option<bool>,
    moe_num_experts: Option<usize>,
    moe_top_k: Option<usize>,
    moe_intermediate_size: Option<usize>,
    share_expert_dim: Option<usize>,
    moe_layers_enum: Option<String>,
    moe_router_scaling_factor: Option<f32>,
    norm_expert_weight: Option<bool>,
    swiglu_limits: Option<Vec<Option<f32>>>,
    swiglu_limits_shared: Option<Vec<Option<f32>>>,
}

#[derive(Deserialize)]
struct Heads {
    num_attention_heads: usize,
    num_attention_groups: usize,
}

impl Own {
    /// The layers that are mixtures: all but the first unless they are listed.
    fn sparse(&self) -> Result<impl Fn(usize) -> bool> {
        let list = self.moe_layers_enum.as_deref().filter(|list| !list.is_empty()).map(|list| {
            let index = |part: &str| part.trim().parse::<usize>();
            list.trim().split(',').map(index).collect::<Result<Vec<_>, _>>()
        });
        let list = list.transpose().map_err(|_| Error::invalid("config.json: moe_layers_enum is no list of layers"))?;
        Ok(move |index| list.as_ref().map_or(index > 0, |list| list.contains(&index)))
    }

    /// The keys of one layer, in which lists have become numbers.
    fn layer(&self, index: usize, c: &Common, slides: bool) -> Result<Common> {
        let base = match &self.rope_theta {
            Some(Value::Array(list)) => list.get(index).and_then(Value::as_f64),
            Some(one) => one.as_f64(),
            None => Some(10_000.0),
        };
        let base = base.ok_or_else(|| Error::invalid(format!("config.json: rope_theta names no base for {index}")))?;
        let part = self.partial_rotary_factors.as_ref().and_then(|parts| parts.get(index)).copied();
        let mut layer = Common { rope_theta: Some(base as f32), partial_rotary_factor: part, ..c.clone() };
        if let Some(heads) = self.attention_other_setting.as_ref().filter(|_| slides) {
            layer.num_attention_heads = heads.num_attention_heads;
            layer.num_key_value_heads = Some(heads.num_attention_groups);
        }
        layer.check()?;
        Ok(layer)
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let own: Own = config.read()?;
    let config = config.without(&["rope_theta", "num_key_value_heads", "attention_bias", "mlp_bias"]);
    let c = config.or_key("num_key_value_heads", "num_attention_groups").or("rms_norm_eps", 1e-5).common()?;
    let norm = Norm { original_offset: 1.0, ..c.norm() };
    let sparse = own.sparse()?;
    let gated = |hidden, limits: &Option<Vec<Option<f32>>>, index: usize| {
        let limit = limits.as_ref().and_then(|limits| *limits.get(index)?).filter(|limit| *limit > 0.0);
        Ok::<_, Error>(match limit {
            Some(limit) => Gated { hidden, act: Gate::Clamped { limit }, ..c.gated()? },
            None => Gated { hidden, ..c.gated()? },
        })
    };
    let decoder = c.decoder(false, |index| {
        let kind = c.layer_types.as_ref().filter(|types| !types.is_empty()).and_then(|types| types.get(index));
        let slides = kind.map_or(index % 2 == 0, |kind| kind == "sliding_attention");
        let layer = own.layer(index, &c, slides)?;
        let mut rope = layer.rope(10_000.0)?;
        let stretched = own.yarn_only_types.iter().find(|types| !types.is_empty());
        let name = kind.map_or("full_attention", String::as_str);
        if stretched.is_some_and(|types| !types.iter().any(|t| t == name)) {
            rope.scaling = RopeScaling::None;
        }
        let attention = Attention {
            qk_norm: Some(norm.into()),
            rope: Some(rope),
            gate: own.use_head_wise_attn_gate.unwrap_or(true).then_some(HeadGate::Head),
            window: slides.then_some(c.sliding_window.unwrap_or(512).max(1)),
            ..layer.attention()?
        };
        let shared = |hidden| gated(hidden, &own.swiglu_limits_shared, index);
        let mlp = if sparse(index) {
            let router =
                Router::sigmoid(own.norm_expert_weight.unwrap_or(true), own.moe_router_scaling_factor.unwrap_or(3.0));
            let unit = gated(own.moe_intermediate_size.unwrap_or(1280), &own.swiglu_limits, index)?;
            let counts = [own.moe_num_experts.unwrap_or(288), own.moe_top_k.unwrap_or(8)];
            let beside = Shared { unit: Unit::Gated(shared(own.share_expert_dim.unwrap_or(1280))?), gate: false };
            Experts { shared: Some(beside), ..Experts::new(counts, unit, router) }.checked()?
        } else {
            shared(c.intermediate_size)?.into()
        };
        Ok(Layer { norm, ..c.layer(attention, mlp) })
    })?;
    Ok(Decoder { norm, head: Head::OwnIfPresent, more_layers: true, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    (".mlp.share_expert.", ".share_expert."),
    (".share_expert.", ".mlp.shared_expert."),
    (".mlp.gate.gate.", ".mlp.gate."),
    (".mlp.gate.router_bias", ".mlp.gate.e_score_correction_bias"),
    (".moe.gate.", ".mlp.gate."),
    (".moe.router_bias", ".mlp.gate.e_score_correction_bias"),
    (".moe.", ".mlp.switch_mlp."),
];
