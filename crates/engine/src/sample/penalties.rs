//! Changes to the logits that depend on what was said.

use std::collections::BTreeMap;

/// The last `context` tokens; 0 means all of them.
fn tail(history: &[u32], context: usize) -> &[u32] {
    match context {
        0 => history,
        n => &history[history.len().saturating_sub(n)..],
    }
}

/// A set of token ids that is cleared by walking what was put in.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    bits: Vec<u64>,
}

impl Seen {
    /// Calls `change` once for each distinct id of `tokens` that is below `vocab`.
    fn distinct(&mut self, tokens: &[u32], vocab: usize, mut change: impl FnMut(usize)) {
        self.bits.resize(vocab.div_ceil(64).max(self.bits.len()), 0);
        for id in tokens.iter().map(|id| *id as usize).filter(|id| *id < vocab) {
            let bit = 1u64 << (id % 64);
            if self.bits[id / 64] & bit == 0 {
                self.bits[id / 64] |= bit;
                change(id);
            }
        }
        for id in tokens.iter().map(|id| *id as usize).filter(|id| *id < vocab) {
            self.bits[id / 64] = 0;
        }
    }
}

/// Adds a number to single logits; ids beyond the vocabulary are left out.
pub fn logit_bias(logits: &mut [f32], bias: &BTreeMap<u32, f32>) {
    for (id, value) in bias {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit += value;
        }
    }
}

/// Divides positive and multiplies negative logits of the tokens in the last `context` ones; 0 and 1 change nothing.
pub fn repetition(logits: &mut [f32], history: &[u32], penalty: f32, context: usize, seen: &mut Seen) {
    if penalty == 0.0 || penalty == 1.0 {
        return;
    }
    seen.distinct(tail(history, context), logits.len(), |id| {
        let logit = &mut logits[id];
        *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
    });
}

/// Lowers once the logit of each token that occurs in the last `context` ones.
pub fn presence(logits: &mut [f32], history: &[u32], penalty: f32, context: usize, seen: &mut Seen) {
    if penalty == 0.0 {
        return;
    }
    seen.distinct(tail(history, context), logits.len(), |id| logits[id] -= penalty);
}

/// Lowers the logit of each of the last `context` tokens once per occurrence.
pub fn frequency(logits: &mut [f32], history: &[u32], penalty: f32, context: usize) {
    if penalty == 0.0 {
        return;
    }
    for id in tail(history, context) {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit -= penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_penalty_counts_as_it_should() {
        let history = [0, 1, 1, 9, 1];
        let mut seen = Seen::default();
        let mut logits = [2.0, -2.0, 1.0];
        repetition(&mut logits, &history, 2.0, 0, &mut seen);
        assert_eq!(logits, [1.0, -4.0, 1.0]);
        presence(&mut logits, &history, 0.5, 3, &mut seen);
        assert_eq!(logits, [1.0, -4.5, 1.0]);
        frequency(&mut logits, &history, 0.5, 20);
        assert_eq!(logits, [0.5, -6.0, 1.0]);
        logit_bias(&mut logits, &BTreeMap::from([(2, 1.5), (7, 1.0)]));
        assert_eq!(logits, [0.5, -6.0, 2.5]);
        assert!(seen.bits.iter().all(|b| *b == 0));
    }
}
