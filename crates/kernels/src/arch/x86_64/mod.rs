//! x86-64: AVX2 and AVX-512.

pub mod avx2;
pub mod avx512;

pub use avx2::Avx2;
pub use avx512::Avx512;
