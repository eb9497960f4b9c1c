//! From a GGUF file's metadata to `config.json`.

use serde_json::{Map, Value, json};

use crate::families::gguf::Architecture;
use crate::{Error, Result};

use super::metadata::Metadata;

/// The configuration, but for what depends on tokens and on how tensors are stored.
pub(super) fn config(m: &Metadata<'_>, architecture: &Architecture) -> Result<Map<String, Value>> {
    let heads = m.need("attention.head_count")?.max(1);
    let hidden = m.need("embedding_length")?;
    let head_dim = m.count("attention.key_length")?.unwrap_or(hidden / heads);
    if m.count("attention.value_length")?.is_some_and(|length| length != head_dim) {
        return Err(Error::unsupported("keys and values of different lengths are not supported by the import"));
    }
    let kv_heads = if architecture.keys_by_layer {
        m.counts("attention.head_count_kv")?.and_then(|list| list.into_iter().max())
    } else {
        m.count("attention.head_count_kv")?
    };
    let base = m.number("rope.freq_base")?.unwrap_or(10_000.0);
    let dims = m.count("rope.dimension_count")?.unwrap_or(head_dim);
    if architecture.turned && dims != head_dim {
        let message =
            format!("rotations of {dims} of a head's {head_dim} numbers are not supported by the import here");
        return Err(Error::unsupported(message));
    }
    let vocabulary = m.file.layout().tensor("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
    let mut config = Map::new();
    for (key, value) in [
        ("architectures", json!([architecture.class])),
        ("model_type", json!(architecture.model_type)),
        ("hidden_size", json!(hidden)),
        ("intermediate_size", json!(m.need("feed_forward_length")?)),
        ("num_hidden_layers", json!(m.need("block_count")?)),
        ("num_attention_heads", json!(heads)),
        ("num_key_value_heads", json!(kv_heads.unwrap_or(heads))),
        ("head_dim", json!(head_dim)),
        ("vocab_size", json!(vocabulary.ok_or_else(|| Error::invalid("the file has no token_embd.weight"))?)),
        ("rope_theta", json!(base)),
        ("hidden_act", json!("silu")),
        ("tie_word_embeddings", json!(!m.has("output.weight"))),
        ("torch_dtype", json!("float16")),
    ] {
        config.insert(key.to_owned(), value);
    }
    if dims != head_dim {
        config.insert("partial_rotary_factor".to_owned(), json!(dims as f64 / head_dim as f64));
    }
    let context = m.count("context_length")?;
    config.extend(context.map(|context| ("max_position_embeddings".to_owned(), json!(context))));
    let eps = m.number("attention.layer_norm_rms_epsilon")?.or(m.number("attention.layer_norm_epsilon")?);
    config.extend(eps.map(|eps| (architecture.eps.to_owned(), json!(eps))));
    config.extend(rope_scaling(m, base, dims)?.map(|scaling| ("rope_scaling".to_owned(), scaling)));
    if m.flag("attention.causal")? == Some(false) {
        return Err(Error::unsupported("the model's attention sees what follows, so it writes no text"));
    }
    config.extend((architecture.keys)(m)?);
    m.all_understood()?;
    Ok(config)
}

/// How rotary frequencies are stretched.
fn rope_scaling(m: &Metadata<'_>, base: f64, dims: usize) -> Result<Option<Value>> {
    let factor = m.number("rope.scaling.factor")?;
    let original = m.count("rope.scaling.original_context_length")?;
    let needed = || factor.ok_or_else(|| Error::invalid("rope scaling has no `rope.scaling.factor`"));
    if let Some(factors) = m.small_tensor("rope_freqs.weight")? {
        return Ok(Some(banded(&factors, base, dims)?));
    }
    Ok(match m.text("rope.scaling.type")? {
        _ if m.has("rope_factors_long.weight") => Some(by_frequency(m, original)?),
        None | Some("none") => m.number("rope.scale_linear")?.filter(|scale| *scale != 1.0).map(linear),
        Some("linear") => Some(linear(needed()?)),
        Some("yarn") => {
            let mut scaling = json!({"rope_type": "yarn", "type": "yarn", "factor": needed()?});
            let original = original.map(|context| ("original_max_position_embeddings", json!(context)));
            let fast = m.number("rope.scaling.yarn_beta_fast")?.map(|n| ("beta_fast", json!(n)));
            let slow = m.number("rope.scaling.yarn_beta_slow")?.map(|n| ("beta_slow", json!(n)));
            for (key, value) in [original, fast, slow].into_iter().flatten() {
                scaling[key] = value;
            }
            Some(scaling)
        }
        Some(other) => {
            return Err(Error::unsupported(format!("rope scaling `{other}` is not supported by the import")));
        }
    })
}

fn linear(factor: f64) -> Value {
    json!({"rope_type": "linear", "type": "linear", "factor": factor})
}

/// The stretch that divides each frequency by a factor of its own.
fn by_frequency(m: &Metadata<'_>, original: Option<usize>) -> Result<Value> {
    let tensor = |name: &str| {
        m.small_tensor(name)?.ok_or_else(|| Error::invalid(format!("rope scaling has no tensor `{name}`")))
    };
    // Its attention factor follows from the two contexts.
    m.number("rope.scaling.attn_factor")?;
    Ok(json!({
        "rope_type": "longrope", "type": "longrope", "original_max_position_embeddings": original,
        "long_factor": tensor("rope_factors_long.weight")?, "short_factor": tensor("rope_factors_short.weight")?,
    }))
}

/// GGUF has the factors of a stretch that spares high frequencies; `config.json` what they were computed from. Frequencies that turn
/// less than once in the context are divided by one factor, those that turn more than four times by none, as in all known models;
/// a factor between says how long the context was, and all together whether this is so.
fn banded(factors: &[f64], base: f64, dims: usize) -> Result<Value> {
    const BANDS: [f64; 2] = [1.0, 4.0];
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let wavelength = |i: usize| 2.0 * std::f64::consts::PI * base.powf(2.0 * i as f64 / dims as f64);
    // Where between the bands a frequency lies: 0 is divided by the whole factor, 1 by none.
    let smooth = |divided: f64| (1.0 / divided - 1.0 / factor) / (1.0 - 1.0 / factor);
    let between = factors.iter().position(|divided| (0.02..0.98).contains(&smooth(*divided)));
    let context =
        between.map_or(8192.0, |i| (wavelength(i) * (BANDS[0] + smooth(factors[i]) * (BANDS[1] - BANDS[0]))).round());
    let expected = |i: usize| {
        let place = ((context / wavelength(i) - BANDS[0]) / (BANDS[1] - BANDS[0])).clamp(0.0, 1.0);
        1.0 / ((1.0 - place) / factor + place)
    };
    let near = |(i, got): (usize, &f64)| (got / expected(i) - 1.0).abs() < 1e-3;
    if factors.len() != dims / 2 || !factors.iter().enumerate().all(near) {
        return Err(Error::unsupported(
            "tensor `rope_freqs.weight` stretches frequencies in a way that is not supported by the import",
        ));
    }
    Ok(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": BANDS[0], "high_freq_factor": BANDS[1],
        "original_max_position_embeddings": context as u64,
    }))
}
