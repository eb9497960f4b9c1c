//! One sequence: the tokens that a model has read, and its state.

use mlxengine_models::{CacheOptions, LanguageModel, Span, State};
use mlxengine_tensor::Tensor;

use crate::error::Result;
use crate::generate::Drafter;

/// Tokens that were read, with the state that reading them left.
#[derive(Clone, Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    state: State,
    /// What a draft model has read of the same, for the next answer.
    drafter: Option<Box<Drafter>>,
}

/// Tokens that are being read on trial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// Tokens before it.
    start: usize,
    /// Whether the position before it was marked for another reason.
    marked: bool,
}

/// Reads tokens of several sequences in one pass; returns their last hidden states, one sequence after another.
pub(crate) fn read_together(network: &dyn LanguageModel, reads: &mut [(&mut Sequence, &[u32])]) -> Tensor {
    let mut spans: Vec<Span<'_>> =
        reads.iter_mut().map(|(sequence, tokens)| Span { tokens, state: &mut sequence.state }).collect();
    let hidden = network.forward(&mut spans);
    for (sequence, tokens) in reads {
        sequence.tokens.extend_from_slice(tokens);
    }
    hidden
}

impl Sequence {
    /// A sequence that has read nothing.
    ///
    /// # Errors
    /// If the options do not fit the model.
    pub fn new(network: &dyn LanguageModel, options: &CacheOptions) -> Result<Self> {
        Ok(Self { tokens: Vec::new(), state: network.state(options)?, drafter: None })
    }

    /// Keeps what a draft model has read of these tokens.
    pub(crate) fn keep_drafter(&mut self, drafter: Option<Drafter>) {
        self.drafter = drafter.map(Box::new);
    }

    /// Hands out what [`Sequence::keep_drafter`] was given.
    pub(crate) fn take_drafter(&mut self) -> Option<Drafter> {
        self.drafter.take().map(|drafter| *drafter)
    }

    /// The tokens that were read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Bytes that the caches hold.
    pub fn bytes(&self) -> usize {
        self.state.bytes()
    }

    /// Prepares to continue with `tokens`: keeps what was read of them, forgets the rest; goes back further, to the last
    /// position that was marked or to the start, where that cannot be. Returns how many need not be read again; at least the
    /// last is always read, because its logits are wanted.
    pub fn sync(&mut self, tokens: &[u32]) -> usize {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let keep = common.min(tokens.len().saturating_sub(1));
        let keep = if keep < self.tokens.len() { self.state.rewind(keep) } else { keep };
        self.tokens.truncate(keep);
        keep
    }

    /// Makes this position one to which [`Sequence::sync`] can go back, whatever the model keeps.
    pub fn mark(&mut self) {
        self.state.mark();
    }

    /// Reads tokens; returns the logits of the last one.
    pub fn read(&mut self, network: &dyn LanguageModel, tokens: &[u32]) -> Tensor {
        let hidden = self.advance(network, tokens);
        let rows = hidden.shape()[0];
        network.logits(&hidden.slice(0, rows - 1, 1))
    }

    /// Reads tokens whose logits nobody wants.
    pub fn skip(&mut self, network: &dyn LanguageModel, tokens: &[u32]) {
        self.advance(network, tokens);
    }

    /// Reads tokens of which the last ones may have to be forgotten; returns the logits of each. [`Sequence::settle`] says how
    /// many stay.
    pub(crate) fn attempt(&mut self, network: &dyn LanguageModel, tokens: &[u32]) -> (Attempt, Tensor) {
        let attempt = Attempt { start: self.tokens.len(), marked: self.state.is_marked() };
        self.state.mark();
        let hidden = self.advance(network, tokens);
        (attempt, network.logits(&hidden))
    }

    /// Ends an attempt: its first `keep` tokens stay read, and the others never were.
    pub(crate) fn settle(&mut self, network: &dyn LanguageModel, attempt: Attempt, keep: usize) {
        let Attempt { start, marked } = attempt;
        let kept = start + keep;
        if self.state.offset() > kept && !self.state.truncate(kept) {
            // What a recurrence carries cannot be cut: back to the mark, and what stays is read again.
            let back = self.state.rewind(start);
            let again = self.tokens[back..kept].to_vec();
            self.tokens.truncate(back);
            self.advance(network, &again);
        }
        self.tokens.truncate(kept);
        if !marked {
            self.state.unmark(start);
        }
    }

    /// Most tokens that one pass may read so that each has the logits which it has if each has a pass of its own.
    pub(crate) fn rows_as_alone(&self, network: &dyn LanguageModel) -> usize {
        network.rows_as_alone(self.state.offset()).min(self.state.rows_as_alone())
    }

    fn advance(&mut self, network: &dyn LanguageModel, tokens: &[u32]) -> Tensor {
        let hidden = network.forward(&mut [Span { tokens, state: &mut self.state }]);
        self.tokens.extend_from_slice(tokens);
        hidden
    }
}
