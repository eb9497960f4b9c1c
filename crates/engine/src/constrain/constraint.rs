//! The state of one answer under a grammar.

use llguidance::Matcher;
use toktrie::{SimpleVob, TokEnv, TokTrie};

use super::internal;
use crate::error::{EngineError, Result};
use crate::sample::LogitsProcessor;

/// Thoughts before the answer, which the grammar does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thoughts {
    /// The prompt has begun them; they end with this text.
    Begun {
        /// Ends them.
        end: String,
    },
    /// The model may begin them, with these tokens.
    Possible {
        /// Begins them.
        start: Vec<u32>,
        /// Ends them.
        end: String,
    },
}

/// Forbids the tokens with which a grammar could not go on.
///
/// It is a value of its own for each answer; a clone goes on independently. As a [`LogitsProcessor`] it takes the history of
/// its first call for the prompt and follows what is added and what is taken back.
pub struct Constraint {
    matcher: Matcher,
    env: TokEnv,
    thoughts: Option<Thoughts>,
    /// The tokens of the answer.
    taken: Vec<u32>,
    phase: Phase,
    mask: SimpleVob,
    prompt: Option<usize>,
    failure: Option<EngineError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// So many tokens of what begins thoughts were said; with none, the answer may begin instead.
    Start(usize),
    Thinking,
    /// The grammar began with this token of the answer.
    Answer(usize),
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("phase", &self.phase).field("tokens", &self.taken.len()).finish()
    }
}

impl Clone for Constraint {
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            env: self.env.clone(),
            thoughts: self.thoughts.clone(),
            taken: self.taken.clone(),
            phase: self.phase,
            mask: self.mask.clone(),
            prompt: self.prompt,
            failure: None,
        }
    }
}

impl Constraint {
    pub(super) fn new(matcher: Matcher, env: TokEnv) -> Self {
        Self {
            matcher,
            env,
            thoughts: None,
            taken: Vec::new(),
            phase: Phase::Answer(0),
            mask: SimpleVob::new(),
            prompt: None,
            failure: None,
        }
    }

    /// Lets the model think first.
    #[must_use]
    pub fn after(mut self, thoughts: Thoughts) -> Self {
        self.phase = match &thoughts {
            Thoughts::Begun { .. } => Phase::Thinking,
            Thoughts::Possible { .. } => Phase::Start(0),
        };
        self.thoughts = Some(thoughts);
        self
    }

    fn trie(&self) -> &TokTrie {
        self.env.tok_trie()
    }

    /// The tokens that may come next, a bit each; a token beyond the last bit may not.
    ///
    /// # Errors
    /// If the grammar takes more time or memory than a token is worth.
    pub fn mask(&mut self) -> Result<&[u32]> {
        self.mask = match (self.phase, &self.thoughts) {
            (Phase::Answer(_), _) => self.matcher.compute_mask_or_eos().map_err(|e| internal(&e))?,
            (Phase::Start(0), Some(Thoughts::Possible { start, .. })) => {
                let first = start.first().copied();
                let mut mask = self.matcher.compute_mask_or_eos().map_err(|e| internal(&e))?;
                first.into_iter().for_each(|token| mask.allow_token(token));
                mask
            }
            (Phase::Start(said), Some(Thoughts::Possible { start, .. })) => {
                self.trie().singleton_token_set(start[said])
            }
            _ => {
                let mut mask = self.trie().alloc_token_set();
                mask.set_all(true);
                self.trie().eos_tokens().iter().for_each(|token| mask.disallow_token(*token));
                mask
            }
        };
        Ok(self.mask.as_slice())
    }

