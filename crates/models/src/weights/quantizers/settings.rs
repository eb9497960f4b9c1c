//! What a configuration says about how its weights were quantized.

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Checkpoint, Error, ErrorKind, Result};

/// The tool that quantized a checkpoint in a layout of its own, and what of its rules the tensors do not show.
#[derive(Clone, Debug)]
pub(in crate::weights) enum Quantizer {
    Awq,
    /// Zeros may be stored less one.
    Gptq {
        one_less: bool,
    },
    /// Floats of eight or four bits under a method's name, with scales of such blocks, which may all be powers of two.
    Floats {
        name: &'static str,
        block: Option<[usize; 2]>,
        powers: bool,
    },
    /// Three values a weight (Ma et al. 2024), times one number a matrix, or over it.
    Ternary {
        divides: bool,
    },
    CompressedTensors {
        groups: Vec<Group>,
        ignore: Vec<Target>,
    },
}

/// What a configuration tells of one module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) bits: Option<u32>,
    /// Rows and columns that share a scale.
    pub(super) block: Option<[usize; 2]>,
    /// Whether all scales are powers of two.
    pub(super) powers: bool,
    /// Whether codes count from a zero of each group.
    pub(super) zeros: bool,
}

/// Modules that are quantized alike.
#[derive(Clone, Debug)]
pub(in crate::weights) struct Group {
    targets: Vec<Target>,
    told: Told,
}

/// Which modules are meant.
#[derive(Clone, Debug)]
pub(in crate::weights) enum Target {
    /// All of a class: what is quantized here is linear.
    Linear,
    Name(String),
    /// Names that begin so.
    Pattern(Regex),
}

impl Target {
    fn read(text: &str) -> Result<Self> {
        Ok(match text.strip_prefix("re:") {
            Some(pattern) => Target::Pattern(Regex::new(&format!("^(?:{pattern})")).map_err(|e| {
                unsupported(format!("the pattern `{pattern}` of config.json's quantization_config cannot be read: {e}"))
            })?),
            None if text == "Linear" => Target::Linear,
            None => Target::Name(text.to_owned()),
        })
    }

    fn means(&self, module: &str) -> bool {
        match self {
            Target::Linear => true,
            Target::Name(name) => name == module,
            Target::Pattern(pattern) => pattern.is_match(module),
        }
    }
}

