//! How fast a model will be, told from its shapes and from what this machine was measured to do.
//!
//! A token of an answer takes
//! - the bytes of the weights that it reads, at the speed at which one row is multiplied by weights that lie in memory;
//! - the bytes of keys and values that it attends to, at the speed of such attention, or where more heads share each of them,
//!   the operations on them;
//! - what each layer does one thing after another: handing work to the threads, and small operations between products.
//!
//! Tokens of a prompt take, in passes of 512,
//! - two operations a weight that works on them, at the speed of products of many rows;
//! - two operations a number of a query and of a value for each position seen, at the speed of such attention;
//! - the bytes of activations that go to memory and come back between the operations;
//! - once a pass the same serial work, and once altogether the head.

use mlxengine_models::{CacheOptions, SlotSpec};
use serde::Serialize;

use crate::configuration::PLANNED_PASS;
use crate::cost::ModelCost;
use crate::device::Calibration;

/// Times a layer hands work to the threads: three products for queries, keys and values, attention, its output, three products of
/// the unit behind it, and what lies between them.
const REGIONS: f64 = 10.0;
/// Seconds of a layer's small operations on one row, which one thread does.
const SERIAL: f64 = 6e-6;
/// Seconds of a token's own: choosing it, its text.
const TOKEN: f64 = 30e-6;
/// Times that activations of a layer go to memory and come back.
const TRIPS: f64 = 4.0;
/// Operations on each byte of keys and values in the calibration, where four heads share each: more heads compute for longer.
const SHARED: f64 = 4.0;
/// Bits a weight, scales and biases among them, that the calibration measured as quantized and as plain ones.
const MEASURED_BITS: [f64; 2] = [4.5, 16.0];

/// What is expected of a model on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Tokens of an answer a second.
    pub tokens_per_second: f64,
    /// Tokens of a prompt a second.
    pub prompt_tokens_per_second: f64,
    /// Seconds from a prompt to the first token of its answer.
    pub first_token: f64,
}

impl ModelCost {
    /// What is expected where a prompt of `prompt` tokens comes after `depth` others.
    pub fn predict(&self, depth: usize, prompt: usize, cache: &CacheOptions, machine: &Calibration) -> Prediction {
        let reading = self.prompt_seconds(depth, prompt, machine);
        let token = self.token_seconds(depth + prompt, cache, machine);
        Prediction {
            tokens_per_second: 1.0 / token,
            prompt_tokens_per_second: prompt as f64 / reading,
            first_token: reading,
        }
    }

    /// Seconds of one token of an answer after `depth` tokens.
    pub fn token_seconds(&self, depth: usize, cache: &CacheOptions, machine: &Calibration) -> f64 {
        let speed = self.between([machine.weights, machine.dense_weights]);
        let carried = |slot: &&SlotSpec| matches!(slot, SlotSpec::Recurrent(_));
        let states: usize = self.slots.iter().filter(carried).map(|slot| slot.bytes(1, cache)).sum();
        let attended = self.cache(depth, cache) - states as u64;
        self.weights.token as f64 / speed
            + (attended as f64).max(self.attention(depth, 1) / SHARED) / machine.attention
            // Each state is read and written.
            + 2.0 * states as f64 / machine.memory_one_thread
            + self.serial(machine)
            + TOKEN
    }

    /// Seconds to read a prompt after `depth` tokens, to the first token of an answer.
    pub fn prompt_seconds(&self, depth: usize, prompt: usize, machine: &Calibration) -> f64 {
        let rows = prompt as f64;
        let passes = prompt.div_ceil(PLANNED_PASS) as f64;
        let products = 2.0 * rows * self.size.active as f64 / self.between([machine.products, machine.dense_products]);
        // However few the rows, weights come from memory once a pass; of a mixture nearly all of them.
        let weights = passes * self.weights.all as f64 / machine.memory;
        let width = (self.spec.activation_bytes(2) - self.spec.activation_bytes(1)) as f64;
        let head = self.size.read() - self.size.active;
        let head = head as f64 / self.size.read().max(1) as f64 * self.weights.token as f64;
        products.max(weights)
            + self.attention(depth, prompt) / machine.prompt_attention
            + TRIPS * rows * width * self.spec.layers.len() as f64 / machine.memory
            + head / self.between([machine.weights, machine.dense_weights])
            + passes * self.serial(machine)
    }

    /// Operations of the attention of `rows` tokens after `depth` others.
    fn attention(&self, depth: usize, rows: usize) -> f64 {
        let pairs = |most: Option<usize>| {
            let most = most.unwrap_or(usize::MAX);
            (depth + 1..=depth + rows).map(|seen| seen.min(most) as f64).sum::<f64>()
        };
        self.spec.attended().map(|a| 2.0 * a.products as f64 * pairs(a.most)).sum()
    }

    /// What the layers do one thing after another.
    fn serial(&self, machine: &Calibration) -> f64 {
        self.spec.layers.len() as f64 * (REGIONS * machine.region + SERIAL)
    }

    /// A speed for this model's weights, of those of quantized and of plain ones.
    fn between(&self, [quantized, plain]: [f64; 2]) -> f64 {
        let bits = 8.0 * self.weights.all as f64 / self.size.all().max(1) as f64;
        let share = ((bits - MEASURED_BITS[0]) / (MEASURED_BITS[1] - MEASURED_BITS[0])).clamp(0.0, 1.0);
        quantized + share * (plain - quantized)
    }
}
