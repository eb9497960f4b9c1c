//! How fast a model reads prompts and writes answers on this machine.
//!
//! A [`Test`] means what it means in llama.cpp's `llama-bench`: tokens are random, nothing is sampled, the cache is filled to
//! the test's depth before the clock starts, and a warm-up comes first. A checkpoint needs no tokenizer for it.
//!
//! ```
//! use mlxengine::bench::{Benchmark, Test};
//! use mlxengine::{CancelToken, LoadOptions};
//!
//! let model = Benchmark::load("demo", &LoadOptions::default(), |_| {})?;
//! let test = Test { prompt: 0, generated: 4, depth: 32, sequences: 1 };
//! let measured = model.run(&test, 2, &CancelToken::new(), &mut |_, _| {})?;
//! println!("{test}: {:.1} tokens/s", measured.mean());
//! # Ok::<(), mlxengine::EngineError>(())
//! ```

use std::fmt;
use std::time::Instant;

use mlxengine_engine::{CancelToken, EngineError, ErrorKind, Result};
use mlxengine_models::{Adapter, Checkpoint, LanguageModel, Span, State, decoder};

use crate::configuration::{StorageShare, storage};
use crate::engine::{LoadOptions, LoadProgress};
use crate::memory::{human, memory, peak, reset_peak};
use crate::source::ModelSource;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Test {
    /// Tokens of the prompt that each sequence reads.
    pub prompt: usize,
    /// Tokens that each sequence writes then.
    pub generated: usize,
    /// Tokens that each sequence has read before the clock starts.
    pub depth: usize,
    /// Sequences that are decoded together.
    pub sequences: usize,
}

impl Test {
    /// Tokens that the clock counts.
    pub fn tokens(&self) -> usize {
        self.sequences * (self.prompt + self.generated)
    }

    /// Positions of a sequence at the end.
    pub fn length(&self) -> usize {
        self.depth.saturating_add(self.prompt).saturating_add(self.generated)
    }
}

/// As in `pp512`, `tg128@4096`, `tg128b8`, `pp512+tg128`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.prompt, self.generated) {
            (prompt, 0) => write!(f, "pp{prompt}")?,
            (0, generated) => write!(f, "tg{generated}")?,
            (prompt, generated) => write!(f, "pp{prompt}+tg{generated}")?,
        }
        if self.sequences > 1 {
            write!(f, "b{}", self.sequences)?;
        }
        if self.depth > 0 { write!(f, "@{}", self.depth) } else { Ok(()) }
    }
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Tokens a second of each repetition, of all sequences together; fewer than were asked for if somebody cancelled.
    pub rates: Vec<f64>,
    /// Bytes of weights and caches that a pass of the test's answer reads, on average; `None` where a prompt is measured, since
    /// its tokens share the weights.
    pub pass_bytes: Option<u64>,
    /// Bytes that the caches held at the end.
    pub cache_bytes: u64,
    /// Most memory that the process had during the test, pages of mapped files among it, where the system says.
    pub peak_memory: Option<u64>,
}

impl Measured {
    /// Mean of the rates; 0 if there are none.
    pub fn mean(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64
    }

    /// Standard deviation of the rates, of the sample; 0 if there are fewer than two.
    pub fn deviation(&self) -> f64 {
        let (mean, count) = (self.mean(), self.rates.len());
        let squares: f64 = self.rates.iter().map(|rate| (rate - mean).powi(2)).sum();
        (squares / count.saturating_sub(1).max(1) as f64).sqrt()
    }
}

/// A model to measure: its network alone.
pub struct Benchmark {
    network: Box<dyn LanguageModel>,
    options: LoadOptions,
}

impl fmt::Debug for Benchmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Benchmark").field("parameters", &self.parameters()).finish()
    }
}