impl Quantizer {
    /// What the configuration says; `None` if the weights are in MLX's layouts or plain.
    ///
    /// # Errors
    /// For a mode, a method or a setting that is not known, by its name.
    pub(in crate::weights) fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        if let Some(q) = checkpoint.config.get("quantization") {
            let mode = q.get("mode").and_then(Value::as_str).unwrap_or("affine");
            if matches!(mode, "affine" | "mxfp4" | "mxfp8" | "nvfp4") {
                return Ok(None);
            }
            return Err(unsupported(format!(
                "quantization mode `{mode}` is not known: affine, mxfp4, mxfp8 and nvfp4 are"
            )));
        }
        let text = checkpoint.config.text();
        let own = checkpoint.config.get("quantization_config").or_else(|| text.get("quantization_config")).cloned();
        let settings = match own {
            Some(settings) => settings,
            // NVIDIA's tool writes a file of its own, as the first versions of others did.
            None => match checkpoint.source.json("hf_quant_config.json")? {
                Some(settings) => settings,
                None => return Self::beside(checkpoint),
            },
        };
        Self::read(&settings).map(Some)
    }

    /// What a file of AutoGPTQ or AutoAWQ says that lies beside a configuration without a word of them, where weights are theirs.
    fn beside(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        if !checkpoint.tensors.iter().any(|(name, _)| name.ends_with(".qweight")) {
            return Ok(None);
        }
        for file in ["quantize_config.json", "quant_config.json"] {
            let Some(settings) = checkpoint.source.json(file)? else { continue };
            // The first versions name no method, but each has keys of its own.
            let has = |key: &str| settings.get(key).is_some();
            let quantizer = match settings.get("quant_method") {
                None if has("w_bit") => awq(&settings),
                None if has("desc_act") => gptq(&settings),
                _ => Self::read(&settings),
            };
            return quantizer.map(Some).map_err(|e| Error::new(e.kind(), format!("{file}: {e}")));
        }
        Ok(None)
    }

    fn read(settings: &Value) -> Result<Self> {
        let text = |key: &str| settings.get(key).and_then(Value::as_str);
        // What ModelOpt writes is nested in its own file.
        let nested = settings.get("quantization").unwrap_or(settings);
        let method = text("quant_method").or_else(|| nested.get("quant_algo").map(|_| "modelopt"));
        match method.unwrap_or("unnamed") {
            "awq" => awq(settings),
            "gptq" => gptq(settings),
            "bitnet" => ternary(settings),
            "fp8" => fp8(settings),
            // Experts in blocks, which are found by their names.
            "mxfp4" => Ok(Self::Floats { name: "mxfp4", block: None, powers: true }),
            "mxfp8" => Ok(Self::Floats { name: "mxfp8", block: block(settings)?, powers: true }),
            "modelopt" => modelopt(nested),
            "compressed-tensors" => compressed(settings),
            other => Err(refused(other)),
        }
    }

    /// What messages and summaries call it.
    pub(in crate::weights) fn name(&self) -> &'static str {
        match self {
            Quantizer::Awq => "AWQ",
            Quantizer::Gptq { .. } => "GPTQ",
            Quantizer::Floats { name, .. } => name,
            Quantizer::Ternary { .. } => "BitNet",
            Quantizer::CompressedTensors { .. } => "compressed-tensors",
        }
    }

    /// What the configuration tells of a module, by its name in the files.
    ///
    /// # Errors
    /// If it says that the module is not quantized, which its tensors contradict.
    pub(super) fn told(&self, module: &str) -> Result<Told> {
        match self {
            Quantizer::Awq | Quantizer::Gptq { .. } | Quantizer::Ternary { .. } => Ok(Told::default()),
            Quantizer::Floats { block, powers, .. } => Ok(Told { block: *block, powers: *powers, ..Told::default() }),
            Quantizer::CompressedTensors { groups, ignore } => {
                let means = |target: &Target| target.means(module);
                let group = groups.iter().find(|group| group.targets.iter().any(means));
                match group {
                    Some(group) if !ignore.iter().any(means) => Ok(group.told),
                    _ => Err(Error::invalid(format!(
                        "`{module}` is quantized, and config.json's quantization_config leaves it out: they do not belong together"
                    ))),
                }
            }
        }
    }
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::UnsupportedQuantization, message)
}

fn refused(what: &str) -> Error {
    unsupported(format!(
        "quantization `{what}` is not supported: take an MLX or an unquantized version of this checkpoint"
    ))
}

/// Refuses another value of a key than those that are supported; none counts as the first.
fn only(settings: &Value, method: &str, key: &str, supported: &[Value]) -> Result<()> {
    let plain = |value: &Value| match value.as_str() {
        Some(text) => Value::from(text.to_lowercase()),
        None => value.clone(),
    };
    match settings.get(key).filter(|value| !value.is_null()) {
        Some(value) if !supported.contains(&plain(value)) => Err(refused(&format!("{method} with {key} {value}"))),
        _ => Ok(()),
    }
}

fn awq(settings: &Value) -> Result<Quantizer> {
    only(settings, "awq", "version", &["gemm".into()])?;
    only(settings, "awq", "backend", &["autoawq".into()])?;
    only(settings, "awq", "bits", &[4.into()])?;
    only(settings, "awq", "w_bit", &[4.into()])?;
    Ok(Quantizer::Awq)
}

fn gptq(settings: &Value) -> Result<Quantizer> {
    only(settings, "gptq", "checkpoint_format", &["gptq".into(), "gptq_v2".into()])?;
    only(settings, "gptq", "is_marlin_format", &[false.into()])?;
    only(settings, "gptq", "bits", &[2.into(), 3.into(), 4.into(), 8.into()])?;
    only(settings, "gptq", "pack_dtype", &["int32".into()])?;
    let second = settings.get("checkpoint_format").and_then(Value::as_str) == Some("gptq_v2");
    Ok(Quantizer::Gptq { one_less: !second })
}

fn ternary(settings: &Value) -> Result<Quantizer> {
    only(settings, "bitnet", "linear_class", &["bitlinear".into(), "autobitlinear".into()])?;
    only(settings, "bitnet", "quantization_mode", &["offline".into()])?;
    only(settings, "bitnet", "use_rms_norm", &[false.into()])?;
    let class = settings.get("linear_class").and_then(Value::as_str);
    Ok(Quantizer::Ternary { divides: !class.is_some_and(|class| class.eq_ignore_ascii_case("autobitlinear")) })
}

