//! Products of panels with AVX2: as many pairs of products as fit add up in 16 bits before they are widened.
//!
//! What is written out is so because the compiler makes trees of a run's additions, for which there are not enough registers.

#![allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::dots256::Pair;
use crate::arch::x86_64::Avx2;
use crate::dots::{Dots, QUAD};

/// Rows of a register tile.
const ROWS: usize = Avx2::TILE_ROWS;

/// The sums of a run: of each row for both halves of a vector of codes, in each 16 bits those of two products.
type Words = [Pair; ROWS];

/// [`Dots::quads`] of codes below 64.
///
/// # Safety
/// As there, the processor has AVX2, and there are runs.
#[inline(always)]
pub(super) unsafe fn quads<const M: usize, const V: usize, const RUN: usize, const HIGH: bool>(
    sums: &mut [[Pair; V]; M],
    mut panel: *const u8,
    mut digits: *const i8,
    count: usize,
) {
    for _ in 0..count / RUN {
        // SAFETY: the caller vouches for all quads.
        unsafe {
            let mut words = begin(panel, digits);
            go_on::<1>(&mut words, panel, digits);
            for two in 1..RUN / 2 {
                let panel = panel.wrapping_add(2 * two * QUAD);
                let digits = digits.wrapping_add(2 * two * 4 * ROWS);
                go_on::<0>(&mut words, panel, digits);
                go_on::<1>(&mut words, panel, digits);
            }
            widen::<M, V, HIGH>(sums, &words);
        }
        panel = panel.wrapping_add(RUN * QUAD);
        digits = digits.wrapping_add(RUN * 4 * ROWS);
    }
}

/// [`Dots::quads`] with numbers of 16 bits: those for even codes if `EVEN`, else for odd ones.
///
/// # Safety
/// As there, and the processor has AVX2.
#[inline(always)]
pub(super) unsafe fn words<const M: usize, const V: usize, const EVEN: bool>(
    sums: &mut [[Pair; V]; M],
    mut panel: *const u8,
    mut digits: *const i8,
    count: usize,
) {
    debug_assert!(M == ROWS && V == 1);
    let mut tile = *sums;
    for _ in 0..count {
        // SAFETY: the caller vouches for all quads.
        unsafe {
            let codes = taken_apart::<EVEN>(load(panel));
            for i in 0..ROWS {
                add_products(&mut tile[i][0], codes, four(digits.add(4 * i)));
            }
        }
        panel = panel.wrapping_add(QUAD);
        digits = digits.wrapping_add(4 * ROWS);
    }
    *sums = tile;
}

/// The even or the odd bytes as numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn taken_apart<const EVEN: bool>(codes: Pair) -> Pair {
    if EVEN {
        let mask = _mm256_set1_epi16(255);
        [_mm256_and_si256(codes[0], mask), _mm256_and_si256(codes[1], mask)]
    } else {
        [_mm256_srli_epi16::<8>(codes[0]), _mm256_srli_epi16::<8>(codes[1])]
    }
}

/// Adds products of two numbers of 16 bits to each sum.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products(sums: &mut Pair, codes: Pair, numbers: __m256i) {
    for half in 0..2 {
        sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(codes[half], numbers));
    }
}

/// [`Dots::fours`] of codes below 64.
///
/// # Safety
/// As there, the processor has AVX2, and there are runs.
#[inline(always)]
pub(super) unsafe fn fours<const M: usize, const V: usize, const RUN: usize>(
    sums: &mut [[Pair; V]; M],
    panel: *const u8,
    (digits, places): (*const i8, *const u32),
    count: usize,
) {
    for first in (0..count).step_by(RUN) {
        // SAFETY: the caller vouches for all places, and what lies there.
        unsafe {
            let at = |four: usize| (digits.add(four * 4 * ROWS), places.add(four * ROWS));
            let mut words = begin_own(panel, at(first));
            for four in first + 1..count.min(first + RUN) {
                go_on_own(&mut words, panel, at(four));
            }
            widen::<M, V, true>(sums, &words);
        }
    }
}

/// Adds what was added up in 16 bits, 256 times as much if `HIGH`.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const M: usize, const V: usize, const HIGH: bool>(sums: &mut [[Pair; V]; M], words: &Words) {
    debug_assert!(M == ROWS && V == 1);
    let worth = _mm256_set1_epi16(if HIGH { 256 } else { 1 });
    for i in 0..ROWS {
        for half in 0..2 {
            sums[i][0][half] = _mm256_add_epi32(sums[i][0][half], _mm256_madd_epi16(words[i][half], worth));
        }
    }
}

