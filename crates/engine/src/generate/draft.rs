//! Who proposes tokens: a smaller model, or the text itself.

use std::sync::Arc;

use mlxengine_models::CacheOptions;

use super::CancelToken;
use super::answer::Answer;
use crate::error::{EngineError, ErrorKind, Result};
use crate::model::LoadedModel;
use crate::sample::{GenerateParams, Sampler};
use crate::sequence::Sequence;

/// How tokens are proposed. What is proposed never changes an answer, only how fast it comes.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who proposes them.
    pub source: DraftSource,
    /// Most tokens at a time; fewer where more would be computed in another order than one alone, as in
    /// [`mlxengine_models::Precision::Fast`].
    pub tokens: usize,
}

/// Who proposes tokens.
#[derive(Clone, Debug)]
pub enum DraftSource {
    /// A smaller model of the same vocabulary.
    Model(Arc<LoadedModel>),
    /// What followed the last few tokens where they occurred before: at most so many, and two at least, if that is not less.
    PromptLookup(usize),
}

impl Draft {
    /// Tokens that mlx-lm's command proposes at a time.
    pub const TOKENS: usize = 3;
    /// Last tokens that a lookup compares at most, if nothing else is said.
    pub const LOOKUP: usize = 3;

    /// Whether this can draft for a model.
    ///
    /// # Errors
    /// If the vocabularies differ, with both sizes.
    pub fn check(&self, model: &LoadedModel) -> Result<()> {
        let DraftSource::Model(draft) = &self.source else { return Ok(()) };
        let (own, others) = (model.tokenizer.vocab_size(), draft.tokenizer.vocab_size());
        let refuse = |what: String| {
            Err(EngineError::new(
                ErrorKind::InvalidParameter,
                format!("the draft model has another vocabulary: {what}"),
            )
            .with_remedy("choose a draft model of the same family, with the same tokenizer"))
        };
        if own != others {
            return refuse(format!("{others} tokens, and the model has {own}"));
        }
        let differs = |id: &u32| model.tokenizer.id_to_token(*id) != draft.tokenizer.id_to_token(*id);
        match (0..own as u32).find(differs) {
            Some(id) => {
                refuse(format!("of the {others} tokens, as many as the model has, number {id} is another text"))
            }
            None => Ok(()),
        }
    }
}

/// What proposes tokens for one sequence.
#[derive(Clone, Debug)]
pub(crate) enum Drafter {
    Model { model: Arc<LoadedModel>, sequence: Sequence },
    PromptLookup(usize),
}

impl Drafter {
    /// `before` is what drafted for the same sequence earlier.
    pub(super) fn new(
        draft: &Draft,
        before: Option<Drafter>,
        model: &LoadedModel,
        cache: &CacheOptions,
    ) -> Result<Drafter> {
        match (&draft.source, before) {
            (DraftSource::PromptLookup(longest), _) => Ok(Drafter::PromptLookup(*longest)),
            (DraftSource::Model(own), Some(Drafter::Model { model, sequence })) if Arc::ptr_eq(own, &model) => {
                Ok(Drafter::Model { model, sequence })
            }
            _ => {
                draft.check(model)?;
                Drafter::start(draft, cache)
            }
        }
    }

    /// What drafts for a sequence that has read nothing; [`Draft::check`] was asked before.
    pub(super) fn start(draft: &Draft, cache: &CacheOptions) -> Result<Drafter> {
        match &draft.source {
            DraftSource::PromptLookup(longest) => Ok(Drafter::PromptLookup(*longest)),
            DraftSource::Model(own) => {
                // Its sizes may not allow the model's cache options, and what is proposed need not be exact.
                let sequence = Sequence::new(&*own.network, cache)
                    .or_else(|_| Sequence::new(&*own.network, &CacheOptions::default()))?;
                Ok(Drafter::Model { model: Arc::clone(own), sequence })
            }
        }
    }

    /// Bytes of its own caches.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Drafter::Model { sequence, .. } => sequence.bytes(),
            Drafter::PromptLookup(_) => 0,
        }
    }

    /// At most `most` tokens that may follow.
    pub(super) fn propose(&mut self, answer: &Answer, most: usize, chunk: usize, cancel: &CancelToken) -> Vec<u32> {
        match self {
            Drafter::PromptLookup(longest) => look_up(answer.history(), *longest, most),
            Drafter::Model { model, sequence } => Drafting { model, sequence, answer }.propose(most, chunk, cancel),
        }
    }
}

