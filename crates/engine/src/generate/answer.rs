//! What one answer is made of: its tokens, and the way from logits to text.

use std::time::{Duration, Instant};

use mlxengine_models::LanguageModel;

use super::{FinishReason, Stats, Step};
use crate::constrain::Grammar;
use crate::error::{EngineError, ErrorKind, Result};
use crate::model::LoadedModel;
use crate::sample::{GenerateParams, LogitsProcessor, Sampler};
use crate::text::{Detokenizer, StopScanner};

/// One answer, from logits to text; who computes the logits does not matter to it.
pub(super) struct Answer {
    /// Prompt and answer.
    history: Vec<u32>,
    pub(super) stats: Stats,
    params: GenerateParams,
    /// Most tokens of the answer.
    limit: usize,
    /// Tokens that the model knows.
    vocab: usize,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: StopScanner,
    /// The row in work.
    logits: Vec<f32>,
    pub(super) finish: Option<FinishReason>,
    started: Option<Instant>,
}

impl Answer {
    /// `before` counts positions before the prompt.
    pub(super) fn new(
        model: &LoadedModel,
        (before, prompt): (usize, Vec<u32>),
        params: &GenerateParams,
        context: Option<usize>,
    ) -> Result<Self> {
        let vocab = model.under(params.adapter.as_deref())?.spec().vocab;
        params.validate(vocab)?;
        check_prompt(&prompt, vocab)?;
        let context = context.into_iter().chain(model.context()).min();
        let room = room_for_answer(before + prompt.len(), context)?;
        let protected: Vec<u32> = model.end_tokens.iter().map(|e| e.id).collect();
        let mut sampler = Sampler::new(params, 0).with_xtc_protected(&protected);
        if let Some(grammar) = &params.grammar {
            sampler = sampler.with_processor(model.constraint(grammar, &prompt)?);
        }
        if params.thinking_budget.is_some() && matches!(params.grammar, Some(Grammar::Whole(_))) {
            let message =
                "thoughts cannot be bounded under a grammar that has them in it, as that of calls in channels";
            return Err(EngineError::new(ErrorKind::Unsupported, message).with_remedy("leave one of the two out"));
        }
        if let Some(budget) = params.thinking_budget
            && let Some(budget) = model.thinking_budget(budget, &prompt)?
        {
            sampler = sampler.with_processor(budget);
        }
        Ok(Self {
            stats: Stats { prompt_tokens: prompt.len(), ..Stats::default() },
            limit: params.max_tokens.unwrap_or(usize::MAX).min(room),
            vocab,
            sampler,
            detokenizer: model.tokenizer.detokenizer(),
            stops: StopScanner::new(&params.stop),
            params: params.clone(),
            history: prompt,
            logits: Vec::new(),
            finish: None,
            started: None,
        })
    }

    /// Adds a change to the logits, run after the penalties.
    pub(super) fn with_processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.sampler = self.sampler.with_processor(processor);
        self
    }

    /// Prompt and answer so far, but for the token that ends it.
    pub(super) fn history(&self) -> &[u32] {
        &self.history
    }

    /// How tokens are chosen.
    pub(super) fn params(&self) -> &GenerateParams {
        &self.params
    }

    /// The network that computes the logits: the model's own, or the one under the adapter that was asked for.
    pub(super) fn network<'a>(&self, model: &'a LoadedModel) -> &'a dyn LanguageModel {
        model.under(self.params.adapter.as_deref()).expect("the adapter was there when the answer began")
    }

    /// Tokens that the model knows.
    pub(super) fn vocab(&self) -> usize {
        self.vocab
    }

    /// The seed in use.
    pub(super) fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// Most tokens that may still come.
    pub(super) fn left(&self) -> usize {
        self.limit - self.stats.generated_tokens.min(self.limit)
    }

    /// Lets the time run until the first token.
    pub(super) fn start(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    /// Chooses the next token by its logits, and takes it in.
    pub(super) fn choose(&mut self, model: &LoadedModel, logits: &[f32]) -> Result<Step> {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
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
        self.stats.generated_tokens += 1;
        let (text, finish) = self.take(model, sampled.token);
        self.finish = finish;
        Ok(Step { text, token: sampled.token, logprob: sampled.logprob, top_logprobs: sampled.top, finish })
    }

    /// Counts the time that the token which was just chosen took.
    pub(super) fn count(&mut self, took: Duration) {
        if self.stats.generated_tokens == 1 {
            self.stats.time_to_first_token = self.started.map_or(took, |started| started.elapsed());
        } else {
            self.stats.decode_time += took;
        }
    }

    /// Takes a token into the answer: the text that it makes certain, and whether it is the last.
    fn take(&mut self, model: &LoadedModel, token: u32) -> (String, Option<FinishReason>) {
        if !self.params.ignore_eos && model.ends_answer(token) {
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
