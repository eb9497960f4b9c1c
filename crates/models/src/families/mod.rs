//! The families: one small file each, which reads `config.json` into a [`Decoder`] value.

use crate::spec::Decoder;
use crate::{Config, Error, Result};

mod bailing_moe;
mod cohere;
mod cohere2;
mod dots1;
mod ernie4_5;
mod ernie4_5_moe;
mod exaone;
mod exaone4;
mod exaone_moe;
mod gemma;
mod gemma2;
mod gemma3_text;
mod glm;
mod glm4;
mod glm4_moe;
mod gpt2;
mod gpt_oss;
mod granite;
mod helium;
mod hunyuan_v1_dense;
mod internlm2;
mod internlm3;
mod lfm2;
mod llama;
mod llama4;
mod mimo;
mod mimo_v2_flash;
mod minicpm;
mod ministral3;
mod mistral3;
mod mixtral;
mod nemotron;
mod olmo2;
mod olmo3;
mod olmoe;
mod phi;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod qwen3_vl;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod step3p5;

/// A family of models.
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// The `model_type`s that it reads.
    pub model_types: &'static [&'static str],
    decoder: fn(&Config) -> Result<Decoder>,
}

/// Every family that is known.
pub const FAMILIES: &[Family] = &[
    Family { name: "bailing_moe", model_types: &["bailing_moe"], decoder: bailing_moe::decoder },
    Family { name: "cohere", model_types: &["cohere"], decoder: cohere::decoder },
    Family { name: "cohere2", model_types: &["cohere2"], decoder: cohere2::decoder },
    Family { name: "dots1", model_types: &["dots1"], decoder: dots1::decoder },
    Family { name: "ernie4_5", model_types: &["ernie4_5"], decoder: ernie4_5::decoder },
    Family { name: "ernie4_5_moe", model_types: &["ernie4_5_moe"], decoder: ernie4_5_moe::decoder },
    Family { name: "exaone", model_types: &["exaone"], decoder: exaone::decoder },
    Family { name: "exaone4", model_types: &["exaone4"], decoder: exaone4::decoder },
    Family { name: "exaone_moe", model_types: &["exaone_moe"], decoder: exaone_moe::decoder },
    Family { name: "gemma", model_types: &["gemma"], decoder: gemma::decoder },
    Family { name: "gemma2", model_types: &["gemma2"], decoder: gemma2::decoder },
    Family { name: "gemma3_text", model_types: &["gemma3_text"], decoder: gemma3_text::decoder },
    Family { name: "glm", model_types: &["glm"], decoder: glm::decoder },
    Family { name: "glm4", model_types: &["glm4"], decoder: glm4::decoder },
    Family { name: "glm4_moe", model_types: &["glm4_moe"], decoder: glm4_moe::decoder },
    Family { name: "gpt2", model_types: &["gpt2"], decoder: gpt2::decoder },
    Family { name: "gpt_oss", model_types: &["gpt_oss"], decoder: gpt_oss::decoder },
    Family { name: "granite", model_types: &["granite"], decoder: granite::decoder },
    Family { name: "granitemoe", model_types: &["granitemoe"], decoder: granite::mixture },
    Family { name: "helium", model_types: &["helium"], decoder: helium::decoder },
    Family { name: "hunyuan_v1_dense", model_types: &["hunyuan_v1_dense"], decoder: hunyuan_v1_dense::decoder },
    Family { name: "internlm2", model_types: &["internlm2"], decoder: internlm2::decoder },
    Family { name: "internlm3", model_types: &["internlm3"], decoder: internlm3::decoder },
    Family { name: "lfm2", model_types: &["lfm2"], decoder: lfm2::decoder },
    Family { name: "llama", model_types: &["llama", "mistral", "iquestcoder"], decoder: llama::decoder },
    Family { name: "llama4", model_types: &["llama4"], decoder: llama4::decoder },
    Family { name: "mimo", model_types: &["mimo"], decoder: mimo::decoder },
    Family { name: "mimo_v2_flash", model_types: &["mimo_v2_flash"], decoder: mimo_v2_flash::decoder },
    Family { name: "minicpm", model_types: &["minicpm"], decoder: minicpm::decoder },
    Family { name: "ministral3", model_types: &["ministral3"], decoder: ministral3::decoder },
    Family { name: "mistral3", model_types: &["mistral3", "llava", "pixtral"], decoder: mistral3::decoder },
    Family { name: "mixtral", model_types: &["mixtral"], decoder: mixtral::decoder },
    Family { name: "nemotron", model_types: &["nemotron"], decoder: nemotron::decoder },
    Family { name: "olmo2", model_types: &["olmo2"], decoder: olmo2::decoder },
    Family { name: "olmo3", model_types: &["olmo3"], decoder: olmo3::decoder },
    Family { name: "olmoe", model_types: &["olmoe"], decoder: olmoe::decoder },
    Family { name: "phi", model_types: &["phi"], decoder: phi::decoder },
    Family { name: "phi3", model_types: &["phi3"], decoder: phi3::decoder },
    Family { name: "qwen2", model_types: &["qwen2"], decoder: qwen2::decoder },
    Family { name: "qwen2_moe", model_types: &["qwen2_moe"], decoder: qwen2_moe::decoder },
    Family { name: "qwen3", model_types: &["qwen3"], decoder: qwen3::decoder },
    Family { name: "qwen3_moe", model_types: &["qwen3_moe"], decoder: qwen3_moe::decoder },
    Family { name: "qwen3_vl", model_types: &["qwen3_vl"], decoder: qwen3_vl::decoder },
    Family { name: "seed_oss", model_types: &["seed_oss"], decoder: seed_oss::decoder },
    Family { name: "smollm3", model_types: &["smollm3"], decoder: smollm3::decoder },
    Family { name: "stablelm", model_types: &["stablelm"], decoder: stablelm::decoder },
    Family { name: "starcoder2", model_types: &["starcoder2"], decoder: starcoder2::decoder },
    Family { name: "step3p5", model_types: &["step3p5"], decoder: step3p5::decoder },
];

/// The family that reads a `model_type`.
pub fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.model_types.contains(&model_type))
}

/// The decoder that a configuration describes.
///
/// # Errors
/// If its family is not known, or a key is missing, out of range or asks for something that is not supported.
pub fn decoder(config: &Config) -> Result<Decoder> {
    match find(config.model_type()) {
        Some(family) => (family.decoder)(config),
        None => Err(unknown(config)),
    }
}

/// Keys that change nothing in any decoder here, so that they are no hint of what an unknown family needs.
const INERT: &[&str] = &[
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "hidden_dropout",
    "initializer_range",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "quantization",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "_name_or_path",
];

/// Keys that the families here read.
const READ: &[&str] = &[
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

fn unknown(config: &Config) -> Error {
    let name = config.model_type();
    let types = FAMILIES.iter().flat_map(|f| f.model_types);
    let nearest = types.min_by_key(|t| edits(name, t)).copied().unwrap_or_default();
    let mut odd: Vec<String> = config
        .values()
        .iter()
        .filter(|(key, value)| !value.is_null() && !INERT.contains(&key.as_str()) && !READ.contains(&key.as_str()))
        .map(|(key, _)| format!("`{key}`"))
        .collect();
    let rest = odd.len().saturating_sub(6);
    odd.truncate(6);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let missing = if odd.is_empty() {
        String::new()
    } else {
        format!("; beyond it, this configuration asks for {}{more}", odd.join(", "))
    };
    Error::unsupported(format!(
        "model type `{name}` is not supported; the nearest that is supported is `{nearest}`{missing}"
    ))
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
