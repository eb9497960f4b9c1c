//! The families: one small file each, which reads `config.json` into a [`Decoder`] value.

use crate::decoder::LanguageModel;
use crate::spec::Decoder;
use crate::weights::Weights;
use crate::{Config, Error, Result};

mod afm7;
mod afmoe;
mod apertus;
mod baichuan_m1;
mod bailing_hybrid;
mod bailing_moe;
mod bailing_moe_linear;
mod bailing_moe_v3;
mod bitnet;
mod cohere;
mod cohere2;
mod dbrx;
mod deepseek;
mod deepseek_v2;
mod deepseek_v3;
mod deepseek_v32;
mod deepseek_v41;
mod dots1;
mod ernie4_5;
mod ernie4_5_moe;
mod exaone;
mod exaone4;
mod exaone_moe;
mod falcon_h1;
mod falcon_h1_weights;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma3_text;
mod gemma3n;
mod gemma4;
pub(crate) mod gguf;
mod glm;
mod glm4;
mod glm4_moe;
mod glm4_moe_lite;
mod gpt2;
mod gpt_bigcode;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod granitemoehybrid;
mod helium;
mod hunyuan;
mod hunyuan_v1_dense;
mod internlm2;
mod internlm3;
mod iquestloopcoder;
mod jamba;
mod kimi_k3;
mod kimi_linear;
mod klear;
mod laguna;
mod lfm2;
mod lfm2_moe;
mod lille_130m;
mod llama;
mod llama4;
mod llama4_text;
mod longcat_flash;
mod mamba;
mod mamba2;
mod mellum;
mod mimo;
mod mimo_v2_flash;
mod minicpm;
mod minicpm3;
mod minimax;
mod minimax_m3;
mod ministral3;
mod mistral3;
mod mistral4;
mod mixtral;
mod muse_glimmer;
mod nanbeige;
mod nanochat;
mod nemotron;
mod nemotron_h;
mod nemotron_nas;
mod olmo;
mod olmo2;
mod olmo3;
mod olmo_hybrid;
mod olmoe;
mod openelm;
mod phi;
mod phi3;
mod phi3small;
mod phimoe;
mod phixtral;
mod plamo;
mod plamo2;
mod plamo3;
mod prism_hadamard_qwen35;
mod qwen;
mod qwen2;
mod qwen2_moe;
mod qwen2_vl;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod qwen3_next;
mod qwen3_vl;
mod qwen3_vl_moe;
mod recurrent_gemma;
mod rwkv7;
mod seed_oss;
mod smollm3;
mod solar_open;
mod spark2_5;
mod stablelm;
mod starcoder2;
mod step3p5;
mod talkie;
mod telechat3;
mod youtu_llm;

/// A family of models.
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// The `model_type`s that it reads.
    pub model_types: &'static [&'static str],
    decoder: fn(&Config) -> Result<Decoder>,
    /// How the weights become a model, where the layers' description does not say it all.
    pub(crate) model: Option<Loader>,
}

/// Makes a model of a configuration, its description and the weights, and tells of each layer as `(done, all)`.
pub(crate) type Loader = fn(&Config, Decoder, Weights, &mut dyn FnMut(usize, usize)) -> Result<Box<dyn LanguageModel>>;

impl Family {
    /// A family of the generic decoder, read from `model_type`s.
    const fn new(
        name: &'static str,
        model_types: &'static [&'static str],
        decoder: fn(&Config) -> Result<Decoder>,
    ) -> Self {
        Family { name, model_types, decoder, model: None }
    }

    /// Tiny checkpoints whose logits, texts and caches are compared with those of mlx-lm 0.32.
    pub fn cases(&self) -> usize {
        let lines = include_str!("cases.txt").lines().filter_map(|line| line.split_once(' '));
        let own = lines.filter(|(name, _)| *name == self.name || self.model_types.contains(name));
        own.filter_map(|(_, count)| count.parse::<usize>().ok()).sum()
    }

    /// Whether the layers' description says all that its model is made of and keeps; otherwise the model has parts of its own.
    pub fn is_described(&self) -> bool {
        self.model.is_none()
    }

    /// The same with a model of its own.
    const fn of(self, model: Loader) -> Self {
        Family { model: Some(model), ..self }
    }
}

