//! One answer, with or without drafts.

use std::sync::Arc;
use std::time::Instant;

use mlxengine_tensor::Tensor;

use super::answer::Answer;
use super::draft::Drafter;
use super::{CancelToken, Draft, FinishReason, GenerateOptions, Stats, Step};
use crate::error::{EngineError, ErrorKind, Result};
use crate::model::LoadedModel;
use crate::sample::{GenerateParams, LogitsProcessor};
use crate::sequence::{Attempt, Sequence};

/// Hears of prompt tokens read, as `(done, all)`.
pub type PromptProgress = Box<dyn FnMut(usize, usize) + Send>;

/// An answer being generated.
///
/// The prompt is read when the first step is asked for. The last step has [`Step::finish`], unless somebody cancelled: then
/// the steps just end, and [`Generation::finish`] says so. After an error nothing follows.
///
/// With [`GenerateOptions::draft`] a pass reads the last token and those that are proposed to follow it. Its rows are then
/// taken one after another, by the same draw as without drafts: while the token that is drawn is the one that was proposed,
/// the next row is what the model says after it. So tokens, text and log-probabilities are those without drafts, drawn ones
/// too, and whoever changes the logits sees each position once, after the tokens that were really chosen.
pub struct Generation {
    model: Arc<LoadedModel>,
    sequence: Sequence,
    answer: Answer,
    draft: Option<Draft>,
    drafter: Option<Drafter>,
    rows: Option<Rows>,
    prefill_chunk: usize,
    cancel: CancelToken,
    progress: Option<PromptProgress>,
    failed: bool,
}

/// Logits that a pass left: those after the last token, and after each proposed one.
struct Rows {
    logits: Tensor,
    proposed: Vec<u32>,
    /// How many were taken.
    taken: usize,
    /// Of a pass over more than one token.
    attempt: Option<Attempt>,
}

impl Rows {
    fn next(&mut self) -> &[f32] {
        let vocab = self.logits.shape().last();
        self.taken += 1;
        &self.logits.f32s()[(self.taken - 1) * vocab..self.taken * vocab]
    }

    /// Whether the token that was chosen by the last row is the one that was proposed.
    fn agree(&self, token: u32) -> bool {
        self.proposed.get(self.taken - 1) == Some(&token)
    }
}