impl Benchmark {
    /// Loads the network of `demo`, a directory, or `mlx://org/name`.
    ///
    /// # Errors
    /// If there is no such model, its files are damaged, or it is of a kind that is not supported.
    pub fn load(model: &str, options: &LoadOptions, mut progress: impl FnMut(LoadProgress)) -> Result<Self> {
        let checkpoint = Checkpoint::open(ModelSource::parse(model)?.resolve(&options.paths)?)?;
        let adapter = match &options.adapters[..] {
            [] => None,
            [(_, directory)] => Some(Adapter::open(directory)?),
            _ => {
                let message = "a benchmark measures one adapter at a time";
                return Err(EngineError::new(ErrorKind::InvalidInput, message).with_remedy("give one"));
            }
        };
        let progress = |done, total| progress(LoadProgress { done, total });
        let network = decoder::load_adapted(&checkpoint, adapter.as_ref(), options.precision, progress)?;
        network.state(&options.generate.cache)?;
        Ok(Self { network, options: options.clone() })
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.network.record().parameters() as u64
    }

    /// Bytes of the weights in the files.
    pub fn bytes(&self) -> u64 {
        self.network.record().bytes() as u64
    }

    /// How the weights are stored, the most frequent way first.
    pub fn storage(&self) -> Vec<StorageShare> {
        storage(self.network.record())
    }

    /// Reads one token and chooses the one after it.
    ///
    /// # Errors
    /// If the caches do not fit the model.
    pub fn first_token(&self) -> Result<u32> {
        let mut state = self.network.state(&self.options.generate.cache)?;
        let token = Tokens::new(self.network.spec().vocab).next();
        let hidden = self.network.forward(&mut [Span { tokens: &[token], state: &mut state }]);
        let logits = self.network.logits(&hidden);
        let likeliest = logits.f32s().iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        Ok(likeliest.map_or(0, |(token, _)| token as u32))
    }

    /// Whether a test fits this model and this machine.
    ///
    /// # Errors
    /// If it measures nothing, or is longer than the context or larger than the memory.
    pub fn check(&self, test: &Test) -> Result<()> {
        if test.tokens() == 0 {
            let message = "there is nothing to measure: no prompt is read, and no token written";
            return Err(EngineError::new(ErrorKind::InvalidParameter, message));
        }
        let (own, asked) = (self.network.spec().context, self.options.context);
        if let Some(context) = own.into_iter().chain(asked).min()
            && test.length() > context
        {
            let message = format!("{test} needs a context of {} tokens, and there are {context}", test.length());
            return Err(EngineError::new(ErrorKind::ContextExceeded, message)
                .with_remedy("take a shorter prompt or answer, or less depth"));
        }
        let pass = test.prompt.max(test.depth).min(self.options.generate.prefill_chunk).max(test.sequences);
        let cache = self.network.cache_bytes(test.length(), &self.options.generate.cache);
        let need = (self.bytes() as usize)
            .saturating_add(cache.saturating_mul(test.sequences))
            .saturating_add(self.network.spec().activation_bytes(pass) as usize) as u64;
        let available = self.options.memory.unwrap_or_else(|| memory().available);
        if need > available {
            let message = format!("{test} needs {} of memory, and {} are available", human(need), human(available));
            return Err(EngineError::new(ErrorKind::OutOfMemory, message)
                .with_remedy("take less depth or fewer sequences, or a quantized cache"));
        }
        Ok(())
    }

    /// Measures, after a warm-up; `progress` hears of tokens done, between measurements alone. When somebody cancels, the
    /// repetitions that were finished count.
    ///
    /// # Errors
    /// Those of [`Benchmark::check`].
    pub fn run(
        &self,
        test: &Test,
        repetitions: usize,
        cancel: &CancelToken,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Measured> {
        self.check(test)?;
        reset_peak();
        let all = test.depth + (repetitions + 1) * test.tokens();
        let mut run =
            Run { benchmark: self, test, cancel, tokens: Tokens::new(self.network.spec().vocab), states: vec![] };
        let mut rates = Vec::with_capacity(repetitions);
        let mut whole = run.fill(&mut |done| progress(done, all))? && run.warm_up();
        for done in 1..=repetitions {
            whole = whole && run.rewind()?;
            progress(test.depth + done * test.tokens(), all);
            let begun = Instant::now();
            whole = whole && run.prompt(test.prompt) && run.answer(test.generated);
            if !whole {
                break;
            }
            rates.push(test.tokens() as f64 / begun.elapsed().as_secs_f64());
        }
        progress(all, all);
        Ok(Measured {
            rates,
            pass_bytes: (test.prompt == 0).then(|| self.pass_bytes(test)),
            cache_bytes: run.states.iter().map(State::bytes).sum::<usize>() as u64,
            peak_memory: peak(),
        })
    }

    /// Weights once, and every sequence's cache at its mean length.
    fn pass_bytes(&self, test: &Test) -> u64 {
        let weights = self.network.record().token_bytes(self.network.spec());
        let length = test.depth + test.generated.div_ceil(2);
        weights + (test.sequences * self.network.cache_bytes(length, &self.options.generate.cache)) as u64
    }
}

/// A test under way. Its steps return `false` when somebody cancelled.
struct Run<'a> {
    benchmark: &'a Benchmark,
    test: &'a Test,
    cancel: &'a CancelToken,
    tokens: Tokens,
    states: Vec<State>,
}