/// Every family that is known.
pub const FAMILIES: &[Family] = &[
    Family::new("afm7", &["afm7"], afm7::decoder).of(afm7::load),
    Family::new("afmoe", &["afmoe"], afmoe::decoder),
    Family::new("apertus", &["apertus"], apertus::decoder),
    Family::new("baichuan_m1", &["baichuan_m1"], baichuan_m1::decoder).of(baichuan_m1::load),
    Family::new("bailing_hybrid", &["bailing_hybrid"], bailing_hybrid::decoder),
    Family::new("bailing_moe", &["bailing_moe"], bailing_moe::decoder),
    Family::new("bailing_moe_linear", &["bailing_moe_linear"], bailing_moe_linear::decoder),
    Family::new("bailing_moe_v3", &["bailing_moe_v3"], bailing_moe_v3::decoder),
    Family::new("bitnet", &["bitnet"], bitnet::decoder).of(bitnet::load),
    Family::new("cohere", &["cohere"], cohere::decoder),
    Family::new("cohere2", &["cohere2"], cohere2::decoder),
    Family::new("dbrx", &["dbrx"], dbrx::decoder),
    Family::new("deepseek", &["deepseek"], deepseek::decoder),
    Family::new("deepseek_v2", &["deepseek_v2"], deepseek_v2::decoder),
    Family::new("deepseek_v3", &["deepseek_v3", "kimi_k2", "joyai_llm_flash"], deepseek_v3::decoder),
    Family::new("deepseek_v32", &["deepseek_v32"], deepseek_v32::decoder),
    Family::new("deepseek_v41", &["deepseek_v41", "deepseek_v41_text"], deepseek_v41::decoder).of(deepseek_v41::load),
    Family::new("dots1", &["dots1"], dots1::decoder),
    Family::new("ernie4_5", &["ernie4_5"], ernie4_5::decoder),
    Family::new("ernie4_5_moe", &["ernie4_5_moe"], ernie4_5_moe::decoder),
    Family::new("exaone", &["exaone"], exaone::decoder),
    Family::new("exaone4", &["exaone4"], exaone4::decoder),
    Family::new("exaone_moe", &["exaone_moe"], exaone_moe::decoder),
    Family::new("falcon_h1", &["falcon_h1"], falcon_h1::decoder).of(falcon_h1_weights::load),
    Family::new("gemma", &["gemma"], gemma::decoder),
    Family::new("gemma2", &["gemma2"], gemma2::decoder),
    Family::new("gemma3", &["gemma3"], gemma3::decoder),
    Family::new("gemma3_text", &["gemma3_text"], gemma3_text::decoder),
    Family::new("gemma3n", &["gemma3n", "gemma3n_text"], gemma3n::decoder).of(gemma3n::load),
    Family::new("gemma4", &["gemma4", "gemma4_text", "gemma4_unified"], gemma4::decoder).of(gemma4::load),
    Family::new("glm", &["glm"], glm::decoder),
    Family::new("glm4", &["glm4"], glm4::decoder),
    Family::new("glm4_moe", &["glm4_moe"], glm4_moe::decoder),
    Family::new("glm4_moe_lite", &["glm4_moe_lite"], glm4_moe_lite::decoder),
    Family::new("glm_moe_dsa", &["glm_moe_dsa"], deepseek_v32::decoder),
    Family::new("gpt2", &["gpt2"], gpt2::decoder),
    Family::new("gpt_bigcode", &["gpt_bigcode"], gpt_bigcode::decoder),
    Family::new("gpt_neox", &["gpt_neox"], gpt_neox::decoder),
    Family::new("gpt_oss", &["gpt_oss"], gpt_oss::decoder),
    Family::new("gptj", &["gptj"], gptj::decoder),
    Family::new("granite", &["granite"], granite::decoder),
    Family::new("granitemoe", &["granitemoe"], granite::mixture),
    Family::new("granitemoehybrid", &["granitemoehybrid"], granitemoehybrid::decoder),
    Family::new("helium", &["helium"], helium::decoder),
    Family::new("hunyuan", &["hunyuan"], hunyuan::decoder),
    Family::new("hunyuan_v1_dense", &["hunyuan_v1_dense"], hunyuan_v1_dense::decoder),
    Family::new("internlm2", &["internlm2"], internlm2::decoder),
    Family::new("internlm3", &["internlm3"], internlm3::decoder),
    Family::new("iquestloopcoder", &["iquestloopcoder"], iquestloopcoder::decoder).of(iquestloopcoder::load),
    Family::new("jamba", &["jamba"], jamba::decoder),
    Family::new("kimi_k25", &["kimi_k25"], deepseek_v3::text),
    Family::new("kimi_k3", &["kimi_k3"], kimi_k3::decoder),
    Family::new("kimi_linear", &["kimi_linear"], kimi_linear::decoder),
    Family::new("kimi_vl", &["kimi_vl"], deepseek_v3::text),
    Family::new("Klear", &["Klear"], klear::decoder).of(klear::load),
    Family::new("laguna", &["laguna"], laguna::decoder),
    Family::new("lfm2", &["lfm2"], lfm2::decoder),
    Family::new("lfm2_moe", &["lfm2_moe"], lfm2_moe::decoder),
    Family::new("lfm2_vl", &["lfm2-vl", "lfm2_vl"], lfm2::text),
    Family::new("lille_130m", &["lille-130m"], lille_130m::decoder),
    Family::new("llama", &["llama", "mistral", "iquestcoder", "xverse"], llama::decoder),
    Family::new("llama4", &["llama4"], llama4::decoder),
    Family::new("llama4_text", &["llama4_text"], llama4_text::decoder),
    Family::new("longcat_flash", &["longcat_flash", "longcat_flash_ngram"], longcat_flash::decoder)
        .of(longcat_flash::load),
    Family::new("mamba", &["mamba", "falcon_mamba"], mamba::decoder),
    Family::new("mamba2", &["mamba2"], mamba2::decoder),
    Family::new("mellum", &["mellum"], mellum::decoder),
    Family::new("mimo", &["mimo"], mimo::decoder),
    Family::new("mimo_v2_flash", &["mimo_v2_flash"], mimo_v2_flash::decoder),
    Family::new("minicpm", &["minicpm"], minicpm::decoder),
    Family::new("minicpm3", &["minicpm3"], minicpm3::decoder),
    Family::new("minimax", &["minimax", "minimax_m2"], minimax::decoder),
    Family::new("minimax_m3", &["minimax_m3_vl", "minimax_m3"], minimax_m3::decoder),
    Family::new("ministral3", &["ministral3"], ministral3::decoder),
    Family::new("mistral3", &["mistral3", "llava", "pixtral"], mistral3::decoder),
    Family::new("mistral4", &["mistral4"], mistral4::decoder),
    Family::new("mixtral", &["mixtral"], mixtral::decoder),
    Family::new("muse_glimmer", &["muse_glimmer"], muse_glimmer::decoder),
    Family::new("nanbeige", &["nanbeige"], nanbeige::decoder).of(nanbeige::load),
    Family::new("nanochat", &["nanochat"], nanochat::decoder),
    Family::new("nemotron", &["nemotron"], nemotron::decoder),
    Family::new("nemotron_h", &["nemotron_h"], nemotron_h::decoder),
    Family::new("nemotron_nas", &["nemotron-nas"], nemotron_nas::decoder),
    Family::new("olmo", &["olmo"], olmo::decoder).of(olmo::load),
    Family::new("olmo2", &["olmo2"], olmo2::decoder),
    Family::new("olmo3", &["olmo3"], olmo3::decoder),
    Family::new("olmo_hybrid", &["olmo_hybrid"], olmo_hybrid::decoder),
    Family::new("olmoe", &["olmoe"], olmoe::decoder),
    Family::new("openelm", &["openelm"], openelm::decoder),
    Family::new("phi", &["phi"], phi::decoder),
    Family::new("phi3", &["phi3"], phi3::decoder),
    Family::new("phi3small", &["phi3small"], phi3small::decoder).of(phi3small::load),
    Family::new("phimoe", &["phimoe"], phimoe::decoder),
    Family::new("phixtral", &["phixtral", "phi-msft"], phixtral::decoder),
    Family::new("plamo", &["plamo"], plamo::decoder),
    Family::new("plamo2", &["plamo2"], plamo2::decoder),
    Family::new("plamo3", &["plamo3"], plamo3::decoder),
    Family::new("prism_hadamard_qwen35", &["prism_hadamard_qwen35"], prism_hadamard_qwen35::decoder)
        .of(prism_hadamard_qwen35::load),
    Family::new("qwen", &["qwen"], qwen::decoder),
    Family::new("qwen2", &["qwen2"], qwen2::decoder),
    Family::new("qwen2_moe", &["qwen2_moe"], qwen2_moe::decoder),
    Family::new("qwen2_vl", &["qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text"], qwen2_vl::decoder),
    Family::new("qwen3", &["qwen3"], qwen3::decoder),
    Family::new("qwen3_5", &["qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"], qwen3_5::decoder),
    Family::new("qwen3_moe", &["qwen3_moe"], qwen3_moe::decoder),
    Family::new("qwen3_next", &["qwen3_next"], qwen3_next::decoder),
    Family::new("qwen3_vl", &["qwen3_vl", "qwen3_vl_text"], qwen3_vl::decoder),
    Family::new("qwen3_vl_moe", &["qwen3_vl_moe", "qwen3_vl_moe_text"], qwen3_vl_moe::decoder),
    Family::new("recurrent_gemma", &["recurrent_gemma"], recurrent_gemma::decoder),
    Family::new("rwkv7", &["rwkv7"], rwkv7::decoder).of(rwkv7::load),
    Family::new("seed_oss", &["seed_oss"], seed_oss::decoder),
    Family::new("smollm3", &["smollm3"], smollm3::decoder),
    Family::new("solar_open", &["solar_open"], solar_open::decoder),
    Family::new("spark2_5", &["spark2_5"], spark2_5::decoder),
    Family::new("stablelm", &["stablelm"], stablelm::decoder),
    Family::new("starcoder2", &["starcoder2"], starcoder2::decoder),
    Family::new("step3p5", &["step3p5"], step3p5::decoder),
    Family::new("talkie", &["talkie"], talkie::decoder).of(talkie::load),
    Family::new("telechat3", &["telechat3"], telechat3::decoder),
    Family::new("youtu_llm", &["youtu_llm"], youtu_llm::decoder),
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
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "partial_rotary_factor",
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
