//! What a model takes of a machine, told from its shapes before a weight is read.

use std::path::Path;

use mlxengine_engine::Result;
use mlxengine_models::spec::{Decoder, Size};
use mlxengine_models::weights::WeightBytes;
use mlxengine_models::{CacheOptions, Checkpoint, Config, Precision, SlotSpec, families};

use crate::configuration::{MemoryPlan, PLANNED_PASS};

/// What a model takes of a machine: memory, and work for each token. It follows from `config.json` and how the weights are
/// stored; nothing is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCost {
    pub(crate) spec: Decoder,
    pub(crate) size: Size,
    pub(crate) slots: Vec<SlotSpec>,
    pub(crate) weights: WeightBytes,
    adapters: u64,
}

impl ModelCost {
    /// That of an opened checkpoint, whose headers tell the bytes of each weight.
    ///
    /// # Errors
    /// If its configuration is not one that this build runs.
    pub fn of_checkpoint(checkpoint: &Checkpoint, precision: Precision) -> Result<Self> {
        let spec = families::decoder(&checkpoint.config)?;
        let weights = WeightBytes::of(checkpoint, &spec);
        Ok(Self::new(spec, weights, precision))
    }

    /// That of a configuration alone, with weights of so many bits, scales among them.
    ///
    /// # Errors
    /// If it is not a configuration that this build runs.
    pub fn of_config(config: &Config, bits_per_weight: f64, precision: Precision) -> Result<Self> {
        let spec = families::decoder(config)?;
        let size = spec.size();
        let bytes = |weights: usize| (weights as f64 * bits_per_weight / 8.0) as u64;
        Ok(Self::new(spec, WeightBytes { all: bytes(size.all()), token: bytes(size.read()) }, precision))
    }

    fn new(spec: Decoder, weights: WeightBytes, precision: Precision) -> Self {
        Self { size: spec.size(), slots: spec.slots(precision), weights, adapters: 0, spec }
    }

    /// The same with adapters loaded beside the weights: their files' sizes tell.
    #[must_use]
    pub fn with_adapters<'a>(self, directories: impl IntoIterator<Item = &'a Path>) -> Self {
        let files =
            directories.into_iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten();
        let adapters = files.filter(|file| file.path().extension().is_some_and(|e| e == "safetensors"));
        Self { adapters: adapters.filter_map(|file| Some(file.metadata().ok()?.len())).sum(), ..self }
    }

    /// The same with weights of so many bytes altogether.
    #[must_use]
    pub fn weighing(self, bytes: u64) -> Self {
        let token = bytes as f64 * self.weights.token as f64 / self.weights.all.max(1) as f64;
        Self { weights: WeightBytes { all: bytes, token: token as u64 }, ..self }
    }

    /// Bytes of the weights.
    pub fn weights(&self) -> u64 {
        self.weights.all
    }

    /// Weights, and those that work on one token, without the table of tokens where that is no head.
    pub fn parameters(&self) -> [u64; 2] {
        [self.size.all() as u64, self.size.read() as u64]
    }

    /// Longest sequence that the model was made for.
    pub fn context(&self) -> Option<usize> {
        self.spec.context
    }

    /// Bytes of the caches of one sequence of `context` tokens.
    pub fn cache(&self, context: usize, options: &CacheOptions) -> u64 {
        self.slots.iter().map(|slot| slot.bytes(context, options) as u64).fold(0, u64::saturating_add)
    }

    /// Memory for several sequences of `context` tokens each.
    pub fn plan(&self, context: usize, sequences: usize, options: &CacheOptions) -> MemoryPlan {
        MemoryPlan {
            context,
            sequences,
            weights: self.weights.all.saturating_add(self.adapters),
            cache: self.cache(context, options).saturating_mul(sequences as u64),
            activations: self.spec.activation_bytes(context.clamp(1, PLANNED_PASS).max(sequences)),
        }
    }
}
