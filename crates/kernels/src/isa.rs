//! Which vector instructions this processor has, and the call into code compiled for them.

use crate::arch::portable::Portable;
use crate::simd::{Simd, SimdOp};

#[cfg(target_arch = "aarch64")]
use crate::arch::aarch64::{Neon, neon};
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::{Avx2, Avx512, avx2, avx512};

/// An instruction set that this processor has: each variant holds a token that exists only then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// No intrinsics: whatever the compiler makes of plain loops.
    Portable(Portable),
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, BW, VL and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// NEON, which every aarch64 processor has.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Isa {
    /// The widest instruction set of this processor.
    pub fn best() -> Isa {
        Self::detect().into_iter().flatten().last().unwrap_or(Isa::Portable(Portable::new()))
    }

    /// All instruction sets of this processor, worst first.
    pub fn available() -> Vec<Isa> {
        Self::detect().into_iter().flatten().collect()
    }

    /// Short name: `portable`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "neon",
        }
    }

    /// The instruction set of that short name, or a sentence that says which ones there are.
    pub fn from_name(name: &str) -> Result<Isa, String> {
        let all = Self::available();
        if let Some(isa) = all.iter().find(|isa| isa.name() == name) {
            return Ok(*isa);
        }
        let names: Vec<_> = all.iter().map(|isa| isa.name()).collect();
        Err(format!("instruction set `{name}` is not available on this processor; it has: {}", names.join(", ")))
    }

    /// Name with the architecture, the start of every kernel's name: `x86_64-avx512`.
    pub fn full_name(self) -> &'static str {
        struct Name;
        impl SimdOp for Name {
            type Output = &'static str;
            #[inline(always)]
            fn eval<S: Simd>(self, _: S) -> &'static str {
                S::NAME
            }
        }
        self.run(Name)
    }

    /// Floats in a vector.
    pub fn lanes(self) -> usize {
        struct Lanes;
        impl SimdOp for Lanes {
            type Output = usize;
            #[inline(always)]
            fn eval<S: Simd>(self, _: S) -> usize {
                S::LANES
            }
        }
        self.run(Lanes)
    }

    /// Runs `op` as compiled for this instruction set.
    #[inline]
    pub fn run<Op: SimdOp>(self, op: Op) -> Op::Output {
        match self {
            Isa::Portable(token) => op.eval(token),
            // SAFETY: the token exists only if the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(token) => unsafe { avx2::run(token, op) },
            // SAFETY: the token exists only if the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(token) => unsafe { avx512::run(token, op) },
            // SAFETY: the token exists only if the processor has the features.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(token) => unsafe { neon::run(token, op) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn detect() -> [Option<Isa>; 3] {
        [Some(Isa::Portable(Portable::new())), Avx2::new().map(Isa::Avx2), Avx512::new().map(Isa::Avx512)]
    }

    #[cfg(target_arch = "aarch64")]
    fn detect() -> [Option<Isa>; 2] {
        [Some(Isa::Portable(Portable::new())), Neon::new().map(Isa::Neon)]
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn detect() -> [Option<Isa>; 1] {
        [Some(Isa::Portable(Portable::new()))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::available() {
            assert_eq!(Isa::from_name(isa.name()), Ok(isa));
            assert!(isa.full_name().ends_with(isa.name()));
            assert_eq!(isa.lanes() % 8, 0);
        }
        assert_eq!(Isa::available().last(), Some(&Isa::best()));
    }

    #[test]
    fn an_unknown_name_lists_what_there_is() {
        let error = Isa::from_name("sse9").unwrap_err();
        assert!(error.contains("`sse9`") && error.contains("portable"), "{error}");
    }
}
