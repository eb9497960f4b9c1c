//! What the tests of kernels share: processors to run on, reproducible numbers, comparisons.

use crate::{Cpu, Isa};

/// Lengths that meet every combination of whole vectors and tails.
pub(crate) fn lengths() -> std::ops::RangeInclusive<usize> {
    0..=67
}

/// Every instruction set of this machine, with 1 and 2 threads.
pub(crate) fn cpus() -> Vec<Cpu> {
    Isa::available().into_iter().flat_map(|isa| [1, 2].map(|threads| Cpu::new(isa, threads))).collect()
}

/// A small generator of reproducible numbers (an xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in `lo..hi`.
    pub(crate) fn uniform(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * ((self.bits() >> 40) as f32 / (1u64 << 24) as f32)
    }

    pub(crate) fn floats(&mut self, n: usize, lo: f32, hi: f32) -> Vec<f32> {
        (0..n).map(|_| self.uniform(lo, hi)).collect()
    }
}

/// Asserts `|got - want| <= bound * max(1, |want|)` for each pair; two NaN or two equal infinities agree.
#[track_caller]
pub(crate) fn close(got: &[f32], want: &[f64], bound: f64, what: impl std::fmt::Display) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let g = f64::from(g);
        let same = g == w || (g.is_nan() && w.is_nan());
        assert!(same || (g - w).abs() <= bound * w.abs().max(1.0), "{what}: [{i}] is {g}, not {w} (bound {bound:e})");
    }
}

/// The bits, so that comparisons see signs of zero and NaN.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
