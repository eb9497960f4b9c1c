//! One sequence: the tokens that a model has read, and its state.

use mlxengine_models::{CacheOptions, LanguageModel, State};

use crate::error::Result;

/// Tokens that were read, with the state that reading them left.
#[derive(Clone, Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    state: State,
    options: CacheOptions,
}

impl Sequence {
    /// A sequence that has read nothing.
    ///
    /// # Errors
    /// If the options do not fit the model.
    pub fn new(network: &dyn LanguageModel, options: &CacheOptions) -> Result<Self> {
        Ok(Self { tokens: Vec::new(), state: network.state(options)?, options: options.clone() })
    }

    /// The tokens that were read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Bytes that the caches hold.
    pub fn bytes(&self) -> usize {
        self.state.bytes()
    }

    /// Prepares to continue with `tokens`: keeps what was read of them, forgets the rest, starts anew where that cannot be.
    /// Returns how many need not be read again; at least the last is always read, because its logits are wanted.
    ///
    /// # Errors
    /// Those of [`Sequence::new`].
    pub fn sync(&mut self, network: &dyn LanguageModel, tokens: &[u32]) -> Result<usize> {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let keep = common.min(tokens.len().saturating_sub(1));
        if keep < self.tokens.len() && !self.state.truncate(keep) {
            self.state = network.state(&self.options)?;
            self.tokens.clear();
            return Ok(0);
        }
        self.tokens.truncate(keep);
        Ok(keep)
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
