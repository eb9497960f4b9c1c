//! x86-64: AVX2, AVX-512, its BF16, and AMX.

pub mod amx;
pub mod avx2;
pub mod avx512;
pub mod avx512bf16;
mod dots256;
mod dots512;
pub mod peak;
mod runs256;

pub use amx::Amx;
pub use avx2::Avx2;
pub use avx512::Avx512;
pub use avx512bf16::Avx512Bf16;
pub(crate) use dots256::AvxVnni;
pub(crate) use dots512::Avx512Vnni;

/// Whether AMD made the processor. The maker tells where two processors with the same instructions want different code;
/// asked once, because a virtual machine leaves for its host to answer.
pub(crate) fn is_amd() -> bool {
    static AMD: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AMD.get_or_init(|| {
        let maker = std::arch::x86_64::__cpuid(0);
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    })
}

/// See [`crate::dots::Dots::ahead`]: on AMD's processors a shorter lead reads a tenth more than 2048, of 512 bytes on Zen 4, of 1024
/// on Zen 3.
fn ahead(on_amd: usize) -> usize {
    if is_amd() { on_amd } else { 2048 }
}
