//! From prompts to answers, as iterators of steps.
//!
//! `Answer` is what one answer is made of, from logits to text; [`Generation`] computes one, with drafts if there is a
//! `Drafter`; [`Batch`] computes many together.

mod answer;
mod batch;
mod draft;
mod generation;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mlxengine_models::CacheOptions;
use serde::{Deserialize, Serialize};

pub use batch::{Batch, BatchEvent, BatchOptions, Finished, Request};
pub(crate) use draft::Drafter;
pub use draft::{Draft, DraftSource};
pub use generation::{Generation, PromptProgress};

/// Stops an answer from another thread. Clones stop the same answer.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that nobody has used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the answer within one step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`CancelToken::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the token fresh again.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string occurred.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// Somebody cancelled.
    Cancelled,
}

/// What was computed for an answer, and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those that had been read before and were not read again.
    pub cached_tokens: usize,
    /// Tokens of the answer, the one that ended it included.
    pub generated_tokens: usize,
    /// Until the first token was chosen.
    pub time_to_first_token: Duration,
    /// From then on.
    pub decode_time: Duration,
    /// What drafts were worth, if there were some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<Speculation>,
}

/// What drafts were worth. The first token of an answer is read without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Speculation {
    /// Tokens that were proposed.
    pub drafted: usize,
    /// Those that the model chose too.
    pub accepted: usize,
    /// Passes of the model over drafts.
    pub passes: usize,
    /// Time that these took, drafting included.
    pub time: Duration,
    /// Passes over one token, because nothing was proposed.
    pub plain_passes: usize,
    /// Time that these took.
    pub plain_time: Duration,
}

impl Speculation {
    /// The share of the proposed tokens that was accepted.
    pub fn acceptance(&self) -> f64 {
        if self.drafted == 0 { 0.0 } else { self.accepted as f64 / self.drafted as f64 }
    }

    /// Tokens of the answer that one pass over the model gave.
    pub fn tokens_per_pass(&self) -> f64 {
        let passes = self.passes + self.plain_passes;
        if passes == 0 { 0.0 } else { (passes + self.accepted) as f64 / passes as f64 }
    }

    /// How many times as long the same tokens would have taken without drafts, going by the passes over one token that were
    /// measured beside the others.
    pub fn speed_up(&self) -> Option<f64> {
        let time = self.time + self.plain_time;
        if self.plain_passes == 0 || self.passes == 0 || time.is_zero() {
            return None;
        }
        let plain = self.plain_time.as_secs_f64() / self.plain_passes as f64;
        let tokens = self.passes + self.plain_passes + self.accepted;
        Some(plain * tokens as f64 / time.as_secs_f64())
    }
}

impl Stats {
    /// Prompt tokens read a second.
    pub fn prompt_speed(&self) -> f64 {
        rate(self.prompt_tokens - self.cached_tokens, self.time_to_first_token)
    }

    /// From the start to the last token.
    pub fn time(&self) -> Duration {
        self.time_to_first_token + self.decode_time
    }

    /// Tokens of the answer a second, after the first.
    pub fn decode_speed(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.decode_time)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Text that became certain: whole characters, free of stop strings; often empty.
    pub text: String,
    /// The token.
    pub token: u32,
    /// Its log-probability before filters and temperature.
    pub logprob: f32,
    /// The likeliest tokens with their log-probabilities, if asked for.
    pub top_logprobs: Vec<(u32, f32)>,
    /// Set on the last step.
    pub finish: Option<FinishReason>,
}

/// How a generation runs, beside what it samples.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// How the caches are kept, when the sequence is new.
    pub cache: CacheOptions,
    /// Prompt tokens read in one pass.
    pub prefill_chunk: usize,
    /// Longest sequence, prompt and answer together; the model's own limit if that is less.
    pub context: Option<usize>,
    /// Who proposes tokens that the model then verifies, several in one pass.
    pub draft: Option<Draft>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { cache: CacheOptions::default(), prefill_chunk: 512, context: None, draft: None }
    }
}
