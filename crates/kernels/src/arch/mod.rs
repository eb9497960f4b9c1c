//! The implementors of [`crate::simd::Simd`], one folder per architecture.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod portable;
pub mod tiles;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(test)]
mod tests;
