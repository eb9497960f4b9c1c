//! The loop that turns a prompt into an answer, as an iterator of steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mlxengine_models::CacheOptions;
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, ErrorKind, Result};
use crate::model::LoadedModel;
use crate::sample::{GenerateParams, LogitsProcessor, Sampler};
use crate::sequence::Sequence;
use crate::text::{Detokenizer, StopScanner};

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
}

impl Stats {
    /// Prompt tokens read a second.
    pub fn prompt_speed(&self) -> f64 {
        rate(self.prompt_tokens - self.cached_tokens, self.time_to_first_token)
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
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { cache: CacheOptions::default(), prefill_chunk: 512, context: None }
    }
}

/// Hears of prompt tokens read, as `(done, all)`.
pub type PromptProgress = Box<dyn FnMut(usize, usize) + Send>;

/// An answer being generated.
///
/// The prompt is read when the first step is asked for. The last step has [`Step::finish`], unless somebody cancelled: then
/// the steps just end, and [`Generation::finish`] says so. After an error nothing follows.
pub struct Generation {
    model: Arc<LoadedModel>,
    sequence: Sequence,
    /// Prompt and answer; the sequence lags behind by what has not been read yet.
    history: Vec<u32>,
    stats: Stats,
    params: GenerateParams,
    /// Most tokens of the answer.
    limit: usize,
    prefill_chunk: usize,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: StopScanner,
    logits: Vec<f32>,
    cancel: CancelToken,
    progress: Option<PromptProgress>,
    started: Option<Instant>,
    finish: Option<FinishReason>,
    failed: bool,
}

impl Generation {
    /// Prepares to answer a prompt of tokens. `sequence` is what was read before, if anything: the part of the prompt that
    /// it has is not read again.
    ///
    /// # Errors
    /// If a parameter is out of range, or the prompt is empty, not of this vocabulary, or too long.
    pub fn new(
        model: Arc<LoadedModel>,
        sequence: Option<Sequence>,
        prompt: Vec<u32>,
        params: &GenerateParams,
        options: &GenerateOptions,
    ) -> Result<Self> {
        let vocab = model.network.spec().vocab;
        params.validate(vocab)?;
        check_prompt(&prompt, vocab)?;
        let context = options.context.into_iter().chain(model.context()).min();
        let room = room_for_answer(prompt.len(), context)?;
        let limit = params.max_tokens.unwrap_or(usize::MAX).min(room);
        let mut sequence = match sequence {
            Some(sequence) => sequence,
            None => Sequence::new(&*model.network, &options.cache)?,
        };
        let cached = sequence.sync(&prompt);
        let constraint = params.grammar.as_ref().map(|grammar| model.constraint(grammar, &prompt)).transpose()?;
        let protected: Vec<u32> = model.end_tokens.iter().map(|e| e.id).collect();
        let mut sampler = Sampler::new(params, 0).with_xtc_protected(&protected);
        if let Some(constraint) = constraint {
            sampler = sampler.with_processor(constraint);
        }
        Ok(Self {
            stats: Stats { prompt_tokens: prompt.len(), cached_tokens: cached, ..Stats::default() },
            sampler,
            detokenizer: model.tokenizer.detokenizer(),
            stops: StopScanner::new(&params.stop),
            params: params.clone(),
            prefill_chunk: options.prefill_chunk.max(1),
            history: prompt,
            model,
            sequence,
            limit,
            logits: Vec::new(),
            cancel: CancelToken::new(),
            progress: None,
            started: None,
            finish: None,
            failed: false,
        })
    }

    /// Uses this token instead of one of its own.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Reports how much of the prompt has been read.
    #[must_use]
    pub fn with_progress(mut self, progress: PromptProgress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Adds a change to the logits of one's own, run after the penalties.
    #[must_use]
    pub fn with_processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.sampler = self.sampler.with_processor(processor);
        self
    }

    /// What stops this answer from another thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// What was computed so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Why the answer ended, once it has.
    pub fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// The seed in use: given again, it gives the same text.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// Ends the generation and hands out the sequence, for the next one to continue.
    pub fn into_sequence(self) -> Sequence {
        self.sequence
    }

