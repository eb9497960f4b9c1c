//! PEFT's layout: `base_model.model.MODULE.lora_A.weight [rank, inputs]` and `lora_B`, other names for embeddings and DoRA,
//! whole tensors for what was trained beside. Which modules have a change, the tensors say; the configuration's targets,
//! lists or regular expressions, only led to them.

use std::collections::BTreeMap;

use mlxengine_tensor::Tensor;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Halves, Parts, unsupported};
use crate::{Error, Result};

#[derive(Deserialize)]
struct Own {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    rank_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    alpha_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    init_lora_weights: Value,
}

/// Keys that change what is computed in ways that are not implemented; harmless where they are null, false or empty.
const REFUSED: &[&str] = &[
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

pub(super) fn read(config: &Value, tensors: Vec<(String, Tensor)>) -> Result<Parts> {
    let own = Own::deserialize(config).map_err(|e| Error::invalid(format!("adapter_config.json: {e}")))?;
    own.check(config)?;
    let mut parts = Parts::default();
    let mut modules: BTreeMap<String, Halves> = BTreeMap::new();
    for (key, tensor) in tensors {
        let name = key.strip_prefix("base_model.model.").unwrap_or(&key);
        let Some((module, part)) = split(name) else {
            let name = name.replace(".modules_to_save.", ".").replace(".base_layer.", ".");
            parts.whole.insert(name, tensor);
            continue;
        };
        let halves = modules.entry(module.to_owned()).or_default();
        let turned = |tensor: Tensor| match tensor.shape().len() {
            2 => Ok(tensor.permute(&[1, 0])),
            _ => Err(Error::invalid(format!("`{key}` is {}, a matrix is expected", tensor.spec()))),
        };
        match part {
            Part::A => halves.a = Some(turned(tensor)?),
            Part::B => halves.b = Some(turned(tensor)?),
            Part::Magnitude => halves.magnitude = Some(tensor),
            Part::Unknown => return Err(unsupported(format!("`{key}` is no part of an adapter that is supported"))),
        }
    }
    for (module, halves) in modules {
        if halves.magnitude.is_some() != own.use_dora {
            let what = if own.use_dora { "has no magnitudes, which DoRA needs" } else { "has magnitudes without DoRA" };
            return Err(Error::invalid(format!("`{module}` {what}")));
        }
        parts.low_rank.insert(module.clone(), halves.join(&module, |rank| own.scale(&module, rank))?);
    }
    Ok(parts)
}

enum Part {
    A,
    B,
    Magnitude,
    Unknown,
}

/// The module and the part that a name stands for; the adapter's own name may be in between, as in `lora_A.default.weight`.
fn split(name: &str) -> Option<(&str, Part)> {
    let at = name.find(".lora_")?;
    let (module, rest) = (&name[..at], &name[at + 1..]);
    let mut words = rest.split('.');
    let first = words.next()?;
    let part = match first {
        _ if words.next_back() == Some("bias") => Part::Unknown,
        "lora_A" | "lora_embedding_A" => Part::A,
        "lora_B" | "lora_embedding_B" => Part::B,
        "lora_magnitude_vector" => Part::Magnitude,
        _ => Part::Unknown,
    };
    Some((module, part))
}

impl Own {
    fn check(&self, config: &Value) -> Result<()> {
        if self.peft_type != "LORA" {
            return Err(unsupported(format!("its peft_type `{}` is not supported: LORA is", self.peft_type)));
        }
        let idle = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        for key in REFUSED {
            if config.get(key).is_some_and(|value| !idle(value)) {
                return Err(unsupported(format!("`{key}` of adapter_config.json is not supported")));
            }
        }
        // Other ways of starting change the base's weights, which a file of the difference does not bring.
        match &self.init_lora_weights {
            Value::Null | Value::Bool(_) => Ok(()),
            Value::String(how) if matches!(how.as_str(), "gaussian" | "eva" | "orthogonal") => Ok(()),
            how => Err(unsupported(format!(
                "`init_lora_weights` {how} changes the weights of the base: convert the adapter to a plain one first"
            ))),
        }
    }

    fn scale(&self, module: &str, rank: usize) -> Result<f32> {
        let told = match pattern(&self.rank_pattern, module)? {
            Some(rank) => rank as usize,
            None => self.r,
        };
        if rank != told || rank == 0 {
            let message = format!("adapter_config.json says rank {told} of `{module}`, and its matrices have {rank}");
            return Err(Error::invalid(message));
        }
        let alpha = pattern(&self.alpha_pattern, module)?.unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        Ok((alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32)
    }
}

/// The number of the first pattern that a module's name ends with.
fn pattern(patterns: &Option<Map<String, Value>>, module: &str) -> Result<Option<f64>> {
    for (key, value) in patterns.iter().flatten() {
        let wrong = |why: String| Error::invalid(format!("the pattern `{key}` of adapter_config.json {why}"));
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$")).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        if regex.is_match(module) {
            let number = value.as_f64().filter(|n| *n >= 0.0);
            return number.map(Some).ok_or_else(|| wrong(format!("has the value {value}, not a number")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(extra: Value) -> Value {
        let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ".*\\.q_proj"});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config
    }

    fn pair(module: &str, rank: usize) -> Vec<(String, Tensor)> {
        [("lora_A.weight", [rank, 8]), ("lora_B.default.weight", [4, rank])]
            .map(|(part, shape)| {
                (
                    format!("base_model.model.{module}.{part}"),
                    Tensor::from_f32(&vec![1.0; rank * shape.iter().sum::<usize>().saturating_sub(rank)], shape),
                )
            })
            .to_vec()
    }

    fn scale(extra: Value, rank: usize) -> Result<f32> {
        let parts = read(&config(extra), pair("model.layers.1.q_proj", rank))?;
        let change = &parts.low_rank["model.layers.1.q_proj"];
        assert_eq!((change.a.shape()[..].to_vec(), change.b.shape()[..].to_vec()), (vec![8, rank], vec![rank, 4]));
        Ok(change.scale)
    }

    #[test]
    fn scales_follow_the_patterns() {
        assert_eq!(scale(json!({}), 2).unwrap(), 4.0);
        assert_eq!(scale(json!({"use_rslora": true, "r": 4}), 4).unwrap(), 4.0);
        assert_eq!(scale(json!({"alpha_pattern": {"k_proj": 1, "q_proj": 6}}), 2).unwrap(), 3.0);
        assert_eq!(scale(json!({"alpha_pattern": {"layers\\.[01]\\.q_proj": 2}}), 2).unwrap(), 1.0);
        assert_eq!(scale(json!({"rank_pattern": {"q_proj": 4}}), 4).unwrap(), 2.0);
        assert_eq!(scale(json!({"rank_pattern": {"_proj": 4}}), 2).unwrap(), 4.0, "a pattern is a whole name");
    }

    #[test]
    fn what_would_change_the_meaning_is_refused_by_name() {
        for (extra, says) in [
            (json!({"peft_type": "IA3"}), "IA3"),
            (json!({"lora_bias": true}), "lora_bias"),
            (json!({"layer_replication": [[0, 4], [2, 5]]}), "layer_replication"),
            (json!({"alora_invocation_tokens": [1, 2]}), "alora_invocation_tokens"),
            (json!({"init_lora_weights": "pissa"}), "pissa"),
            (json!({"alpha_pattern": {"(": 1}}), "pattern"),
            (json!({"r": 3}), "rank"),
            (json!({"use_dora": true}), "DoRA"),
        ] {
            let error = scale(extra, 2).unwrap_err().to_string();
            assert!(error.contains(says), "{error:?} does not say {says}");
        }
    }

    #[test]
    fn what_was_trained_whole_is_kept() {
        let tensor = || Tensor::from_f32(&[1.0; 8], [2, 4]);
        let tensors = ["base_model.model.lm_head.weight", "base_model.model.score.modules_to_save.weight"];
        let tensors = tensors.map(|name| (name.to_owned(), tensor())).to_vec();
        let parts = read(&config(json!({})), tensors).unwrap();
        assert_eq!(parts.whole.keys().collect::<Vec<_>>(), ["lm_head.weight", "score.weight"]);
    }
}
