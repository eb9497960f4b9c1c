//! Many answers at once.
//!
//! Sequences of any lengths share a pass, each with its own rows, so nothing is padded. An answer joins when another ends.
//! What a pass reads of a sequence is what it would read of it alone: pieces of the prompt, its last token by itself, then
//! each token of the answer; in `Precision::Exact` the bits of an answer are therefore those that it has alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::answer::Answer;
use super::{CancelToken, FinishReason, GenerateOptions, Stats, Step};
use crate::error::{EngineError, ErrorKind, Result};
use crate::model::LoadedModel;
use crate::sample::{GenerateParams, LogitsProcessor};
use crate::sequence::{Sequence, read_together};

/// One of many prompts.
pub struct Request {
    prompt: Vec<u32>,
    params: GenerateParams,
    processors: Vec<Box<dyn LogitsProcessor>>,
}

impl Request {
    /// A prompt of tokens, and how its answer is sampled and where it ends.
    pub fn new(prompt: Vec<u32>, params: GenerateParams) -> Self {
        Self { prompt, params, processors: Vec::new() }
    }

    /// Adds a change to the logits of this answer alone, run after the penalties. It sees each position once, even where an
    /// answer had to wait for memory.
    #[must_use]
    pub fn with_processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.processors.push(Box::new(processor));
        self
    }

    fn answer(self, model: &LoadedModel, context: Option<usize>) -> Result<Answer> {
        let answer = Answer::new(model, (0, self.prompt), &self.params, context)?;
        Ok(self.processors.into_iter().fold(answer, Answer::with_processor))
    }
}

/// How many answers are given at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Most answers at once.
    pub sequences: usize,
    /// Bytes that their caches may have together; one answer is given in any case. Where caches outgrow this, the answer that
    /// began last waits, and reads its tokens again later.
    pub cache_bytes: Option<u64>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { sequences: 8, cache_bytes: None }
    }
}

/// What happens to one of many requests.
#[derive(Debug)]
pub enum BatchEvent {
    /// A token of its answer.
    Step(Step),
    /// Its answer is whole.
    Finished(Finished),
    /// There will be no answer, or no more of it.
    Failed(EngineError),
}

/// How an answer among many ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// What was computed; times are those of the passes that others shared.
    pub stats: Stats,
    /// The seed in use: given again, it gives the same text.
    pub seed: u64,
}

/// Positions that there has to be memory for before an answer joins.
const SLACK: usize = 256;

/// Many answers being generated: an iterator of what happens, with the number of the request that it happens to.
pub struct Batch {
    model: Arc<LoadedModel>,
    options: GenerateOptions,
    limits: BatchOptions,
    requests: Box<dyn Iterator<Item = Result<Request>> + Send>,
    /// Requests taken so far.
    taken: usize,
    /// Those without memory, which come next.
    waiting: VecDeque<(usize, Answer)>,
    /// Oldest first.
    running: Vec<Running>,
    events: VecDeque<(usize, BatchEvent)>,
    cancel: CancelToken,
}

struct Running {
    index: usize,
    answer: Answer,
    sequence: Sequence,
}

/// What a pass reads of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The newest token: the next one is wanted.
    Newest,
    /// A token of the answer that was read before, when there was memory.
    Again,
    /// So many tokens of the prompt.
    Prompt(usize),
}

impl Running {
    fn next(&self, chunk: usize) -> Part {
        let (read, prompt) = (self.sequence.tokens().len(), self.answer.stats.prompt_tokens);
        if read + 1 < prompt {
            Part::Prompt(chunk.min(prompt - 1 - read))
        } else if read + 1 < self.answer.history().len() {
            Part::Again
        } else {
            Part::Newest
        }
    }
}

impl Batch {
    /// Prepares to answer requests, which are taken one by one as there is room for them. An error among them, and a request
    /// that cannot be answered, fails alone.
    ///
    /// # Errors
    /// If the cache options do not fit the model, or drafts are asked for: many answers at once leave them no room.
    pub fn new(
        model: Arc<LoadedModel>,
        requests: impl Iterator<Item = Result<Request>> + Send + 'static,
        options: &GenerateOptions,
        limits: BatchOptions,
    ) -> Result<Self> {
        if options.draft.is_some() {
            let message = "drafts serve one answer at a time, and many were asked for";
            return Err(EngineError::new(ErrorKind::InvalidParameter, message).with_remedy("leave the draft out"));
        }
        Sequence::new(&*model.network, &options.cache)?;
        Ok(Self {
            model,
            options: options.clone(),
            limits: BatchOptions { sequences: limits.sequences.max(1), ..limits },
            requests: Box::new(requests),
            taken: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            events: VecDeque::new(),
            cancel: CancelToken::new(),
        })
    }