fn fp8(settings: &Value) -> Result<Quantizer> {
    only(settings, "fp8", "fmt", &["e4m3".into()])?;
    only(settings, "fp8", "scale_fmt", &["float".into(), "ue8m0".into()])?;
    let powers = settings.get("scale_fmt").and_then(Value::as_str) == Some("ue8m0");
    Ok(Quantizer::Floats { name: "fp8", block: block(settings)?, powers })
}

fn block(settings: &Value) -> Result<Option<[usize; 2]>> {
    settings.get("weight_block_size").filter(|value| !value.is_null()).map(sizes).transpose()
}

/// Two sizes, in a list or as `128x128`.
fn sizes(value: &Value) -> Result<[usize; 2]> {
    let numbers: Option<Vec<usize>> = match value {
        Value::Array(list) => list.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect(),
        Value::String(text) => text.split('x').map(|n| n.trim().parse().ok()).collect(),
        _ => None,
    };
    match numbers.as_deref() {
        Some(&[down, across]) if down > 0 && across > 0 => Ok([down, across]),
        _ => Err(Error::invalid(format!(
            "config.json: a block of weights is {value}, and two positive numbers are needed"
        ))),
    }
}

fn modelopt(settings: &Value) -> Result<Quantizer> {
    let algorithm = |settings: &Value| {
        let name = settings.get("quant_algo").and_then(Value::as_str).unwrap_or("unnamed").to_uppercase();
        match name.as_str() {
            "NVFP4" | "FP8" => Ok(()),
            other => Err(refused(&format!("modelopt {other}"))),
        }
    };
    match settings.get("quantized_layers").and_then(Value::as_object) {
        Some(layers) => layers.values().try_for_each(algorithm)?,
        None => algorithm(settings)?,
    }
    Ok(Quantizer::Floats { name: "ModelOpt", block: None, powers: false })
}

#[derive(Deserialize)]
struct CompressedKeys {
    format: Option<String>,
    #[serde(default)]
    config_groups: Map<String, Value>,
    #[serde(default)]
    ignore: Vec<String>,
    sparsity_config: Option<Value>,
    transform_config: Option<Value>,
}

#[derive(Deserialize)]
struct GroupKeys {
    targets: Vec<String>,
    weights: Option<WeightKeys>,
    format: Option<String>,
}

#[derive(Deserialize)]
struct WeightKeys {
    num_bits: u32,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    symmetric: Option<bool>,
    block_structure: Option<Value>,
}

fn compressed(settings: &Value) -> Result<Quantizer> {
    let wrong = |e: serde_json::Error| Error::invalid(format!("config.json: quantization_config: {e}"));
    let keys: CompressedKeys = serde_json::from_value(settings.clone()).map_err(wrong)?;
    let sparse = keys.sparsity_config.as_ref().and_then(|config| config.get("format")).and_then(Value::as_str);
    if let Some(format) = sparse.filter(|format| *format != "dense") {
        return Err(refused(&format!("compressed-tensors with sparsity {format}")));
    }
    let turns = keys.transform_config.as_ref().and_then(|config| config.get("config_groups")).unwrap_or(&Value::Null);
    if turns.as_object().is_some_and(|groups| !groups.is_empty()) {
        return Err(refused("compressed-tensors with transforms of activations"));
    }
    known(keys.format.as_deref())?;
    let mut groups = Vec::new();
    for group in keys.config_groups.into_iter().map(|(_, group)| group) {
        let group: GroupKeys = serde_json::from_value(group).map_err(wrong)?;
        known(group.format.as_deref())?;
        let Some(weights) = group.weights else { continue };
        let told = Told {
            bits: Some(weights.num_bits),
            block: weights.block_structure.as_ref().filter(|value| !value.is_null()).map(sizes).transpose()?,
            powers: false,
            zeros: weights.symmetric == Some(false) && weights.kind.as_deref() != Some("float"),
        };
        groups.push(Group { targets: targets(&group.targets)?, told });
    }
    Ok(Quantizer::CompressedTensors { groups, ignore: targets(&keys.ignore)? })
}

fn targets(texts: &[String]) -> Result<Vec<Target>> {
    texts.iter().map(|text| Target::read(text)).collect()
}

