//! 64-bit Arm: NEON.

pub mod neon;

pub use neon::Neon;
