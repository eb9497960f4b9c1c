//! Many answers at once.
//!
//! Sequences of any lengths share a pass, each with its own rows, so nothing is padded. An answer joins when another ends.
//! What a pass reads of a sequence is what it would read of it alone: pieces of the prompt, its last token by itself, then
//! each token of the answer, or that and those that are proposed to follow it; in `Precision::Exact` the bits of an answer
//! are therefore those that it has alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::draft::Drafter;
use super::{CancelToken, DraftSource, FinishReason, GenerateOptions, Speculation, Stats, Step};
use crate::error::{EngineError, Result};
use crate::model::LoadedModel;
use crate::sample::{GenerateParams, LogitsProcessor};
use crate::sequence::{Attempt, Sequence, read_together};

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
    drafter: Option<Drafter>,
}

/// What a pass reads of one sequence.
struct Turn<'a> {
    part: Part,
    running: &'a mut Running,
    tokens: Vec<u32>,
    /// If some of the tokens are proposed.
    attempt: Option<Attempt>,
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

    /// The tokens of a part; those that are proposed to follow the newest one are read on trial.
    fn turn(&mut self, part: Part, batch: &Shared<'_>) -> Turn<'_> {
        let from = self.sequence.tokens().len();
        let count = if let Part::Prompt(count) = part { count } else { 1 };
        let mut tokens = self.answer.history()[from..from + count].to_vec();
        let mut attempt = None;
        // The first token is chosen after a pass over the prompt's last token alone, as without drafts.
        if part == Part::Newest && self.answer.stats.generated_tokens > 0 {
            let proposed = self.propose(batch);
            attempt = (!proposed.is_empty()).then(|| self.sequence.begin_attempt());
            tokens.extend(proposed);
        }
        Turn { part, running: self, tokens, attempt }
    }

    /// Tokens that may follow, as many as a pass can verify and the answer can use.
    fn propose(&mut self, batch: &Shared<'_>) -> Vec<u32> {
        let (Some(drafter), Some(draft)) = (&mut self.drafter, &batch.options.draft) else { return Vec::new() };
        let rows = self.sequence.rows_as_alone(self.answer.network(batch.model)).min(self.answer.left());
        let most = draft.tokens.min(rows - 1);
        let chunk = batch.options.prefill_chunk.max(1);
        if most == 0 { Vec::new() } else { drafter.propose(&self.answer, most, chunk, batch.cancel) }
    }
}

/// What the sequences of a batch have in common.
struct Shared<'a> {
    model: &'a LoadedModel,
    options: &'a GenerateOptions,
    cancel: &'a CancelToken,
}

impl Turn<'_> {
    /// Takes the tokens that the rows after the newest token choose, as far as they are those that were proposed.
    fn take(self, model: &LoadedModel, rows: &[&[f32]], took: Duration) -> Vec<BatchEvent> {
        let Running { answer, sequence, .. } = self.running;
        let proposed = &self.tokens[1..];
        if let Some(s) = &mut answer.stats.speculation {
            s.drafted += proposed.len();
            let drafted = self.attempt.is_some();
            let (passes, time) =
                if drafted { (&mut s.passes, &mut s.time) } else { (&mut s.plain_passes, &mut s.plain_time) };
            *passes += 1;
            *time += took;
        }
        let (mut events, mut taken) = (Vec::new(), 0);
        for row in rows {
            let step = match answer.choose(model, row) {
                Ok(step) => step,
                Err(error) => {
                    answer.finish = Some(FinishReason::Cancelled);
                    events.push(BatchEvent::Failed(error));
                    break;
                }
            };
            answer.count(if taken == 0 { took } else { Duration::ZERO });
            let agrees = proposed.get(taken) == Some(&step.token);
            taken += 1;
            if let Some(speculation) = &mut answer.stats.speculation {
                speculation.accepted += usize::from(agrees);
            }
            let finish = step.finish;
            events.push(BatchEvent::Step(step));
            if let Some(reason) = finish {
                let finished = Finished { reason, stats: answer.stats, seed: answer.seed() };
                events.push(BatchEvent::Finished(finished));
            }
            if !agrees || finish.is_some() {
                break;
            }
        }
        // Of an answer that has ended nothing is read any more.
        if let Some(attempt) = self.attempt.filter(|_| answer.finish.is_none()) {
            sequence.settle(answer.network(model), attempt, taken);
        }
        events
    }
}

