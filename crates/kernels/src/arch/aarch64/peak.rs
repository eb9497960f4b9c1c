//! Integer multiplications in registers alone, as fast as the processor does them: what products are compared with.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::Isa;

/// Chains of sums: four instructions a cycle, four cycles each.
const CHAINS: usize = 16;

/// The instructions that multiply 8-bit integers fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegerUnit {
    /// `sdot` on 16 bytes.
    Dot,
    /// `smmla` on 16 bytes, each of them used twice.
    Matrix,
}

impl IntegerUnit {
    /// The fastest that belongs to the instruction set.
    pub fn best(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Portable(_) => None,
            Isa::Neon(_) if std::arch::is_aarch64_feature_detected!("i8mm") => Some(Self::Matrix),
            Isa::Neon(_) => std::arch::is_aarch64_feature_detected!("dotprod").then_some(Self::Dot),
        }
    }

    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dot => "dotprod",
            Self::Matrix => "i8mm",
        }
    }

    /// Multiplies and adds `rounds` times in every chain; returns the operations.
    pub fn spin(self, rounds: usize) -> f64 {
        // SAFETY: `best` gives a unit only where the processor has its instructions.
        let products = unsafe {
            match self {
                Self::Dot => dot(rounds),
                Self::Matrix => matrix(rounds),
            }
        };
        2.0 * (products * CHAINS * rounds) as f64
    }
}

/// A loop over the chains; gives the products of an instruction. The intrinsics are not stable, so it is written out.
macro_rules! spin {
    ($name:ident, $feature:literal, $products:literal, $instruction:literal) => {
        #[target_feature(enable = $feature)]
        fn $name(rounds: usize) -> usize {
            let (a, b) = (vdupq_n_s8(std::hint::black_box(3)), vdupq_n_s8(std::hint::black_box(5)));
            let mut sums = [vdupq_n_s32(0); CHAINS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    // SAFETY: registers alone are read and written, and the function has the feature.
                    unsafe {
                        asm!($instruction, inout(vreg) *sum, in(vreg) a, in(vreg) b, options(pure, nomem, nostack));
                    }
                }
            }
            std::hint::black_box(sums);
            $products
        }
    };
}

spin!(dot, "neon,dotprod", 16, "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b");
spin!(matrix, "neon,i8mm", 32, "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b");
