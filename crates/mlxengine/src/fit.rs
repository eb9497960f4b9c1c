//! Whether a model fits, asked before it is loaded.
//!
//! Weights are counted although they are pages of a mapped file, which the system may drop and read again: every token reads
//! them all, so a model whose weights are not all in memory runs at the speed of the disk. On the other side, what is available
//! counts pages of files that can be dropped, those of this model among them: a model that was just read still fits.

use mlxengine_engine::{EngineError, ErrorKind, Result};
use mlxengine_models::{CacheOptions, KvQuantization, State};

use crate::cost::ModelCost;
use crate::engine::LoadOptions;
use crate::memory::{human, memory};
use crate::registry::{ModelRegistry, Purpose, Storage};

/// A context that stands for one without a limit.
const BOUNDLESS: usize = 1 << 24;
/// The shortest context that is taken instead of the model's own.
const SHORTEST: usize = 512;
/// The shortest context that is worth a mention.
const USEFUL: usize = 16;

impl ModelCost {
    /// The context that a load uses: the one asked for if it fits in memory, else the longest that does; none where the model
    /// has no limit and none is asked for.
    ///
    /// # Errors
    /// If the context is beyond the model's own, or the model does not fit: with the numbers, and with settings that would.
    pub fn fit(&self, options: &LoadOptions) -> Result<Option<usize>> {
        let own = self.context();
        if let (Some(asked), Some(own)) = (options.context, own)
            && asked > own
        {
            let message = format!("a context of {asked} tokens was asked for, and the model was made for {own}");
            let remedy = format!("ask for at most {own}");
            return Err(EngineError::new(ErrorKind::ContextExceeded, message).with_remedy(remedy));
        }
        // Without a limit of the model's own, a budget for caches is one.
        let longest = options.cache_memory.map(|_| BOUNDLESS);
        let wanted = options.context.or(own).or(longest);
        let room = Room::of(options);
        let cache = &options.generate.cache;
        // A model without a limit needs room for a little, at least.
        let context = wanted.unwrap_or(SHORTEST);
        if room.takes(self, context, cache) {
            return Ok(wanted);
        }
        let fits = room.longest(self, context, cache);
        if options.context.is_none() && wanted.is_some() && fits >= context.min(SHORTEST) {
            return Ok(Some(fits));
        }
        Err(room.refuse(self, context, cache))
    }
}

/// What may be used.
struct Room {
    memory: u64,
    cache: u64,
}

impl Room {
    fn of(options: &LoadOptions) -> Self {
        let available = options.memory.unwrap_or_else(|| memory().available);
        let memory = if options.overcommit { u64::MAX } else { available };
        Self { memory, cache: options.cache_memory.unwrap_or(u64::MAX) }
    }

    fn takes(&self, cost: &ModelCost, context: usize, cache: &CacheOptions) -> bool {
        let plan = cost.plan(context, 1, cache);
        plan.cache <= self.cache && plan.total() <= self.memory
    }

    /// The longest context up to `most` that fits, which may be 0.
    fn longest(&self, cost: &ModelCost, most: usize, cache: &CacheOptions) -> usize {
        // The plan grows with the context, so the longest that fits is found by halving.
        let (mut fits, mut too_long) = (0, most.saturating_add(1));
        while too_long - fits > 1 {
            let middle = fits + (too_long - fits) / 2;
            if self.takes(cost, middle, cache) { fits = middle } else { too_long = middle }
        }
        fits
    }

    fn refuse(&self, cost: &ModelCost, context: usize, cache: &CacheOptions) -> EngineError {
        let plan = cost.plan(context, 1, cache);
        let message = if plan.cache > self.cache {
            let (need, budget) = (human(plan.cache), human(self.cache));
            format!("the cache of {context} tokens needs {need}, and its budget is {budget}")
        } else {
            format!(
                "a context of {context} tokens needs {} (weights {}, cache {}, activations {}), and {} are available",
                human(plan.total()),
                human(plan.weights),
                human(plan.cache),
                human(plan.activations),
                human(self.memory)
            )
        };
        EngineError::new(ErrorKind::OutOfMemory, message).with_remedy(self.remedies(cost, context, cache))
    }

    /// Settings that would fit, the least change first.
    fn remedies(&self, cost: &ModelCost, context: usize, cache: &CacheOptions) -> String {
        let mut all = Vec::new();
        match self.longest(cost, context, cache) {
            0..USEFUL => {}
            fits => all.push(format!("a context of {fits} tokens would fit")),
        }
        for bits in [8, 4].into_iter().filter(|_| cache.quantize.is_none()) {
            let Some(quantized) = quantized(cost, bits, cache) else { continue };
            match self.longest(cost, context, &quantized) {
                0..USEFUL => {}
                fits if fits == context => {
                    all.push(format!("with a cache of {bits} bits all {context} tokens would"));
                    break;
                }
                fits => all.push(format!("with a cache of {bits} bits {fits} tokens")),
            }
        }
        if all.is_empty() {
            let smaller = self.smaller(cost);
            all.push(smaller.map_or("close other programs, or take a smaller model".to_owned(), |name| {
                format!("take {name}, whose weights are fewer bytes, or close other programs")
            }));
        }
        if cost.plan(context, 1, cache).cache <= self.cache {
            all.push("overcommit loads it anyway, and reads from the disk again what does not fit".to_owned());
        }
        all.join("; ")
    }