impl Run<'_> {
    /// Brings new sequences to the test's depth; they read the same.
    fn fill(&mut self, progress: &mut dyn FnMut(usize)) -> Result<bool> {
        let Benchmark { network, options } = self.benchmark;
        let mut state = network.state(&options.generate.cache)?;
        while state.offset() < self.test.depth {
            if self.cancel.is_cancelled() {
                return Ok(false);
            }
            progress(state.offset());
            let count = options.generate.prefill_chunk.min(self.test.depth - state.offset());
            let tokens = self.tokens.some(count);
            network.forward(&mut [Span { tokens: &tokens, state: &mut state }]);
        }
        self.states = vec![state; self.test.sequences];
        Ok(true)
    }

    /// Does once what will be measured, or the start of it where it repeats itself.
    fn warm_up(&mut self) -> bool {
        self.prompt(self.test.prompt) && self.answer(self.test.generated.min(4))
    }

    /// Goes back to the test's depth.
    fn rewind(&mut self) -> Result<bool> {
        // A cache that is quantized later would stay so.
        let changes = self.benchmark.options.generate.cache.quantize.is_some_and(|q| q.start.is_some());
        if !changes && self.states.iter_mut().all(|state| state.truncate(self.test.depth)) {
            return Ok(true);
        }
        self.fill(&mut |_| {})
    }

    /// Every sequence reads a prompt, one after the other.
    fn prompt(&mut self, length: usize) -> bool {
        let Benchmark { network, options } = self.benchmark;
        let tokens = self.tokens.some(length);
        for state in &mut self.states {
            let mut passes = tokens.chunks(options.generate.prefill_chunk).peekable();
            while let Some(tokens) = passes.next() {
                if self.cancel.is_cancelled() {
                    return false;
                }
                let hidden = network.forward(&mut [Span { tokens, state }]);
                if passes.peek().is_none() {
                    std::hint::black_box(network.logits(&hidden.slice(0, tokens.len() - 1, 1)));
                }
            }
        }
        true
    }

    /// All sequences are decoded together.
    fn answer(&mut self, length: usize) -> bool {
        let network = &*self.benchmark.network;
        for _ in 0..length {
            if self.cancel.is_cancelled() {
                return false;
            }
            let tokens = self.tokens.some(self.states.len());
            let spans = self.states.iter_mut().zip(tokens.chunks(1));
            let mut spans: Vec<_> = spans.map(|(state, tokens)| Span { tokens, state }).collect();
            let hidden = network.forward(&mut spans);
            std::hint::black_box(network.logits(&hidden));
        }
        true
    }
}

/// Random tokens, the same in every process. Special tokens have the first ids or the last, and do not occur.
struct Tokens {
    first: u32,
    count: u32,
    state: u64,
}

impl Tokens {
    fn new(vocab: usize) -> Self {
        let vocab = u32::try_from(vocab).unwrap_or(u32::MAX);
        Self { first: vocab / 8, count: (vocab / 8 * 6).max(1), state: 0 }
    }

