//! How likely texts are to a model: losses, perplexity, and the likelihood of continuations.

use mlxengine_models::{CacheOptions, LanguageModel, Span, State};
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, ErrorKind, Result};
use crate::sample::{argmax, log_sum_exp};
use crate::sequence::Sequence;

/// Rows whose logits are computed at a time: a vocabulary has many entries, and a text many rows.
const ROWS: usize = 64;

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// The exponential of the mean loss.
    pub perplexity: f64,
    /// Of the perplexity, as the mean loss has one.
    pub standard_error: f64,
}

impl Perplexity {
    /// Of losses of single tokens.
    pub fn of(losses: &[f32]) -> Self {
        let count = losses.len() as f64;
        let mean = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / count;
        let variance = losses.iter().map(|loss| (f64::from(*loss) - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let perplexity = mean.exp();
        let standard_error = if losses.len() > 1 { perplexity * (variance / count).sqrt() } else { f64::INFINITY };
        Self { tokens: losses.len(), perplexity, standard_error }
    }
}

/// Negative log-probabilities of the tokens of each row but the first, each after those before it. The rows are read in one
/// pass; a row of fewer than two tokens has none.
///
/// # Errors
/// If a token is not of the model's vocabulary.
pub fn losses(network: &dyn LanguageModel, rows: &[&[u32]]) -> Result<Vec<f32>> {
    let rows: Vec<&[u32]> = rows.iter().copied().filter(|row| row.len() > 1).collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    check(network, rows.iter().copied().flatten())?;
    let states = rows.iter().map(|_| network.state(&CacheOptions::default()));
    let mut states: Vec<State> = states.collect::<std::result::Result<_, _>>()?;
    let mut spans: Vec<Span<'_>> =
        rows.iter().zip(&mut states).map(|(row, state)| Span { tokens: &row[..row.len() - 1], state }).collect();
    let hidden = network.forward(&mut spans);
    let targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].iter().copied()).collect();
    let mut losses = Vec::with_capacity(targets.len());
    for (block, targets) in targets.chunks(ROWS).enumerate() {
        let logits = network.logits(&hidden.clone().slice(0, block * ROWS, targets.len()));
        let rows = logits.f32s().chunks_exact(logits.shape().last()).zip(targets);
        losses.extend(rows.map(|(row, target)| log_sum_exp(row) - row[*target as usize]));
    }
    Ok(losses)
}

/// How likely a continuation is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// The sum of its tokens' log-probabilities.
    pub logprob: f64,
    /// How many tokens it has.
    pub tokens: usize,
    /// Whether each of them is the likeliest after those before it.
    pub greedy: bool,
}

/// How likely each continuation of a context is. The context is read once.
///
/// # Errors
/// If the context or a continuation is empty, or has tokens that are not of the model's vocabulary.
pub fn likelihoods(
    network: &dyn LanguageModel,
    context: &[u32],
    continuations: &[Vec<u32>],
    chunk: usize,
) -> Result<Vec<Likelihood>> {
    let invalid = |message: &str| Err(EngineError::new(ErrorKind::InvalidInput, message));
    if context.is_empty() {
        return invalid("a context has no tokens");
    }
    if continuations.iter().any(Vec::is_empty) {
        return invalid("a continuation adds no token to its context");
    }
    check(network, context.iter().chain(continuations.iter().flatten()))?;
    let mut sequence = Sequence::new(network, &CacheOptions::default())?;
    let before = (context.len() - 1) / chunk.max(1) * chunk.max(1);
    context[..before].chunks(chunk.max(1)).for_each(|tokens| sequence.skip(network, tokens));
    let first = sequence.read(network, &context[before..]);
    let mut all = Vec::with_capacity(continuations.len());
    for tokens in continuations {
        let mut likelihood = Likelihood { logprob: 0.0, tokens: tokens.len(), greedy: true };
        let mut add = |row: &[f32], token: u32| {
            likelihood.logprob += f64::from(row[token as usize] - log_sum_exp(row));
            likelihood.greedy &= argmax(row) == token as usize;
        };
        add(first.f32s(), tokens[0]);
        if tokens.len() > 1 {
            let (attempt, logits) = sequence.attempt(network, &tokens[..tokens.len() - 1]);
            let rows = logits.f32s().chunks_exact(logits.shape().last());
            rows.zip(&tokens[1..]).for_each(|(row, token)| add(row, *token));
            sequence.settle(network, attempt, 0);
        }
        all.push(likelihood);
    }
    Ok(all)
}

fn check<'a>(network: &dyn LanguageModel, mut tokens: impl Iterator<Item = &'a u32>) -> Result<()> {
    let vocab = network.spec().vocab;
    match tokens.find(|token| **token as usize >= vocab) {
        None => Ok(()),
        Some(token) => Err(EngineError::new(
            ErrorKind::InvalidInput,
            format!(
                "a text has token {token}, but the model knows only {vocab}: its tokenizer.json belongs to another model"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perplexity_has_its_error() {
        let found = Perplexity::of(&[1.0, 2.0, 3.0]);
        assert_eq!(found.tokens, 3);
        assert!((found.perplexity - 2f64.exp()).abs() < 1e-9);
        assert!((found.standard_error - 2f64.exp() / 3f64.sqrt()).abs() < 1e-9);
        assert!(Perplexity::of(&[1.0]).standard_error.is_infinite());
    }
}
