//! The sampler of one sequence.

use std::hash::{BuildHasher, RandomState};

use super::filters::{self, Scratch};
use super::penalties::{self, Seen};
use super::{GenerateParams, math, philox};
use crate::error::EngineError;

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Its log-probability after penalties and before filters and temperature. NaN if no logit was finite: the model
    /// is broken or everything was forbidden, and `token` means nothing.
    pub logprob: f32,
    /// The likeliest tokens with their log-probabilities, if [`GenerateParams::logprobs`] asks for them.
    pub top: Vec<(u32, f32)>,
}

/// A change to the logits of one's own, such as a grammar or a watermark. Closures will do.
///
/// It is asked once for each position, in their order, with the tokens that were really chosen before: drafts, batches and
/// answers that wait change nothing of that. What it keeps may therefore move on with the last token of the history.
pub trait LogitsProcessor: Send {
    /// Changes `logits` given the tokens so far; -inf forbids a token.
    fn process(&mut self, history: &[u32], logits: &mut [f32]);

    /// Why the last call forbade every token, if it was because something failed.
    fn take_failure(&mut self) -> Option<EngineError> {
        None
    }
}

impl LogitsProcessor for Box<dyn LogitsProcessor> {
    fn process(&mut self, history: &[u32], logits: &mut [f32]) {
        (**self).process(history, logits);
    }

    fn take_failure(&mut self) -> Option<EngineError> {
        (**self).take_failure()
    }
}

impl<F: FnMut(&[u32], &mut [f32]) + Send> LogitsProcessor for F {
    fn process(&mut self, history: &[u32], logits: &mut [f32]) {
        self(history, logits);
    }
}

/// Draws the tokens of one sequence.
///
/// A draw depends on the seed, the stream and the position alone, so that a sequence is the same in a batch, alone, or
/// when a part of it is drawn again.
pub struct Sampler {
    params: GenerateParams,
    seed: u64,
    stream: u64,
    processors: Vec<Box<dyn LogitsProcessor>>,
    xtc_protected: Vec<u32>,
    seen: Seen,
    scratch: Scratch,
    block_sums: Vec<f64>,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("params", &self.params)
            .field("seed", &self.seed)
            .field("stream", &self.stream)
            .field("processors", &self.processors.len())
            .finish_non_exhaustive()
    }
}

impl Sampler {
    /// A sampler for the sequence number `stream` of a request. Without a seed a random one is chosen; see
    /// [`Sampler::seed`].
    pub fn new(params: &GenerateParams, stream: u64) -> Self {
        Sampler {
            params: params.clone(),
            // The standard library's hash keys come from the system's randomness.
            seed: params.seed.unwrap_or_else(|| RandomState::new().hash_one(stream)),
            stream,
            processors: Vec::new(),
            xtc_protected: Vec::new(),
            seen: Seen::default(),
            scratch: Scratch::default(),
            block_sums: Vec::new(),
        }
    }