/// Refuses a format of compressed-tensors that is not known.
fn known(format: Option<&str>) -> Result<()> {
    const FORMATS: &[&str] = &[
        "dense",
        "float-quantized",
        "int-quantized",
        "mixed-precision",
        "mxfp4-pack-quantized",
        "mxfp8-quantized",
        "naive-quantized",
        "nvfp4-pack-quantized",
        "pack-quantized",
    ];
    match format {
        Some(format) if !FORMATS.contains(&format) => Err(refused(&format!("compressed-tensors {format}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_supported_is_named() {
        for (settings, says) in [
            (json!({"quant_method": "hqq"}), "`hqq`"),
            (json!({"bits": 4}), "`unnamed`"),
            (json!({"quant_method": "awq", "version": "gemv"}), "awq with version \"gemv\""),
            (json!({"quant_method": "awq", "bits": 3}), "awq with bits 3"),
            (json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), "checkpoint_format \"marlin\""),
            (json!({"quant_method": "gptq", "bits": 5}), "gptq with bits 5"),
            (json!({"quant_method": "fp8", "fmt": "e5m2"}), "fmt \"e5m2\""),
            (json!({"quant_method": "bitnet", "quantization_mode": "online"}), "quantization_mode \"online\""),
            (json!({"quant_method": "bitnet", "use_rms_norm": true}), "use_rms_norm true"),
            (json!({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}), "modelopt W4A8_AWQ"),
            (json!({"quantization": {"quant_algo": "NVFP4_AWQ"}}), "modelopt NVFP4_AWQ"),
            (json!({"quant_method": "compressed-tensors", "format": "marlin-24"}), "compressed-tensors marlin-24"),
            (
                json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}),
                "sparse-24-bitmask",
            ),
        ] {
            let error = Quantizer::read(&settings).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnsupportedQuantization, "{settings}");
            assert!(error.to_string().contains(says), "{error} does not say {says}");
            assert!(error.to_string().contains("unquantized version"), "{error}");
        }
        let block = json!({"quant_method": "fp8", "weight_block_size": [0, 128]});
        assert!(Quantizer::read(&block).unwrap_err().to_string().contains("[0,128]"));
    }

    #[test]
    fn modules_are_told_apart_by_name() {
        let weights = |bits| json!({"num_bits": bits, "type": "int", "symmetric": bits == 4});
        let settings = json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
            "ignore": ["lm_head", "re:.*mlp.gate$"], "config_groups": {
                "group_0": {"targets": ["re:.*down_proj"], "weights": weights(8)},
                "group_1": {"targets": ["Linear"], "weights": weights(4)},
                "group_2": {"targets": ["Linear"], "weights": null}}});
        let quantizer = Quantizer::read(&settings).unwrap();
        let told = |module: &str| quantizer.told(module).map(|told| (told.bits, told.zeros));
        assert_eq!(told("model.layers.0.mlp.down_proj").unwrap(), (Some(8), true));
        assert_eq!(told("model.layers.0.mlp.gate_proj").unwrap(), (Some(4), false));
        for module in ["lm_head", "model.layers.0.mlp.gate"] {
            assert!(told(module).unwrap_err().to_string().contains("leaves it out"), "{module}");
        }
        let odd = json!({"quant_method": "compressed-tensors", "ignore": ["re:("]});
        assert!(Quantizer::read(&odd).unwrap_err().to_string().contains("`(`"));
    }

    /// The same with one value after another replaced by odd ones.
    fn damaged(value: &Value) -> Vec<Value> {
        let mut all = vec![json!(null), json!(-1), json!(1e300), json!("x"), json!([0]), json!({"a": []}), json!(true)];
        let Value::Object(map) = value else { return all };
        for (key, value) in map {
            let with = |value| Value::Object(map.clone().into_iter().chain([(key.clone(), value)]).collect());
            all.extend(damaged(value).into_iter().map(with));
        }
        all
    }

    #[test]
    fn settings_of_any_kind_are_read_or_refused() {
        let weights = json!({"num_bits": 4, "type": "int", "symmetric": true, "block_structure": "128x128"});
        let all = [
            json!({"quant_method": "awq", "bits": 4, "version": "gemm"}),
            json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq"}),
            json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}),
            json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}),
            json!({"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "FP8"}}}}),
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["re:.*gate"],
                "sparsity_config": {"format": "dense"}, "transform_config": {"config_groups": {}},
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": "dense"}}}),
        ];
        for settings in all {
            assert!(Quantizer::read(&settings).is_ok(), "{settings}");
            for odd in damaged(&settings) {
                match Quantizer::read(&odd) {
                    Ok(quantizer) => drop(quantizer.told("model.layers.0.mlp.gate")),
                    Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
                }
            }
        }
    }
}