    /// Takes a token into the answer.
    ///
    /// # Errors
    /// If the token is not allowed.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        self.taken.push(token);
        match (self.phase, &self.thoughts) {
            (Phase::Start(said), Some(Thoughts::Possible { start, .. })) if start.get(said) == Some(&token) => {
                self.phase = if said + 1 == start.len() { Phase::Thinking } else { Phase::Start(said + 1) };
            }
            (Phase::Start(_), _) => {
                self.phase = Phase::Answer(0);
                self.matcher.consume_token(token).map_err(|e| internal(&e))?;
            }
            (Phase::Thinking, Some(Thoughts::Begun { end } | Thoughts::Possible { end, .. })) => {
                if self.ends_with(end) {
                    self.phase = Phase::Answer(self.taken.len());
                }
            }
            (Phase::Thinking, None) => {}
            (Phase::Answer(_), _) => self.matcher.consume_token(token).map_err(|e| internal(&e))?,
        }
        Ok(())
    }

    /// Whether the last token completed `marker`, perhaps with blank space behind it.
    fn ends_with(&self, marker: &str) -> bool {
        // A marker has no more tokens than bytes, and the last token may have some bytes of its own.
        let tail = &self.taken[self.taken.len().saturating_sub(marker.len() + 1)..];
        let trie = self.env.tok_trie();
        let mut text: Vec<u8> = Vec::new();
        for token in tail {
            let bytes = trie.token(*token);
            text.extend_from_slice(bytes.strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER]).unwrap_or(bytes));
        }
        text.trim_ascii_end().ends_with(marker.trim_end().as_bytes())
    }

    /// Takes the last `count` tokens back.
    ///
    /// # Errors
    /// If the grammar cannot go back.
    pub fn rollback(&mut self, count: usize) -> Result<()> {
        let left = self.taken.len().saturating_sub(count);
        match self.phase {
            Phase::Answer(from) if left >= from && (from > 0 || left > 0 || self.thoughts.is_none()) => {
                self.matcher.rollback(self.taken.len() - left).map_err(|e| internal(&e))?;
                self.taken.truncate(left);
                Ok(())
            }
            phase => {
                // Thoughts are read again: they are cheap, and the grammar has not begun.
                if let Phase::Answer(from) = phase {
                    self.matcher.rollback(self.taken.len() - from).map_err(|e| internal(&e))?;
                }
                let again: Vec<u32> = self.taken.drain(..).take(left).collect();
                self.phase = match &self.thoughts {
                    Some(Thoughts::Begun { .. }) => Phase::Thinking,
                    Some(Thoughts::Possible { .. }) => Phase::Start(0),
                    None => Phase::Answer(0),
                };
                again.into_iter().try_for_each(|token| self.accept(token))
            }
        }
    }

    /// Whether nothing can follow any more.
    pub fn is_complete(&self) -> bool {
        matches!(self.phase, Phase::Answer(_)) && self.matcher.is_stopped()
    }

    /// Follows an answer to where it is now.
    fn follow(&mut self, answer: &[u32]) -> Result<()> {
        let common = self.taken.iter().zip(answer).take_while(|(a, b)| a == b).count();
        if common < self.taken.len() {
            self.rollback(self.taken.len() - common)?;
        }
        answer[common..].iter().try_for_each(|token| self.accept(*token))
    }

    fn constrain(&mut self, history: &[u32], logits: &mut [f32]) -> Result<()> {
        let prompt = *self.prompt.get_or_insert(history.len());
        self.follow(&history[prompt.min(history.len())..])?;
        let mask = self.mask()?;
        for (token, logit) in logits.iter_mut().enumerate() {
            let word = mask.get(token / 32).copied().unwrap_or(0);
            if word >> (token % 32) & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }
}

impl LogitsProcessor for Constraint {
    fn process(&mut self, history: &[u32], logits: &mut [f32]) {
        if let Err(error) = self.constrain(history, logits) {
            // Nothing may be drawn that the grammar has not allowed.
            logits.fill(f32::NEG_INFINITY);
            self.failure = Some(error);
        }
    }

    fn take_failure(&mut self) -> Option<EngineError> {
        self.failure.take()
    }
}