    /// A model of the registry with the same weights in fewer bytes, which fits: a smaller quantization.
    fn smaller(&self, cost: &ModelCost) -> Option<String> {
        let parameters = cost.parameters()[0] as f64;
        let alike = |own: u64| (own as f64 / parameters - 1.0).abs() < 0.02;
        let registry = ModelRegistry::builtin();
        let rest = cost.plan(SHORTEST, 1, &CacheOptions::default());
        let room = self.memory.saturating_sub(rest.cache).saturating_sub(rest.activations);
        let known = registry.entries().iter().filter(|entry| {
            let weights = entry.weights().map_or(u64::MAX, |weights| weights.bytes);
            entry.kind == Purpose::Language
                && entry.parameters.is_some_and(alike)
                && weights < cost.weights() / 10 * 9
                && weights <= room
        });
        let bits = |storage: &Option<Storage>| storage.as_ref().map_or(0.0, Storage::bits_per_weight);
        let best = known.max_by(|a, b| bits(&a.quantization).total_cmp(&bits(&b.quantization)));
        best.map(|entry| entry.aliases.first().unwrap_or(&entry.name).clone())
    }
}

/// The same cache in fewer bits, where its heads divide into groups.
fn quantized(cost: &ModelCost, bits: u32, cache: &CacheOptions) -> Option<CacheOptions> {
    let with = |group| CacheOptions { quantize: Some(KvQuantization { bits, group, start: None }), ..cache.clone() };
    [64, 32].into_iter().map(with).find(|options| State::fits(&cost.slots, options))
}

#[cfg(test)]
mod tests {
    use mlxengine_models::{Config, Precision};

    use super::*;

    /// 28 layers with 8 heads of 128 numbers: 114 688 bytes a token in 16 bits; 0.6 billion weights of 4.5 bits.
    fn cost() -> ModelCost {
        let config = br#"{"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
            "rms_norm_eps": 1e-6, "rope_theta": 1000000, "max_position_embeddings": 40960, "tie_word_embeddings": true}"#;
        ModelCost::of_config(&Config::parse(config).unwrap(), 4.5, Precision::Fast).unwrap()
    }

    fn options(memory: u64, context: Option<usize>) -> LoadOptions {
        LoadOptions { memory: Some(memory), context, ..LoadOptions::default() }
    }

    #[test]
    fn the_plan_follows_from_the_shapes() {
        let cost = cost();
        assert_eq!(cost.parameters()[0], 595_984_384, "without norms");
        let plan = cost.plan(1000, 1, &CacheOptions::default());
        assert_eq!(plan.cache, 114_688_000);
        assert_eq!(cost.plan(1000, 3, &CacheOptions::default()).cache, 3 * plan.cache);
        let bounded = CacheOptions { max_tokens: Some(100), ..CacheOptions::default() };
        assert_eq!(cost.plan(1000, 1, &bounded).cache, plan.cache / 10);
        let eight = quantized(&cost, 8, &CacheOptions::default()).unwrap();
        assert_eq!(cost.plan(1000, 1, &eight).cache, plan.cache / 16 * 9, "8 bits, and 64 for each 64");
        assert_eq!(cost.plan(1000, 1, &CacheOptions::default()).weights, cost.weights());
    }

    #[test]
    fn the_context_is_what_fits() {
        let cost = cost();
        assert_eq!(cost.fit(&options(u64::MAX, None)).unwrap(), Some(40960));
        let some = cost.fit(&options(1_000_000_000, None)).unwrap().unwrap();
        let need = |context| cost.plan(context, 1, &CacheOptions::default()).total();
        assert!(need(some) <= 1_000_000_000 && need(some + 1) > 1_000_000_000, "{some}");
        assert_eq!(cost.fit(&options(1_000_000_000, Some(some))).unwrap(), Some(some));
        assert!(cost.fit(&options(u64::MAX, Some(50_000))).unwrap_err().message().contains("made for 40960"));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let cost = cost();
        let refused = cost.fit(&options(1_000_000_000, Some(8192))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
        assert!(refused.message().contains("weights 335 MB, cache 940 MB"), "{refused:?}");
        let remedy = refused.remedy().unwrap();
        assert!(
            remedy.contains("tokens would fit; with a cache of 8 bits all 8192 tokens would; overcommit"),
            "{remedy}"
        );
        let hopeless = cost.fit(&options(100_000_000, None)).unwrap_err();
        assert!(hopeless.remedy().unwrap().starts_with("close other programs"), "{hopeless:?}");
        let anyway = LoadOptions { overcommit: true, ..options(100_000_000, Some(8192)) };
        assert_eq!(cost.fit(&anyway).unwrap(), Some(8192));
        let budget = LoadOptions { cache_memory: Some(1_000_000), ..options(u64::MAX, Some(8192)) };
        let refused = cost.fit(&budget).unwrap_err();
        assert!(refused.message().contains("its budget is 1.00 MB"), "{refused:?}");
        assert!(!refused.remedy().unwrap().contains("overcommit"), "{refused:?}");
    }

    #[test]
    fn a_smaller_quantization_is_known() {
        let dense = cost().weighing(1 << 31);
        let refused = dense.fit(&options(800_000_000, None)).unwrap_err();
        assert!(refused.remedy().unwrap().starts_with("take qwen3-0.6b, whose weights are fewer bytes"), "{refused:?}");
    }
}
