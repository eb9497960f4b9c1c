//! Laguna: layers with heads, windows and rotations of their own, a gate on each head, a mixture in most layers.

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Common;
use crate::spec::{Attention, Decoder, Experts, Gated, HeadGate, Router, Scores, Shared, Unit};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    qkv_bias: bool,
    gating: bool,
    rope_parameters: Value,
    partial_rotary_factor: Option<f32>,
    num_attention_heads_per_layer: Option<Vec<usize>>,
    mlp_layer_types: Option<Vec<String>>,
    num_experts: usize,
    num_experts_per_tok: usize,
    moe_intermediate_size: usize,
    shared_expert_intermediate_size: usize,
    moe_routed_scaling_factor: f32,
    moe_router_score_func: String,
}

impl Own {
    fn experts(&self, c: &Common) -> Result<Experts> {
        let scores = match self.moe_router_score_func.as_str() {
            "sigmoid" => Scores::Sigmoid,
            "sqrtsoftplus" => Scores::RootSoftplus,
            other => return Err(Error::unsupported(format!("config.json: moe_router_score_func is `{other}`"))),
        };
        let unit = |hidden| Ok::<_, Error>(Gated { hidden, bias: false, ..c.gated()? });
        let router = Router { scores, ..Router::sigmoid(true, self.moe_routed_scaling_factor) };
        let shared = Shared { unit: Unit::Gated(unit(self.shared_expert_intermediate_size)?), gated: false };
        let counts = [self.num_experts, self.num_experts_per_tok];
        Ok(Experts { shared: Some(shared), ..Experts::new(counts, unit(self.moe_intermediate_size)?, router) })
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config
        .only("moe_router_logit_softcapping", &json!(0.0))
        .or_else(|e| config.only("moe_router_logit_softcapping", &json!(0)).map_err(|_| e))?;
    let config = config.without(&["mlp_bias", "hidden_act", "rope_scaling", "rope_theta"]).defaults(json!({
        "vocab_size": 100_352, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6, "qkv_bias": false, "gating": true, "sliding_window": 512, "rope_parameters": {},
        "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512, "moe_routed_scaling_factor": 1.0, "moe_router_score_func": "sigmoid"
    }));
    let (c, own): (_, Own) = (config.without(&["rope_parameters"]).common()?, config.read()?);
    let experts = own.experts(&c)?;
    let decoder = c.decoder(false, |index| {
        let window = c.window(index)?;
        let kind = if window.is_some() { "sliding_attention" } else { "full_attention" };
        let heads = own.num_attention_heads_per_layer.as_ref().and_then(|heads| heads.get(index)).copied();
        let layer = c.with_heads([heads.unwrap_or(c.num_attention_heads), c.kv_heads()])?;
        let turns = own.rope_parameters.get(kind).cloned();
        let part = turns.as_ref().and_then(|turns| turns.get("partial_rotary_factor")).and_then(Value::as_f64);
        let part = part.map(|part| part as f32).or(own.partial_rotary_factor);
        let turns = Common { rope_parameters: turns, partial_rotary_factor: part, ..layer.clone() };
        let attention = Attention {
            qkv_bias: own.qkv_bias,
            qk_norm: Some(c.norm().into()),
            rope: Some(turns.rope(10_000.0)?),
            gate: own.gating.then_some(HeadGate::Head(Unary::Softplus)),
            window,
            ..layer.attention()?
        };
        let sparse =
            own.mlp_layer_types.as_ref().map_or(index > 0, |kinds| kinds.get(index).is_some_and(|k| k == "sparse"));
        Ok(c.layer(attention, if sparse { experts.checked()? } else { c.mlp()? }))
    })?;
    Ok(Decoder { renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] =
    &[(".mlp.gate.proj.", ".mlp.gate."), (".mlp.experts.e_score_correction_bias", ".mlp.gate.e_score_correction_bias")];
