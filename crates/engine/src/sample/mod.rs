//! From logits to a token: parameters, penalties, filters and the random draw.
//!
//! The arithmetic and its order are mlx-lm's: logit bias, repetition, presence and frequency penalties on the logits;
//! the caller's processors; log-probabilities; top-p, min-p, XTC and top-k on them; a draw at the temperature.

pub mod filters;
mod math;
mod params;
pub mod penalties;
pub mod philox;
mod sampler;

pub(crate) use math::{argmax, log_sum_exp};
pub use params::GenerateParams;
pub use sampler::{LogitsProcessor, Sampled, Sampler};
