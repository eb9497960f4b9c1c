//! One sequence: the tokens that a model has read, and its state.

use mlxengine_models::{CacheOptions, LanguageModel, State};

use crate::error::Result;

/// Tokens that were read, with the state that reading them left.
#[derive(Clone, Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    state: State,
}

impl Sequence {
    /// A sequence that has read nothing.
    ///
    /// # Errors
    /// If the options do not fit the model.
    pub fn new(network: &dyn LanguageModel, options: &CacheOptions) -> Result<Self> {
        Ok(Self { tokens: Vec::new(), state: network.state(options)? })
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
    pub fn read(&mut self, network: &dyn LanguageModel, tokens: &[u32]) -> mlxengine_tensor::Tensor {
        let hidden = self.advance(network, tokens);
        let rows = hidden.shape()[0];
        network.logits(&hidden.slice(0, rows - 1, 1))
    }

    /// Reads tokens whose logits nobody wants.
    pub fn skip(&mut self, network: &dyn LanguageModel, tokens: &[u32]) {
        self.advance(network, tokens);
    }

    fn advance(&mut self, network: &dyn LanguageModel, tokens: &[u32]) -> mlxengine_tensor::Tensor {
        let hidden = network.forward(&mut [mlxengine_models::Span { tokens, state: &mut self.state }]);
        self.tokens.extend_from_slice(tokens);
        hidden
    }
}
