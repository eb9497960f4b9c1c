//! 64-bit Arm: NEON.

pub mod dots;
pub mod neon;
pub mod peak;

pub use dots::{NeonDot, NeonI8mm};
pub use neon::Neon;