/// The products of a quad.
///
/// # Safety
/// The quad and its digits are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn begin(panel: *const u8, digits: *const i8) -> Words {
    // SAFETY: passed on.
    unsafe {
        let codes = load(panel);
        let mut words = [[_mm256_setzero_si256(); 2]; ROWS];
        for i in 0..ROWS {
            words[i] = pairs(codes, four(digits.add(4 * i)));
        }
        words
    }
}

/// Adds the products of the quad that is so many from here. Two rows at a time, whose multiplications come before their additions: Zen 3
/// does 1.6 of them in a cycle so, and fewer in turns.
///
/// # Safety
/// As [`begin`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn go_on<const AT: usize>(words: &mut Words, panel: *const u8, digits: *const i8) {
    let [[mut a, mut b], [mut c, mut d], [mut e, mut f], [mut g, mut h]] = *words;
    // SAFETY: passed on.
    unsafe {
        asm!(
            "vmovdqu {low}, [{panel} + {at}]",
            "vmovdqu {high}, [{panel} + {at} + 32]",
            "vpbroadcastd {x}, [{digits} + {from}]",
            "vpbroadcastd {y}, [{digits} + {from} + 4]",
            "vpmaddubsw {p}, {low}, {x}",
            "vpmaddubsw {x}, {high}, {x}",
            "vpmaddubsw {q}, {low}, {y}",
            "vpmaddubsw {y}, {high}, {y}",
            "vpaddw {a}, {a}, {p}",
            "vpaddw {b}, {b}, {x}",
            "vpaddw {c}, {c}, {q}",
            "vpaddw {d}, {d}, {y}",
            "vpbroadcastd {x}, [{digits} + {from} + 8]",
            "vpbroadcastd {y}, [{digits} + {from} + 12]",
            "vpmaddubsw {p}, {low}, {x}",
            "vpmaddubsw {x}, {high}, {x}",
            "vpmaddubsw {q}, {low}, {y}",
            "vpmaddubsw {y}, {high}, {y}",
            "vpaddw {e}, {e}, {p}",
            "vpaddw {f}, {f}, {x}",
            "vpaddw {g}, {g}, {q}",
            "vpaddw {h}, {h}, {y}",
            a = inout(ymm_reg) a, b = inout(ymm_reg) b, c = inout(ymm_reg) c, d = inout(ymm_reg) d,
            e = inout(ymm_reg) e, f = inout(ymm_reg) f, g = inout(ymm_reg) g, h = inout(ymm_reg) h,
            low = out(ymm_reg) _, high = out(ymm_reg) _, x = out(ymm_reg) _, y = out(ymm_reg) _,
            p = out(ymm_reg) _, q = out(ymm_reg) _,
            panel = in(reg) panel, digits = in(reg) digits, at = const AT * QUAD, from = const AT * 4 * ROWS,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    *words = [[a, b], [c, d], [e, f], [g, h]];
}

/// [`begin`] of rows with a quad each.
///
/// # Safety
/// The places and what lies there, and the digits, are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn begin_own(panel: *const u8, (digits, places): (*const i8, *const u32)) -> Words {
    let mut words = [[_mm256_setzero_si256(); 2]; ROWS];
    for i in 0..ROWS {
        // SAFETY: passed on.
        unsafe {
            words[i] = pairs(load(panel.add(*places.add(i) as usize)), four(digits.add(4 * i)));
        }
    }
    words
}

/// [`go_on`] of rows with a quad each.
///
/// # Safety
/// As [`begin_own`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn go_on_own(words: &mut Words, panel: *const u8, (digits, places): (*const i8, *const u32)) {
    for i in 0..ROWS {
        let [mut a, mut b] = words[i];
        // SAFETY: passed on.
        unsafe {
            asm!(
                "vmovdqu {low}, [{codes}]",
                "vmovdqu {high}, [{codes} + 32]",
                "vpbroadcastd {x}, [{digits}]",
                "vpmaddubsw {low}, {low}, {x}",
                "vpmaddubsw {high}, {high}, {x}",
                "vpaddw {a}, {a}, {low}",
                "vpaddw {b}, {b}, {high}",
                a = inout(ymm_reg) a, b = inout(ymm_reg) b,
                low = out(ymm_reg) _, high = out(ymm_reg) _, x = out(ymm_reg) _,
                codes = in(reg) panel.add(*places.add(i) as usize), digits = in(reg) digits.add(4 * i),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        words[i] = [a, b];
    }
}

/// # Safety
/// `p` is readable for 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(p: *const u8) -> Pair {
    // SAFETY: passed on.
    unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
}

/// The same four digits in every lane.
///
/// # Safety
/// `p` is readable for them.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four(p: *const i8) -> __m256i {
    // SAFETY: passed on.
    unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
}

/// Sums of two products each.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs(codes: Pair, digits: __m256i) -> Pair {
    [_mm256_maddubs_epi16(codes[0], digits), _mm256_maddubs_epi16(codes[1], digits)]
}
