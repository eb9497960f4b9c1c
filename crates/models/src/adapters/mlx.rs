//! MLX's layout, as `mlx_lm.lora` writes it: `MODULE.lora_a`, `MODULE.lora_b`, for DoRA `MODULE.m`, or whole tensors.

use std::collections::BTreeMap;

use mlxengine_tensor::Tensor;
use serde_json::Value;

use super::{Halves, Parts, unsupported};
use crate::{Error, Result};

pub(super) fn read(config: &Value, tensors: Vec<(String, Tensor)>) -> Result<Parts> {
    let kind = config.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
    match kind {
        "full" => return Ok(Parts { whole: tensors.into_iter().collect(), ..Parts::default() }),
        "lora" | "dora" => {}
        other => {
            let message = format!("its fine_tune_type `{other}` is not known: lora, dora and full are");
            return Err(unsupported(message));
        }
    }
    let scale = config.get("lora_parameters").and_then(|p| p.get("scale")).and_then(Value::as_f64);
    let scale = scale.ok_or_else(|| Error::invalid("adapter_config.json says no `lora_parameters.scale`"))? as f32;
    let mut modules: BTreeMap<String, Halves> = BTreeMap::new();
    for (name, tensor) in tensors {
        let Some((module, part)) = name.rsplit_once('.') else { return Err(unknown(&name)) };
        let halves = modules.entry(module.to_owned()).or_default();
        *match part {
            "lora_a" => &mut halves.a,
            "lora_b" => &mut halves.b,
            "m" if kind == "dora" => &mut halves.magnitude,
            _ => return Err(unknown(&name)),
        } = Some(tensor);
    }
    let mut parts = Parts::default();
    for (module, halves) in modules {
        if kind == "dora" && halves.magnitude.is_none() {
            return Err(Error::invalid(format!("`{module}` has no magnitudes `m`, which DoRA needs")));
        }
        parts.low_rank.insert(module.clone(), halves.join(&module, |_| Ok(scale))?);
    }
    Ok(parts)
}

fn unknown(name: &str) -> Error {
    Error::invalid(format!("`{name}` is no part of a LoRA or DoRA adapter in MLX's layout"))
}