struct Drafting<'a> {
    model: &'a LoadedModel,
    sequence: &'a mut Sequence,
    answer: &'a Answer,
}

impl Drafting<'_> {
    fn propose(self, most: usize, chunk: usize, cancel: &CancelToken) -> Vec<u32> {
        let network = &*self.model.network;
        let mut history = self.answer.history().to_vec();
        let (length, vocab) = (history.len(), network.spec().vocab);
        self.sequence.sync(&history);
        if history[self.sequence.tokens().len()..].iter().any(|token| *token as usize >= vocab)
            || self.model.context().is_some_and(|context| length + most > context)
        {
            return Vec::new();
        }
        while self.sequence.tokens().len() + chunk < length {
            if cancel.is_cancelled() {
                return Vec::new();
            }
            let done = self.sequence.tokens().len();
            self.sequence.skip(network, &history[done..done + chunk]);
        }
        // The draws are those of the answer: where both models agree on the distribution, they agree on the token.
        let params = GenerateParams { logprobs: None, seed: Some(self.answer.seed()), ..self.answer.params().clone() };
        let protected: Vec<u32> = self.model.end_tokens.iter().map(|end| end.id).collect();
        let mut sampler = Sampler::new(&params, 0).with_xtc_protected(&protected);
        let mut logits = Vec::new();
        while history.len() < length + most {
            let row = self.sequence.read(network, &history[self.sequence.tokens().len()..]);
            if history.len() == length {
                // The text up to here will stay; a recurrence goes back to this position.
                self.sequence.mark();
            }
            logits.clear();
            logits.extend_from_slice(row.f32s());
            let sampled = sampler.sample(&mut logits, &history, history.len() as u64);
            if sampled.logprob.is_nan() || sampled.token as usize >= self.answer.vocab() {
                break;
            }
            history.push(sampled.token);
            if self.model.ends_answer(sampled.token) {
                break;
            }
        }
        history.split_off(length)
    }
}

/// What followed the last occurrence of the last tokens: of as many of them as occurred before, `longest` at most.
fn look_up(history: &[u32], longest: usize, most: usize) -> Vec<u32> {
    let length = history.len();
    for size in (longest.min(2)..=longest.min(length.saturating_sub(1))).rev().filter(|size| *size > 0) {
        let last = &history[length - size..];
        let Some(at) = history[..length - 1].windows(size).rposition(|window| window == last) else { continue };
        // Where the occurrence overlaps the end, the text repeats itself, and so does the proposal.
        let (from, period) = (at + size, length - at - size);
        return (0..most).map(|i| history[from + i % period]).collect();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_followed_is_proposed() {
        assert_eq!(look_up(&[1, 2, 3, 4, 5, 1, 2, 3], 3, 2), [4, 5]);
        assert_eq!(look_up(&[9, 2, 3, 4, 7, 2, 3, 5, 1, 2, 3], 3, 2), [5, 1], "the latest of two tokens");
        assert_eq!(look_up(&[1, 2, 3, 9, 3], 3, 2), [] as [u32; 0], "one token is too few");
        assert_eq!(look_up(&[1, 2, 3, 9, 3], 1, 2), [9, 3]);
        assert_eq!(look_up(&[5, 8, 8, 8], 3, 4), [8; 4], "a text that repeats itself goes on so");
        assert_eq!(look_up(&[1, 2, 1, 2, 1, 2], 3, 5), [1, 2, 1, 2, 1]);
        for (history, longest) in [(&[][..], 3), (&[1], 3), (&[1, 1], 0)] {
            assert_eq!(look_up(history, longest, 3), [] as [u32; 0]);
        }
    }

    proptest! {
        #[test]
        fn any_history_gives_tokens_of_it(
            history in prop::collection::vec(0u32..4, 0..30), longest in 0usize..5, most in 0usize..9,
        ) {
            let proposed = look_up(&history, longest, most);
            prop_assert!(proposed.is_empty() || proposed.len() == most);
            prop_assert!(proposed.iter().all(|token| history.contains(token)));
        }
    }
}
