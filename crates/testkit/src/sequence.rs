//! Feeding a model by hand, exactly as the recordings were made.

use mlxengine_models::{CacheOptions, LanguageModel, Result, Span, State};
use mlxengine_tensor::Tensor;

/// A sequence being fed to a model.
#[derive(Clone)]
pub struct Sequence<'a> {
    model: &'a dyn LanguageModel,
    /// What it has seen.
    pub state: State,
}

impl<'a> Sequence<'a> {
    /// A sequence that has seen nothing.
    ///
    /// # Errors
    /// If the options do not fit the model.
    pub fn new(model: &'a dyn LanguageModel, options: &CacheOptions) -> Result<Self> {
        Ok(Sequence { model, state: model.state(options)? })
    }

    /// A sequence that has come so far.
    pub fn with(model: &'a dyn LanguageModel, state: State) -> Self {
        Sequence { model, state }
    }

    /// Reads tokens; returns the last hidden states `[T, dim]`.
    pub fn hidden(&mut self, tokens: &[u32]) -> Tensor {
        self.model.forward(&mut [Span { tokens, state: &mut self.state }])
    }

    /// Reads tokens; returns the logits `[T, vocab]` of each position.
    pub fn feed(&mut self, tokens: &[u32]) -> Tensor {
        let hidden = self.hidden(tokens);
        self.model.logits(&hidden)
    }

    /// Reads pieces one after another; returns the logits of all their positions.
    pub fn feed_pieces<'t>(&mut self, pieces: impl IntoIterator<Item = &'t [u32]>) -> Tensor {
        let parts: Vec<Tensor> = pieces.into_iter().map(|piece| self.feed(piece)).collect();
        Tensor::concat(parts, 0)
    }
}

/// A generated token.
#[derive(Clone, Debug)]
pub struct Step {
    /// The likeliest token.
    pub token: u32,
    /// Log-probabilities of all tokens.
    pub logprobs: Vec<f32>,
}

/// The likeliest tokens after a prompt: all of it but the last token is read in pieces of `step`, then the last, then each
/// token as it comes. Ends early after a token of `ends`.
///
/// # Errors
/// If the options do not fit the model.
pub fn generate(
    model: &dyn LanguageModel,
    options: &CacheOptions,
    prompt: &[u32],
    step: usize,
    (count, ends): (usize, &[u32]),
) -> Result<Vec<Step>> {
    let mut sequence = Sequence::new(model, options)?;
    let Some((last, before)) = prompt.split_last() else { return Ok(Vec::new()) };
    for piece in before.chunks(step) {
        sequence.hidden(piece);
    }
    let mut steps: Vec<Step> = Vec::with_capacity(count);
    let mut next = *last;
    while steps.len() < count {
        let logits = sequence.feed(&[next]);
        let logits = logits.f32s();
        let total = log_sum_exp(logits);
        let logprobs: Vec<f32> = logits.iter().map(|x| (f64::from(*x) - total) as f32).collect();
        next = argmax(logits);
        steps.push(Step { token: next, logprobs });
        if ends.contains(&next) {
            break;
        }
    }
    Ok(steps)
}

/// The position of the first largest number.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    best as u32
}

/// `ln Σ eˣ`, in double precision.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() {
        return f64::from(max);
    }
    let max = f64::from(max);
    max + row.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}