    /// Uses this token instead of one of its own. After it is used nothing more happens; what was under way has no end.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// What stops all answers from another thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Answers under way.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Lets answers join as far as there is room.
    fn admit(&mut self) {
        while self.running.len() < self.limits.sequences {
            let Some((index, answer)) = self.waiting.pop_front().or_else(|| self.take()) else { return };
            let more = self.model.cache_bytes(answer.history().len() + SLACK, &self.options.cache) as u64;
            let room = self.limits.cache_bytes.is_none_or(|most| self.cache_bytes().saturating_add(more) <= most);
            if !room && !self.running.is_empty() {
                return self.waiting.push_front((index, answer));
            }
            let adapter = answer.params().adapter.clone();
            match Sequence::under(&self.model, adapter.as_deref(), &self.options.cache) {
                Ok(sequence) => self.running.push(Running { index, answer, sequence }),
                Err(error) => self.events.push_back((index, BatchEvent::Failed(error))),
            }
        }
    }

    /// The next request that can be answered.
    fn take(&mut self) -> Option<(usize, Answer)> {
        loop {
            let request = self.requests.next()?;
            let index = self.taken;
            self.taken += 1;
            let answer = request.and_then(|request| request.answer(&self.model, self.options.context));
            match answer {
                Ok(mut answer) => {
                    answer.start();
                    return Some((index, answer));
                }
                Err(error) => self.events.push_back((index, BatchEvent::Failed(error))),
            }
        }
    }

    /// Bytes that the caches have, or will have once their prompts are read.
    fn cache_bytes(&self) -> u64 {
        let bytes = |r: &Running| {
            let planned = self.model.cache_bytes(r.answer.history().len(), &self.options.cache);
            r.sequence.bytes().max(planned) as u64
        };
        self.running.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Takes the memory of the youngest answers, if there is too little for all.
    fn shed(&mut self) {
        while self.running.len() > 1 && self.limits.cache_bytes.is_some_and(|most| self.cache_bytes() > most) {
            let Some(Running { index, answer, .. }) = self.running.pop() else { return };
            self.waiting.push_front((index, answer));
        }
    }

    /// One pass for all sequences, or one for those under each adapter.
    fn passes(&mut self) {
        let mut adapters: Vec<Option<Arc<str>>> = Vec::new();
        for running in &self.running {
            if !adapters.iter().any(|adapter| adapter.as_deref() == running.sequence.adapter()) {
                adapters.push(running.sequence.adapter().map(Arc::from));
            }
        }
        adapters.iter().for_each(|adapter| self.pass(adapter.as_deref()));
        self.running.retain(|running| running.answer.finish.is_none());
    }

    /// Reads the next part of every sequence under an adapter, as far as prompts fit into one pass, and takes the tokens that
    /// follow.
    fn pass(&mut self, adapter: Option<&str>) {
        let begun = Instant::now();
        let chunk = self.options.prefill_chunk.max(1);
        let mut left = chunk;
        let mut parts: Vec<(Part, &mut Running)> = Vec::with_capacity(self.running.len());
        for running in self.running.iter_mut().filter(|running| running.sequence.adapter() == adapter) {
            let part = running.next(chunk);
            if let Part::Prompt(count) = part {
                // A piece is never cut shorter than it would be alone.
                if count > left {
                    continue;
                }
                left -= count;
            }
            parts.push((part, running));
        }
        parts.sort_by_key(|(part, _)| *part);
        let wanted = parts.iter().take_while(|(part, _)| *part == Part::Newest).count();
        let Some((_, first)) = parts.first() else { return };
        let network = first.answer.network(&self.model);
        let mut reads: Vec<(&mut Sequence, &[u32])> = Vec::with_capacity(parts.len());
        for (part, running) in &mut parts {
            let from = running.sequence.tokens().len();
            let count = if let Part::Prompt(count) = part { *count } else { 1 };
            reads.push((&mut running.sequence, &running.answer.history()[from..from + count]));
        }
        let hidden = read_together(network, &mut reads);
        if wanted == 0 {
            return;
        }
        let logits = network.logits(&hidden.slice(0, 0, wanted));
        let took = begun.elapsed();
        for ((_, running), row) in parts.into_iter().zip(logits.f32s().chunks_exact(logits.shape().last())) {
            let event = match running.answer.choose(&self.model, row) {
                Ok(step) => BatchEvent::Step(step),
                Err(error) => {
                    running.answer.finish = Some(FinishReason::Cancelled);
                    BatchEvent::Failed(error)
                }
            };
            running.answer.count(took);
            let step = matches!(event, BatchEvent::Step(_));
            self.events.push_back((running.index, event));
            if let Some(reason) = running.answer.finish.filter(|_| step) {
                let finished = Finished { reason, stats: running.answer.stats, seed: running.answer.seed() };
                self.events.push_back((running.index, BatchEvent::Finished(finished)));
            }
        }
    }
}

impl Iterator for Batch {
    type Item = (usize, BatchEvent);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.cancel.is_cancelled() {
                return None;
            }
            self.admit();
            self.shed();
            if !self.running.is_empty() {
                self.passes();
            } else if self.events.is_empty() {
                return None;
            }
        }
    }
}