    /// Reads what has not been read and leaves the last token's logits. `false` if somebody cancelled.
    ///
    /// The last token is read alone, as the reference does: where positions depend on the length, or a cache forgets or is
    /// quantized between passes, the split shows in the result.
    fn read(&mut self) -> bool {
        let network = &*self.model.network;
        let all = self.history.len();
        while self.sequence.tokens().len() + 1 < all {
            let done = self.sequence.tokens().len();
            if let Some(progress) = &mut self.progress {
                progress(done, all);
            }
            if self.cancel.is_cancelled() {
                return false;
            }
            let end = (done + self.prefill_chunk).min(all - 1);
            self.sequence.skip(network, &self.history[done..end]);
        }
        if self.stats.generated_tokens == 0 {
            // Another answer to the same prompt starts here, and so does a next turn that shows this answer differently.
            self.sequence.mark();
        }
        let logits = self.sequence.read(network, &self.history[all - 1..]);
        self.logits.clear();
        self.logits.extend_from_slice(logits.f32s());
        true
    }

    fn step(&mut self) -> Result<Option<Step>> {
        if self.failed || self.finish.is_some() {
            return Ok(None);
        }
        let now = Instant::now();
        let started = *self.started.get_or_insert(now);
        if self.cancel.is_cancelled() || !self.read() {
            self.finish = Some(FinishReason::Cancelled);
            return Ok(None);
        }
        let sampled = self.sampler.sample(&mut self.logits, &self.history, self.history.len() as u64);
        if let Some(failure) = self.sampler.take_failure() {
            return Err(failure);
        }
        if sampled.logprob.is_nan() {
            let message = "the model computed no finite score for any token: its weights are damaged";
            return Err(
                EngineError::new(ErrorKind::InvalidCheckpoint, message).with_remedy("download the checkpoint again")
            );
        }
        self.count(started, now);
        let (text, finish) = self.take(sampled.token);
        self.finish = finish;
        Ok(Some(Step { text, token: sampled.token, logprob: sampled.logprob, top_logprobs: sampled.top, finish }))
    }

    fn count(&mut self, started: Instant, now: Instant) {
        self.stats.generated_tokens += 1;
        if self.stats.generated_tokens == 1 {
            self.stats.time_to_first_token = started.elapsed();
            if let Some(progress) = &mut self.progress {
                progress(self.history.len(), self.history.len());
            }
        } else {
            self.stats.decode_time += now.elapsed();
        }
    }

    /// Takes a token into the answer: the text that it makes certain, and whether it is the last.
    fn take(&mut self, token: u32) -> (String, Option<FinishReason>) {
        if !self.params.ignore_eos && self.model.ends_answer(token) {
            return (self.rest(), Some(FinishReason::Stop));
        }
        self.history.push(token);
        let piece = self.detokenizer.push(token);
        let (mut text, stopped) = self.stops.push(&piece);
        if stopped.is_some() {
            return (text, Some(FinishReason::Stop));
        }
        if self.stats.generated_tokens < self.limit {
            return (text, None);
        }
        text.push_str(&self.rest());
        (text, Some(FinishReason::Length))
    }

    /// The text that was held back.
    fn rest(&mut self) -> String {
        let last = self.detokenizer.finish();
        let (mut text, stopped) = self.stops.push(&last);
        if stopped.is_none() {
            text.push_str(&self.stops.finish());
        }
        text
    }
}

impl Iterator for Generation {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        self.failed |= step.is_err();
        step.transpose()
    }
}

fn check_prompt(prompt: &[u32], vocab: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(
            EngineError::new(ErrorKind::InvalidInput, "the prompt is empty").with_remedy("give at least one token")
        );
    }
    match prompt.iter().find(|&&token| token as usize >= vocab) {
        None => Ok(()),
        Some(token) => Err(EngineError::new(
            ErrorKind::InvalidInput,
            format!(
                "the prompt has token {token}, but the model knows only {vocab}: its tokenizer.json belongs to another model"
            ),
        )),
    }
}

fn room_for_answer(prompt: usize, context: Option<usize>) -> Result<usize> {
    let Some(context) = context else { return Ok(usize::MAX) };
    match context.checked_sub(prompt).filter(|room| *room > 0) {
        Some(room) => Ok(room),
        None => Err(EngineError::new(
            ErrorKind::ContextExceeded,
            format!("the prompt has {prompt} tokens, and prompt and answer together may have {context}"),
        )
        .with_remedy(format!("shorten it by at least {} tokens", prompt + 1 - context))),
    }
}
