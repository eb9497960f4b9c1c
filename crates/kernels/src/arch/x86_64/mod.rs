//! x86-64: AVX2, AVX-512, its BF16, and AMX.

pub mod amx;
pub mod avx2;
pub mod avx512;
pub mod avx512bf16;
mod dots256;
mod dots512;
pub mod peak;

pub use amx::Amx;
pub use avx2::Avx2;
pub use avx512::Avx512;
pub use avx512bf16::Avx512Bf16;
pub(crate) use dots256::AvxVnni;
pub(crate) use dots512::Avx512Vnni;
