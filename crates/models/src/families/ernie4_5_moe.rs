//! ERNIE 4.5 with experts: neighbours turn, and a mixture beside shared experts works in some of the layers.

use serde::Deserialize;
use serde_json::Value;

use crate::spec::{Attention, Decoder, Experts, Gated, Router, Scores, Shared, Unit};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    moe_num_experts: usize,
    moe_k: Option<usize>,
    moe_intermediate_size: Option<usize>,
    moe_num_shared_experts: Option<usize>,
    moe_layer_start_index: Option<Value>,
    moe_layer_end_index: Option<Value>,
    moe_layer_interval: Option<usize>,
    moe_gate_act: Option<String>,
}

/// The numbers that a key holds: one or several.
fn numbers(value: Option<&Value>) -> impl Iterator<Item = usize> {
    let one = value.and_then(Value::as_u64);
    let several = value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_u64);
    one.into_iter().chain(several).map(|x| x as usize)
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["attention_bias", "mlp_bias"]);
    let config = config.or_key("attention_bias", "use_bias").or_key("mlp_bias", "use_bias");
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let scores = match own.moe_gate_act.as_deref().unwrap_or("softmax") {
        "softmax" => Scores::Softmax,
        "sigmoid" => Scores::Sigmoid,
        other => return Err(Error::unsupported(format!("config.json: moe_gate_act is `{other}`"))),
    };
    let hidden = own.moe_intermediate_size.filter(|size| *size > 0).unwrap_or(c.intermediate_size);
    let unit = Gated { hidden, ..c.gated()? };
    let shared = own.moe_num_shared_experts.filter(|count| *count > 0).map(|count| Shared {
        unit: Unit::Gated(Gated { hidden: hidden.saturating_mul(count), ..unit }),
        gated: false,
    });
    let router = Router { scores, ..Router::softmax(true) };
    let experts = Experts { shared, ..Experts::new([own.moe_num_experts, own.moe_k.unwrap_or(1)], unit, router) };
    let first = numbers(own.moe_layer_start_index.as_ref()).min().unwrap_or(0);
    let last = numbers(own.moe_layer_end_index.as_ref()).max().unwrap_or(usize::MAX);
    let interval = own.moe_layer_interval.unwrap_or(1).max(1);
    let rope = c.plain_rope(10_000.0)?.neighbours();
    let decoder = c.decoder(false, |index| {
        let sparse = (index + 1).is_multiple_of(interval) && (first..=last).contains(&index);
        let mlp = if sparse { experts.checked()? } else { c.mlp()? };
        Ok(c.layer(Attention { rope: Some(rope.clone()), ..c.attention()? }, mlp))
    })?;
    Ok(Decoder { renames: &[crate::config::Mixture::SHARED], ..decoder })
}
