//! Integer multiplications in registers alone, as fast as the processor does them: what products are compared with.

use std::arch::x86_64::*;

use crate::Isa;

/// Chains of sums: two instructions a cycle, five cycles each, and some to spare.
const CHAINS: usize = 12;

/// The instructions that multiply 8-bit integers fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegerUnit {
    /// `vpdpbusd` on 64 bytes.
    Avx512Vnni,
    /// `vpdpbusd` on 32 bytes.
    AvxVnni,
    /// `vpmaddubsw` and `vpaddw` on 32 bytes.
    Avx2,
}

impl IntegerUnit {
    /// The fastest that belongs to the instruction set.
    pub fn best(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Portable(_) => None,
            Isa::Avx512(_) if is_x86_feature_detected!("avx512vnni") => Some(Self::Avx512Vnni),
            _ if is_x86_feature_detected!("avxvnni") => Some(Self::AvxVnni),
            _ => Some(Self::Avx2),
        }
    }

    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Vnni => "avx512vnni",
            Self::AvxVnni => "avxvnni",
            Self::Avx2 => "avx2",
        }
    }

    /// Multiplies and adds `rounds` times in every chain; returns the operations.
    pub fn spin(self, rounds: usize) -> f64 {
        // SAFETY: `best` gives a unit only where the processor has its instructions.
        let bytes = unsafe {
            match self {
                Self::Avx512Vnni => avx512vnni(rounds),
                Self::AvxVnni => avxvnni(rounds),
                Self::Avx2 => avx2(rounds),
            }
        };
        2.0 * (bytes * CHAINS * rounds) as f64
    }
}

/// A loop over the chains, whose sums the compiler has to keep; gives the bytes that an instruction takes.
macro_rules! spin {
    ($name:ident, $features:literal, $bytes:literal, $set:ident, $zero:ident, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        fn $name(rounds: usize) -> usize {
            let ($a, $b) = ($set(std::hint::black_box(3)), $set(std::hint::black_box(5)));
            let mut sums = [$zero(); CHAINS];
            for _ in 0..rounds {
                for $sum in &mut sums {
                    *$sum = $step;
                }
                // The operands could have changed, for all that the compiler knows.
                std::hint::black_box(());
            }
            std::hint::black_box(sums);
            $bytes
        }
    };
}

spin!(avx512vnni, "avx512f,avx512vnni", 64, _mm512_set1_epi8, _mm512_setzero_si512, |sum, a, b| {
    _mm512_dpbusd_epi32(*sum, a, b)
});
spin!(avxvnni, "avx2,avxvnni", 32, _mm256_set1_epi8, _mm256_setzero_si256, |sum, a, b| {
    _mm256_dpbusd_avx_epi32(*sum, a, b)
});
spin!(avx2, "avx2", 32, _mm256_set1_epi8, _mm256_setzero_si256, |sum, a, b| {
    // Operands that depend on the sum, so that their product is not taken out of the loop.
    _mm256_add_epi16(_mm256_maddubs_epi16(*sum, a), b)
});
