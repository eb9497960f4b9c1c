//! What manifests say.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Of a language model.
#[derive(Deserialize)]
pub(crate) struct Language {
    pub(crate) model_dir: String,
    pub(crate) chunk_size: usize,
    pub(crate) prompts: BTreeMap<String, Vec<u32>>,
    pub(crate) greedy: BTreeMap<String, Greedy>,
    pub(crate) tolerance: Tolerance,
    pub(crate) text: Option<Text>,
}

/// Tokens that the likeliest was taken of.
#[derive(Deserialize)]
pub(crate) struct Greedy {
    pub(crate) tokens: Vec<u32>,
    #[serde(default)]
    pub(crate) margin: Vec<f64>,
    #[serde(default)]
    pub(crate) logprob: Vec<f32>,
    pub(crate) prefill_step_size: Option<usize>,
}

#[derive(Deserialize, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) f32_atol: f64,
    #[serde(default)]
    pub(crate) f32_rtol: f64,
}

/// A text that was continued.
#[derive(Deserialize)]
pub(crate) struct Text {
    pub(crate) prompt: String,
    pub(crate) prompt_tokens: Vec<u32>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) finish_reason: String,
    pub(crate) chat: Option<Chat>,
}

/// A conversation in the checkpoint's own template.
#[derive(Deserialize)]
pub(crate) struct Chat {
    pub(crate) messages: Value,
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
}

/// Of a model under an adapter.
#[derive(Deserialize)]
pub(crate) struct Adapted {
    pub(crate) base: String,
    pub(crate) adapter_dir: String,
    pub(crate) prompts: BTreeMap<String, Vec<u32>>,
    pub(crate) greedy: BTreeMap<String, Greedy>,
    pub(crate) tolerance: Tolerance,
}

/// Of generation with drafts.
#[derive(Deserialize)]
pub(crate) struct Speculative {
    pub(crate) target: String,
    pub(crate) draft: String,
    pub(crate) cases: Vec<SpeculativeCase>,
}

#[derive(Deserialize)]
pub(crate) struct SpeculativeCase {
    pub(crate) prompt: Vec<u32>,
    pub(crate) greedy: Greedy,
    pub(crate) runs: Vec<SpeculativeRun>,
}

#[derive(Deserialize)]
pub(crate) struct SpeculativeRun {
    pub(crate) num_draft_tokens: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) accepted: usize,
}

/// Of generation with unusual caches.
#[derive(Deserialize)]
pub(crate) struct Caches {
    pub(crate) model: String,
    pub(crate) entries: Vec<CacheEntry>,
}

/// Of a prompt cache in a file.
#[derive(Deserialize)]
pub(crate) struct CacheInFile {
    pub(crate) model: String,
    pub(crate) file: String,
    pub(crate) prompt: Vec<u32>,
    pub(crate) cont: Vec<u32>,
    pub(crate) atol: f64,
}

#[derive(Deserialize)]
pub(crate) struct CacheEntry {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) args: CacheArguments,
    #[serde(default, alias = "prompt")]
    pub(crate) prompt_tokens: Vec<u32>,
    #[serde(default)]
    pub(crate) tokens: Vec<u32>,
    #[serde(default)]
    pub(crate) margin: Vec<f64>,
    #[serde(default)]
    pub(crate) logprob_steps: Vec<usize>,
    /// Sizes of the pieces that a prompt is fed in.
    #[serde(default)]
    pub(crate) split: Vec<usize>,
    pub(crate) bits: Option<u32>,
    pub(crate) group_size: Option<usize>,
    pub(crate) trimmed: Option<usize>,
    pub(crate) atol: f64,
}

#[derive(Deserialize, Default)]
pub(crate) struct CacheArguments {
    pub(crate) max_kv_size: Option<usize>,
    pub(crate) prefill_step_size: Option<usize>,
    pub(crate) kv_bits: Option<u32>,
    pub(crate) kv_group_size: Option<usize>,
    pub(crate) quantized_kv_start: Option<usize>,
}

/// Of quantized operations.
#[derive(Deserialize)]
pub(crate) struct Quantized {
    pub(crate) entries: Vec<QuantEntry>,
    pub(crate) tolerance: Value,
}

#[derive(Deserialize)]
pub(crate) struct QuantEntry {
    pub(crate) key: String,
    pub(crate) mode: String,
    pub(crate) bits: u32,
    pub(crate) group_size: usize,
    #[serde(default)]
    pub(crate) dtype: String,
}

#[derive(Deserialize)]
pub(crate) struct Perplexity {
    pub(crate) base: String,
    pub(crate) perplexity: f64,
    pub(crate) standard_error: f64,
    pub(crate) tolerance: PerplexityTolerance,
}

#[derive(Deserialize)]
pub(crate) struct PerplexityTolerance {
    pub(crate) token_losses_abs: f64,
    pub(crate) perplexity_rel: f64,
}
