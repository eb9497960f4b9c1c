//! One sequence: the tokens that a model has read, and its state; on disk too.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mlxengine_models::{CacheFile, CacheOptions, LanguageModel, Span, State};
use mlxengine_tensor::Tensor;

use crate::error::{EngineError, ErrorKind, Result};
use crate::generate::Drafter;
use crate::model::LoadedModel;

/// What a file of ours says beside the caches: the tokens, and which model has read them.
const TOKENS: &str = "mlxengine_tokens";
const MODEL: &str = "mlxengine_model";

/// Tokens that were read, with the state that reading them left.
#[derive(Clone, Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    state: State,
    /// The adapter under which they were read: another's keys and values are no use.
    adapter: Option<Arc<str>>,
    /// Positions before the tokens, of which only the state is known.
    unknown: usize,
    /// What a draft model has read of the same, for the next answer.
    drafter: Option<Box<Drafter>>,
}

/// Tokens that are being read on trial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// Positions before it.
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
        Ok(Self { tokens: Vec::new(), state: network.state(options)?, adapter: None, unknown: 0, drafter: None })
    }

    /// Keeps what a draft model has read of these tokens.
    pub(crate) fn keep_drafter(&mut self, drafter: Option<Drafter>) {
        self.drafter = drafter.map(Box::new);
    }

    /// Hands out what [`Sequence::keep_drafter`] was given.
    pub(crate) fn take_drafter(&mut self) -> Option<Drafter> {
        self.drafter.take().map(|drafter| *drafter)
    }

    /// A sequence that has read nothing, to be read under an adapter.
    ///
    /// # Errors
    /// If the options do not fit the model, or there is no such adapter.
    pub fn under(model: &LoadedModel, adapter: Option<&str>, options: &CacheOptions) -> Result<Self> {
        Ok(Self { adapter: adapter.map(Arc::from), ..Self::new(model.under(adapter)?, options)? })
    }

    /// The tokens that were read, as far as they are known.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The adapter under which they were read.
    pub fn adapter(&self) -> Option<&str> {
        self.adapter.as_deref()
    }

    /// Positions before [`Sequence::tokens`] whose tokens nobody knows: those of a prompt cache that does not list them.
    pub fn unknown(&self) -> usize {
        self.unknown
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
        let mut kept = self.unknown + keep;
        if keep < self.tokens.len() {
            kept = self.state.rewind(kept);
        }
        if kept < self.unknown {
            // What came before is lost with the state.
            self.state.truncate(0);
            (kept, self.unknown) = (0, 0);
        }
        let keep = kept - self.unknown;
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
        let attempt = self.begin_attempt();
        let hidden = self.advance(network, tokens);
        (attempt, network.logits(&hidden))
    }

    /// Begins an attempt, whose tokens are read next.
    pub(crate) fn begin_attempt(&mut self) -> Attempt {
        let attempt = Attempt { start: self.state.offset(), marked: self.state.is_marked() };
        self.state.mark();
        attempt
    }

    /// Ends an attempt: its first `keep` tokens stay read, and the others never were.
    pub(crate) fn settle(&mut self, network: &dyn LanguageModel, attempt: Attempt, keep: usize) {
        let Attempt { start, marked } = attempt;
        let kept = start + keep - self.unknown;
        if self.state.offset() > start + keep && !self.state.truncate(start + keep) {
            // What a recurrence carries cannot be cut: back to the mark, and what stays is read again.
            let back = self.state.rewind(start) - self.unknown;
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

    /// Writes a prompt cache: one that mlx-lm reads, which also says what was read and by which model.
    ///
    /// # Errors
    /// If nothing was read yet, or the file cannot be written.
    pub fn save(&self, model: &LoadedModel, path: &Path) -> Result<()> {
        let ids: Vec<String> = self.tokens.iter().map(u32::to_string).collect();
        let mut said = BTreeMap::from([(MODEL.to_owned(), model.identity(self.adapter())?)]);
        if self.unknown == 0 {
            said.insert(TOKENS.to_owned(), ids.join(" "));
        }
        let bytes = self.state.save(model.under(self.adapter())?, &said)?;
        // Whoever reads the file finds it whole, or not at all.
        let whole = path.with_extension(format!("{}.part", std::process::id()));
        let written = std::fs::write(&whole, bytes).and_then(|()| std::fs::rename(&whole, path));
        written.map_err(|e| {
            let _ = std::fs::remove_file(&whole);
            EngineError::new(ErrorKind::Io, format!("cannot write {}: {e}", path.display())).with_source(e)
        })
    }

    /// Reads a prompt cache, ours or one of mlx-lm's, which does not say its tokens: they are then [`Sequence::unknown`].
    ///
    /// # Errors
    /// If the file is damaged, or was written for another model or adapter, as far as it says so or its sizes show it.
    pub fn load(model: &LoadedModel, adapter: Option<&str>, path: &Path, options: &CacheOptions) -> Result<Self> {
        let file = CacheFile::open(path)?;
        let refuse = |what: &str| {
            let message = format!("the prompt cache {} {what}", path.display());
            EngineError::new(ErrorKind::InvalidInput, message).with_remedy("make it again for this model")
        };
        if file.metadata.get(MODEL).is_some_and(|identity| model.identity(adapter).ok().as_ref() != Some(identity)) {
            return Err(refuse("was made by another model, or under another adapter"));
        }
        let ids = file.metadata.get(TOKENS).map(|ids| ids.split_whitespace().map(str::parse).collect());
        let tokens: Option<Vec<u32>> = ids.transpose().map_err(|_| refuse("lists tokens that are no numbers"))?;
        let state = State::restore(model.under(adapter)?, &file, tokens.as_ref().map(Vec::len), options)?;
        if tokens.as_ref().is_some_and(|tokens| tokens.len() != state.offset()) {
            return Err(refuse("lists more or fewer tokens than it has read"));
        }
        let unknown = if tokens.is_some() { 0 } else { state.offset() };
        Ok(Self { tokens: tokens.unwrap_or_default(), state, adapter: adapter.map(Arc::from), unknown, drafter: None })
    }
}
