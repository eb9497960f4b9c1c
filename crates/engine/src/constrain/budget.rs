//! Thoughts that end after a number of tokens.

use super::Thoughts;
use crate::error::{EngineError, Result};
use crate::sample::LogitsProcessor;
use crate::text::Tokenizer;

/// Ends thoughts that take more than their budget: from then on nothing but their end marker may follow, and after it
/// everything. As a [`LogitsProcessor`] it takes the history of its first call for the prompt.
pub struct ThinkingBudget {
    tokenizer: Tokenizer,
    /// What begins the thoughts, if the prompt has not.
    start: Vec<u32>,
    /// What shows that they ended, and the tokens that end them.
    end: (String, Vec<u32>),
    budget: usize,
    prompt: Option<usize>,
    phase: Phase,
    failure: Option<EngineError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// So many tokens of what begins thoughts were said.
    Start(usize),
    /// They began with this token of the answer.
    Thinking(usize),
    /// So many tokens of their end were demanded.
    Ending(usize),
    Over,
}

impl ThinkingBudget {
    /// A bound of `budget` tokens for `thoughts`, which end when the model, or this, says `end`.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn new(tokenizer: &Tokenizer, thoughts: Thoughts, end: &str, budget: usize) -> Result<Self> {
        let (start, shown) = match thoughts {
            Thoughts::Begun { end } => (Vec::new(), end),
            Thoughts::Possible { start, end } => (start, end),
        };
        let phase = if start.is_empty() { Phase::Thinking(0) } else { Phase::Start(0) };
        let end = (shown, tokenizer.encode(end, false)?);
        let tokenizer = tokenizer.clone();
        Ok(Self { tokenizer, start, end, budget, prompt: None, phase, failure: None })
    }

    /// Takes the newest token of the answer in.
    fn follow(&mut self, answer: &[u32]) -> Result<()> {
        let Some(token) = answer.last() else { return Ok(()) };
        self.phase = match self.phase {
            Phase::Start(said) if self.start.get(said) == Some(token) => match said + 1 == self.start.len() {
                true => Phase::Thinking(answer.len()),
                false => Phase::Start(said + 1),
            },
            Phase::Start(_) => Phase::Over,
            Phase::Thinking(_) if self.ended(answer)? => Phase::Over,
            Phase::Ending(said) if said == self.end.1.len() => Phase::Over,
            phase => phase,
        };
        if let Phase::Thinking(from) = self.phase
            && answer.len() - from >= self.budget
        {
            self.phase = Phase::Ending(0);
        }
        Ok(())
    }

    /// Whether the last token completed the end marker, perhaps with blank space behind it.
    fn ended(&self, answer: &[u32]) -> Result<bool> {
        // A marker has no more tokens than bytes, and the last token may have some of its own.
        let tail = &answer[answer.len().saturating_sub(self.end.0.len() + 1)..];
        Ok(self.tokenizer.decode(tail, false)?.trim_end().ends_with(self.end.0.trim_end()))
    }
}

impl LogitsProcessor for ThinkingBudget {
    fn process(&mut self, history: &[u32], logits: &mut [f32]) {
        let prompt = *self.prompt.get_or_insert(history.len());
        let begun = self.budget == 0 && self.phase == Phase::Thinking(0);
        if begun {
            self.phase = Phase::Ending(0);
        } else if let Err(error) = self.follow(&history[prompt.min(history.len())..]) {
            logits.fill(f32::NEG_INFINITY);
            self.failure = Some(error);
            return;
        }
        let Phase::Ending(said) = self.phase else { return };
        let Some(next) = self.end.1.get(said).copied() else { return };
        for (token, logit) in logits.iter_mut().enumerate() {
            *logit = if token == next as usize { logit.max(f32::MIN) } else { f32::NEG_INFINITY };
        }
        self.phase = Phase::Ending(said + 1);
    }

    fn take_failure(&mut self) -> Option<EngineError> {
        self.failure.take()
    }
}