impl Generation {
    /// Prepares to answer a prompt of tokens. `sequence` is what was read before, if anything: the part of the prompt that
    /// it has is not read again.
    ///
    /// # Errors
    /// If a parameter is out of range, the prompt is empty, not of this vocabulary, or too long, or a draft model has another
    /// vocabulary.
    pub fn new(
        model: Arc<LoadedModel>,
        sequence: Option<Sequence>,
        prompt: Vec<u32>,
        params: &GenerateParams,
        options: &GenerateOptions,
    ) -> Result<Self> {
        let adapter = params.adapter.as_deref();
        let mut sequence = match sequence {
            // What was read under another adapter is of no use.
            Some(sequence) if sequence.adapter() == adapter => sequence,
            _ => Sequence::under(&model, adapter, &options.cache)?,
        };
        let unknown = sequence.unknown();
        let mut answer = Answer::new(&model, (unknown, prompt), params, options.context)?;
        let before = sequence.take_drafter();
        let drafter = match &options.draft {
            Some(draft) => Some(Drafter::new(draft, before, &model, &options.cache)?),
            None => None,
        };
        answer.stats.cached_tokens = sequence.sync(answer.history());
        if sequence.unknown() < unknown {
            let message = "the prompt differs from what the cache has read, and the tokens before are not known";
            return Err(EngineError::new(ErrorKind::InvalidInput, message).with_remedy("begin with an empty cache"));
        }
        answer.stats.speculation = drafter.as_ref().map(|_| super::Speculation::default());
        Ok(Self {
            model,
            sequence,
            answer,
            draft: options.draft.clone(),
            drafter,
            rows: None,
            prefill_chunk: options.prefill_chunk.max(1),
            cancel: CancelToken::new(),
            progress: None,
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
        self.answer = self.answer.with_processor(processor);
        self
    }

    /// What stops this answer from another thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// What was computed so far.
    pub fn stats(&self) -> Stats {
        self.answer.stats
    }

    /// Why the answer ended, once it has.
    pub fn finish(&self) -> Option<FinishReason> {
        self.answer.finish
    }

    /// The seed in use: given again, it gives the same text.
    pub fn seed(&self) -> u64 {
        self.answer.seed()
    }

    /// Ends the generation and hands out the sequence, for the next one to continue.
    pub fn into_sequence(mut self) -> Sequence {
        self.settle();
        self.sequence.keep_drafter(self.drafter.take());
        self.sequence
    }

    /// Reads what has not been read, but for the last token. `false` if somebody cancelled.
    fn read_before_last(&mut self) -> bool {
        let history = self.answer.history();
        let all = history.len();
        while self.sequence.tokens().len() + 1 < all {
            let done = self.sequence.tokens().len();
            if let Some(progress) = &mut self.progress {
                progress(done, all);
            }
            if self.cancel.is_cancelled() {
                return false;
            }
            let end = (done + self.prefill_chunk).min(all - 1);
            self.sequence.skip(self.answer.network(&self.model), &history[done..end]);
        }
        true
    }

    /// Computes the logits of the next token, and of those after it as far as something is proposed. `false` if somebody
    /// cancelled.
    ///
    /// The last token of a prompt is read alone, as the reference does: where positions depend on the length, or a cache
    /// forgets or is quantized between passes, the split shows in the result.
    fn read(&mut self) -> bool {
        if !self.read_before_last() {
            return false;
        }
        let begun = Instant::now();
        let first = self.answer.stats.generated_tokens == 0;
        if first {
            // Another answer to the same prompt starts here, and so does a next turn that shows this answer differently.
            self.sequence.mark();
        }
        let proposed = if first { Vec::new() } else { self.propose() };
        let network = self.answer.network(&self.model);
        let last = self.answer.history().last().copied().into_iter();
        let tokens: Vec<u32> = last.chain(proposed.iter().copied()).collect();
        let (attempt, logits) = if proposed.is_empty() {
            (None, self.sequence.read(network, &tokens))
        } else {
            let (attempt, logits) = self.sequence.attempt(network, &tokens);
            (Some(attempt), logits)
        };
        if let Some(s) = &mut self.answer.stats.speculation {
            s.drafted += proposed.len();
            let (passes, time) =
                if attempt.is_some() { (&mut s.passes, &mut s.time) } else { (&mut s.plain_passes, &mut s.plain_time) };
            *passes += 1;
            *time += begun.elapsed();
        }
        self.rows = Some(Rows { logits, proposed, taken: 0, attempt });
        true
    }

    /// Tokens that may follow, as many as one pass can verify and the answer can use.
    fn propose(&mut self) -> Vec<u32> {
        let (Some(drafter), Some(draft)) = (&mut self.drafter, &self.draft) else { return Vec::new() };
        let rows = self.sequence.rows_as_alone(self.answer.network(&self.model)).min(self.answer.left());
        let most = draft.tokens.min(rows - 1);
        if most == 0 { Vec::new() } else { drafter.propose(&self.answer, most, self.prefill_chunk, &self.cancel) }
    }

    fn step(&mut self) -> Result<Option<Step>> {
        if self.failed || self.answer.finish.is_some() {
            return Ok(None);
        }
        let begun = Instant::now();
        self.answer.start();
        if self.cancel.is_cancelled() || !(self.rows.is_some() || self.read()) {
            self.answer.finish = Some(FinishReason::Cancelled);
            return Ok(None);
        }
        let Some(rows) = &mut self.rows else { return Ok(None) };
        let step = self.answer.choose(&self.model, rows.next())?;
        let agree = rows.agree(step.token);
        if let Some(speculation) = &mut self.answer.stats.speculation {
            speculation.accepted += usize::from(agree);
        }
        if !agree || step.finish.is_some() {
            self.settle();
        }
        self.answer.count(begun.elapsed());
        if let Some(progress) = &mut self.progress
            && self.answer.stats.generated_tokens == 1
        {
            let all = self.answer.stats.prompt_tokens;
            progress(all, all);
        }
        Ok(Some(step))
    }

    /// Lets go of the rows that were not taken, and of the tokens that were read for them.
    fn settle(&mut self) {
        let Some(rows) = self.rows.take() else { return };
        if let Some(attempt) = rows.attempt {
            // If nothing was taken, the last token was read all the same.
            self.sequence.settle(self.answer.network(&self.model), attempt, rows.taken.max(1));
        }
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
