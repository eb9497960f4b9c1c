//! 64-bit Arm: NEON.

pub mod neon;
pub mod peak;

pub use neon::Neon;