    /// Adds a processor, run after the penalties in the order of adding.
    #[must_use]
    pub fn with_processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.processors.push(Box::new(processor));
        self
    }

    /// Tokens that XTC never removes: the line break and the end tokens, or answers could not end.
    #[must_use]
    pub fn with_xtc_protected(mut self, tokens: &[u32]) -> Self {
        self.xtc_protected = tokens.to_vec();
        self
    }

    /// Why a processor forbade every token, if one failed.
    pub fn take_failure(&mut self) -> Option<EngineError> {
        self.processors.iter_mut().find_map(|processor| processor.take_failure())
    }

    /// The seed in use; with it the same text comes again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Draws the token at `position`. `history` is the prompt and what was said so far; `logits` is overwritten.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32], position: u64) -> Sampled {
        self.process(logits, history);
        math::sanitize(logits);
        let total = math::log_sum_exp(logits);
        if total == f32::NEG_INFINITY {
            return Sampled { token: 0, logprob: f32::NAN, top: Vec::new() };
        }
        let wanted = self.params.logprobs.unwrap_or(0);
        let mut top = filters::largest(logits, wanted, &mut self.scratch);
        top.iter_mut().for_each(|(_, v)| *v -= total);
        if self.params.temperature == 0.0 {
            let token = math::argmax(logits);
            return Sampled { token: token as u32, logprob: logits[token] - total, top };
        }
        // The filters only remove, so the chosen token's log-probability is still the one before them.
        logits.iter_mut().for_each(|v| *v -= total);
        let [draw, chance] = philox::uniform_pair(self.seed, self.stream, position);
        self.filter(logits, chance);
        let token = self.draw(logits, draw);
        Sampled { token: token as u32, logprob: logits[token], top }
    }

    /// Bias, penalties and processors, on the logits.
    fn process(&mut self, logits: &mut [f32], history: &[u32]) {
        let p = &self.params;
        penalties::logit_bias(logits, &p.logit_bias);
        penalties::repetition(logits, history, p.repetition_penalty, p.repetition_context_size, &mut self.seen);
        penalties::presence(logits, history, p.presence_penalty, p.presence_context_size, &mut self.seen);
        penalties::frequency(logits, history, p.frequency_penalty, p.frequency_context_size);
        for processor in &mut self.processors {
            processor.process(history, logits);
        }
    }

    /// The filters, on log-probabilities. `chance` decides whether XTC is applied this time.
    fn filter(&mut self, logprobs: &mut [f32], chance: f64) {
        let p = &self.params;
        filters::top_p(logprobs, p.top_p, &mut self.scratch);
        filters::min_p(logprobs, p.min_p, p.min_tokens_to_keep, &mut self.scratch);
        if p.xtc_probability > 0.0 && chance <= f64::from(p.xtc_probability) {
            filters::xtc(logprobs, p.xtc_threshold, &self.xtc_protected);
        }
        filters::top_k(logprobs, p.top_k, &mut self.scratch);
    }

    /// The entry at which the cumulated probability at the temperature passes `draw`.
    fn draw(&mut self, logprobs: &[f32], draw: f64) -> usize {
        const BLOCK: usize = 256;
        let (max, scale) = (math::max(logprobs), 1.0 / self.params.temperature);
        let weight = |v: f32| f64::from(math::exp((v - max) * scale));
        self.block_sums.clear();
        let sum = |block: &[f32]| f64::from(math::block_sum_exp(block, max, scale));
        self.block_sums.extend(logprobs.chunks(BLOCK).map(sum));
        let mut left = draw * self.block_sums.iter().sum::<f64>();
        let mut last = None;
        for (block, sum) in self.block_sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            if left >= *sum {
                left -= sum;
                last = Some(block);
                continue;
            }
            let start = block * BLOCK;
            let entries = &logprobs[start..logprobs.len().min(start + BLOCK)];
            for (i, v) in entries.iter().enumerate() {
                let weight = weight(*v);
                if weight > 0.0 && left < weight {
                    return start + i;
                }
                left -= weight;
            }
            // The block sum was rounded up by more than what is left: the last entry with weight is meant.
            last = Some(block);
            break;
        }
        let start = last.unwrap_or(0) * BLOCK;
        let entries = &logprobs[start..logprobs.len().min(start + BLOCK)];
        entries.iter().rposition(|v| weight(*v) > 0.0).map_or_else(|| math::argmax(logprobs), |i| start + i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.77).sin() * 3.0).collect()
    }

    fn draws(sampler: &mut Sampler, logits: &[f32], count: u64) -> Vec<u32> {
        (0..count).map(|position| sampler.sample(&mut logits.to_vec(), &[], position).token).collect()
    }

    #[test]
    fn greedy_takes_the_first_maximum_and_reports_logprobs() {
        let params = GenerateParams { logprobs: Some(2), ..Default::default() };
        let got = Sampler::new(&params, 0).sample(&mut [0.0, 2.0, 1.0, 2.0], &[], 0);
        let total = (1.0 + 2.0 * 2f32.exp() + 1f32.exp()).ln();
        assert_eq!(got.token, 1);
        assert!((got.logprob - (2.0 - total)).abs() < 1e-6);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(got.top[0].1, got.logprob);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = logits(700);
        let params = GenerateParams { temperature: 0.8, seed: Some(11), ..Default::default() };
        let count = 60_000;
        let mut seen = vec![0f64; logits.len()];
        for token in draws(&mut Sampler::new(&params, 0), &logits, count) {
            seen[token as usize] += 1.0;
        }
        let weights: Vec<f64> = logits.iter().map(|v| (f64::from(*v) / 0.8).exp()).collect();
        let total: f64 = weights.iter().sum();
        let chi2: f64 = seen
            .iter()
            .zip(&weights)
            .map(|(seen, w)| {
                let want = w / total * count as f64;
                (seen - want).powi(2) / want
            })
            .sum();
        // 699 degrees of freedom: mean 699, standard deviation 37.
        assert!((550.0..850.0).contains(&chi2), "{chi2}");
    }

    #[test]
    fn a_draw_is_keyed_by_seed_stream_and_position() {
        let logits = logits(300);
        let sampler = |seed, stream| {
            let params = GenerateParams { temperature: 1.0, seed: Some(seed), ..Default::default() };
            Sampler::new(&params, stream)
        };
        let all = draws(&mut sampler(1, 0), &logits, 50);
        assert_eq!(draws(&mut sampler(1, 0), &logits, 50), all);
        assert_ne!(draws(&mut sampler(2, 0), &logits, 50), all);
        assert_ne!(draws(&mut sampler(1, 1), &logits, 50), all);
        let single = sampler(1, 0).sample(&mut logits.clone(), &[], 37).token;
        assert_eq!(single, all[37]);
        let random = GenerateParams { temperature: 1.0, ..Default::default() };
        assert_ne!(Sampler::new(&random, 0).seed(), Sampler::new(&random, 0).seed());
    }

    #[test]
    fn filters_and_processors_are_obeyed() {
        let logits = logits(300);
        let params = GenerateParams {
            temperature: 1.5,
            top_k: 3,
            top_p: 0.99,
            seed: Some(5),
            logit_bias: [(9, 100.0)].into(),
            ..Default::default()
        };
        let mut sampler = Sampler::new(&params, 0).with_processor(|history: &[u32], logits: &mut [f32]| {
            assert_eq!(history, [] as [u32; 0]);
            logits[9] = f32::NEG_INFINITY;
        });
        let best: Vec<u32> =
            filters::largest(&logits, 4, &mut Scratch::default()).iter().map(|t| t.0).filter(|t| *t != 9).collect();
        let tokens = draws(&mut sampler, &logits, 500);
        assert!(tokens.iter().all(|t| best[..3].contains(t)));
        assert!(best[..3].iter().all(|t| tokens.contains(t)));
    }

    #[test]
    fn hopeless_logits_are_reported() {
        for temperature in [0.0, 1.0] {
            let params = GenerateParams { temperature, ..Default::default() };
            let got = Sampler::new(&params, 0).sample(&mut [f32::NAN, f32::NEG_INFINITY], &[], 0);
            assert!(got.logprob.is_nan());
            let got = Sampler::new(&params, 0).sample(&mut [f32::NAN, -1.0, f32::NEG_INFINITY], &[], 0);
            assert_eq!((got.token, got.logprob), (1, 0.0));
        }
    }
}