    /// Vigna's splitmix64.
    fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.first + ((z ^ z >> 31) % u64::from(self.count)) as u32
    }

    fn some(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.next()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Benchmark {
        Benchmark::load("demo", &LoadOptions::default(), |_| {}).unwrap()
    }

    fn test(prompt: usize, generated: usize, depth: usize, sequences: usize) -> Test {
        Test { prompt, generated, depth, sequences }
    }

    fn run(test: &Test, cancel: &CancelToken) -> Measured {
        demo().run(test, 3, cancel, &mut |done, all| assert!(done <= all)).unwrap()
    }

    #[test]
    fn tests_have_names() {
        let names = [test(512, 0, 0, 1), test(0, 128, 4096, 1), test(0, 64, 0, 8), test(8, 4, 2, 1)];
        assert_eq!(names.map(|t| t.to_string()), ["pp512", "tg128@4096", "tg64b8", "pp8+tg4@2"]);
    }

    #[test]
    fn every_kind_of_test_runs() {
        for test in [test(20, 0, 0, 1), test(0, 5, 0, 1), test(0, 3, 700, 2), test(6, 2, 9, 1), test(1, 0, 1023, 1)] {
            let measured = run(&test, &CancelToken::new());
            assert_eq!(measured.rates.len(), 3, "{test}");
            assert!(measured.mean() > 0.0 && measured.deviation() >= 0.0 && measured.cache_bytes > 0);
            assert_eq!(measured.pass_bytes.is_some(), test.prompt == 0);
        }
    }

    #[test]
    fn a_pass_reads_the_weights_once_and_every_cache() {
        let demo = demo();
        let [one, eight] = [1, 8].map(|sequences| demo.pass_bytes(&test(0, 2, 9, sequences)));
        let cache = demo.network.cache_bytes(10, &demo.options.generate.cache) as u64;
        assert!(one <= demo.bytes() + cache && eight - one == 7 * cache);
    }

    #[test]
    fn caches_of_every_kind_go_back() {
        for quantize in [None, Some(Some(30)), Some(None)] {
            let quantize = quantize.map(|start| mlxengine_models::KvQuantization { bits: 8, group: 32, start });
            for max_tokens in [None, Some(16)] {
                let mut options = LoadOptions::default();
                options.generate.cache = mlxengine_models::CacheOptions { max_tokens, quantize };
                let model = Benchmark::load("demo", &options, |_| {}).unwrap();
                let measured = model.run(&test(0, 20, 20, 2), 2, &CancelToken::new(), &mut |_, _| {}).unwrap();
                assert_eq!(measured.rates.len(), 2);
            }
        }
    }

    #[test]
    fn who_cancels_gets_what_is_done() {
        let cancel = CancelToken::new();
        let model = demo();
        let mut calls = 0;
        let mut third = |_, _| {
            calls += 1;
            if calls == 3 {
                cancel.cancel();
            }
        };
        let measured = model.run(&test(16, 0, 0, 1), 9, &cancel, &mut third).unwrap();
        assert_eq!(measured.rates.len(), 2);
        assert!(run(&test(0, 4, 8, 1), &cancel).rates.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |test: &Test| demo().check(test).unwrap_err().to_string();
        assert!(refused(&test(0, 0, 9, 1)).contains("nothing to measure"));
        let said = refused(&test(0, 25, 1000, 1));
        assert!(said.starts_with("tg25@1000 needs a context of 1025 tokens, and there are 1024"), "{said}");
        let options = LoadOptions { memory: Some(4_000_000), ..LoadOptions::default() };
        let small = Benchmark::load("demo", &options, |_| {}).unwrap();
        assert!(small.check(&test(0, 8, 512, 4)).unwrap_err().to_string().contains("of memory, and 4.00 MB"));
    }

    #[test]
    fn tokens_are_random_and_the_same() {
        let (some, same) = (Tokens::new(4096).some(1000), Tokens::new(4096).some(1000));
        assert!(some == same && some.iter().all(|t| (512..3584).contains(t)));
        assert!(some.iter().collect::<std::collections::HashSet<_>>().len() > 700);
        assert!(Tokens::new(3).some(9).iter().all(|t| *t < 3));
        assert!(demo().first_token().unwrap() < 4096);
    }

    #[test]
    fn statistics() {
        let of =
            |rates: &[f64]| Measured { rates: rates.to_vec(), pass_bytes: None, cache_bytes: 0, peak_memory: None };
        assert_eq!((of(&[1.0, 3.0]).mean(), of(&[1.0, 3.0]).deviation()), (2.0, 2f64.sqrt()));
        assert_eq!((of(&[]).mean(), of(&[5.0]).deviation()), (0.0, 0.0));
    }
}