impl Batch {
    /// Prepares to answer requests, which are taken one by one as there is room for them. An error among them, and a request
    /// that cannot be answered, fails alone.
    ///
    /// # Errors
    /// If the cache options do not fit the model, or a draft model has another vocabulary.
    pub fn new(
        model: Arc<LoadedModel>,
        requests: impl Iterator<Item = Result<Request>> + Send + 'static,
        options: &GenerateOptions,
        limits: BatchOptions,
    ) -> Result<Self> {
        if let Some(draft) = &options.draft {
            draft.check(&model)?;
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
            let more = self.planned(answer.history().len() + SLACK) as u64;
            let room = self.limits.cache_bytes.is_none_or(|most| self.cache_bytes().saturating_add(more) <= most);
            if !room && !self.running.is_empty() {
                return self.waiting.push_front((index, answer));
            }
            match self.begin(index, answer) {
                Ok(running) => self.running.push(running),
                Err(error) => self.events.push_back((index, BatchEvent::Failed(error))),
            }
        }
    }

    /// Gives an answer caches of its own.
    fn begin(&self, index: usize, mut answer: Answer) -> Result<Running> {
        let adapter = answer.params().adapter.clone();
        let sequence = Sequence::under(&self.model, adapter.as_deref(), &self.options.cache)?;
        let draft = self.options.draft.as_ref();
        let drafter = draft.map(|draft| Drafter::start(draft, &self.options.cache)).transpose()?;
        if drafter.is_some() {
            answer.stats.speculation.get_or_insert_with(Speculation::default);
        }
        Ok(Running { index, answer, sequence, drafter })
    }

    /// Bytes that the caches of one sequence of `length` positions need, a draft model's among them.
    fn planned(&self, length: usize) -> usize {
        let draft = match self.options.draft.as_ref().map(|draft| &draft.source) {
            Some(DraftSource::Model(draft)) => draft.cache_bytes(length, &self.options.cache),
            _ => 0,
        };
        self.model.cache_bytes(length, &self.options.cache) + draft
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
            let held = r.sequence.bytes() + r.drafter.as_ref().map_or(0, Drafter::bytes);
            held.max(self.planned(r.answer.history().len())) as u64
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
        let batch = Shared { model: &self.model, options: &self.options, cancel: &self.cancel };
        let mut turns: Vec<Turn<'_>> = Vec::with_capacity(self.running.len());
        for running in self.running.iter_mut().filter(|running| running.sequence.adapter() == adapter) {
            let part = running.next(chunk);
            if let Part::Prompt(count) = part {
                // A piece is never cut shorter than it would be alone.
                if count > left {
                    continue;
                }
                left -= count;
            }
            turns.push(running.turn(part, &batch));
        }
        turns.sort_by_key(|turn| turn.part);
        let Some(first) = turns.first() else { return };
        let network = first.running.answer.network(&self.model);
        let mut reads: Vec<(&mut Sequence, &[u32])> =
            turns.iter_mut().map(|turn| (&mut turn.running.sequence, &turn.tokens[..])).collect();
        let hidden = read_together(network, &mut reads);
        turns.retain(|turn| turn.part == Part::Newest);
        let wanted = turns.iter().map(|turn| turn.tokens.len()).sum();
        if wanted == 0 {
            return;
        }
        let logits = network.logits(&hidden.slice(0, 0, wanted));
        let took = begun.elapsed();
        let mut rows = logits.f32s().chunks_exact(logits.shape().last());
        for turn in turns {
            let (index, own) = (turn.running.index, rows.by_ref().take(turn.tokens.len()).collect::<Vec<_>>());
            let events = turn.take(&self.model, &own, took);
            self.events.extend(events.into_iter().map(|event| (index, event)));
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
