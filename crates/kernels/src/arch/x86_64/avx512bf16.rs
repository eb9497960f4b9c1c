//! AVX-512 with BF16: products of bf16 tiles in vectors, and the conversions into and out of tiles that AMX uses as well.

#![allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]

use std::arch::x86_64::*;
use std::ops::Range;

use crate::arch::portable::E4M3;
use crate::arch::tiles::{Block, DEPTH, Inputs, SIDE, SUMS, Softmax, TILE, Target, TileOps};
use crate::arch::x86_64::Avx512;
use crate::codec::{Codec, ScaleType, View, Visitor, e8m0};
use crate::math;
use crate::simd::Simd;
use crate::weights::{Elements, Float};

/// The token of AVX-512 BF16 and everything that [`Avx512`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    /// `None` if the processor lacks one of the features.
    pub fn new() -> Option<Self> {
        if is_x86_feature_detected!("avx512bf16") { Avx512::new().map(Self) } else { None }
    }

    /// Whether products of bf16 are faster than those of floats. On AMD's processors they take as long as a fused
    /// multiply-add, for twice the products; on Intel's four times as long (measured on family 6 model 207: 0.5 a cycle
    /// against 2), so that floats are twice as fast there. The maker decides and no measurement, because results must not
    /// change from one run to the next.
    pub fn pays(self) -> bool {
        super::is_amd()
    }
}

/// Rows of weights whose sums are in registers at a time: with three vectors of inputs, 24 sums of 32 registers.
const ROWS: usize = 8;

impl TileOps for Avx512Bf16 {
    type Session = ();
    const ROWS: usize = 2;
    const COLS: usize = 3;
    const STEPS: usize = 12;

    fn begin(self) {}
    unsafe fn multiply(self, (): &mut (), block: &Block) {
        // SAFETY: passed on; the token exists only if the processor has the features.
        unsafe {
            match block.cols {
                1 => multiply::<1>(block),
                2 => multiply::<2>(block),
                3 => multiply::<3>(block),
                cols => unreachable!("{cols} strips of inputs"),
            }
        }
    }
    unsafe fn pack(self, from: Inputs, to: *mut u16) {
        // SAFETY: as above.
        unsafe { pack(from, to) };
    }
    unsafe fn line(self, x: *const f32, cols: usize, scale: f32, to: *mut u16) {
        // SAFETY: as above.
        unsafe { line(x, cols, scale, to) };
    }
    unsafe fn pair(self, from: Inputs, to: *mut u16) {
        // SAFETY: as above.
        unsafe { pair(from, to) };
    }
    unsafe fn weigh(self, part: &Softmax<'_>) {
        // SAFETY: as above.
        unsafe { weigh(self.0, part) };
    }
    unsafe fn decode(self, view: &View<'_>, rows: Range<usize>, cols: Range<usize>, steps: usize, to: *mut u16) {
        assert!(rows.end <= view.rows && cols.end <= view.cols && cols.len() <= steps * DEPTH);
        view.visit(Decode { simd: self.0, view, rows, cols, steps, to });
    }
    unsafe fn write(self, sums: *const f32, to: Target) {
        // SAFETY: as above.
        unsafe { write(sums, to) };
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: every processor with these features has the instruction, which needs no readable address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }
    fn spin(self, (): &mut (), rounds: usize) -> f64 {
        // SAFETY: as above.
        unsafe { spin(rounds) };
        (rounds * 24 * 4 * SIDE) as f64
    }
}

/// Sixteen pairs of bf16, as the product takes them.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(v: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { std::mem::transmute(v) }
}

/// Sixteen pairs of bf16 as plain bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn plain(v: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { std::mem::transmute(v) }
}

/// As many products as the registers take, in a loop without memory.
#[target_feature(enable = "avx512f,avx512bf16")]
fn spin(rounds: usize) {
    let one = std::hint::black_box(pairs(_mm512_set1_epi32(0)));
    let mut sums = [_mm512_setzero_ps(); 24];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, one, one);
        }
    }
    std::hint::black_box(sums);
}

/// [`ROWS`] rows of weights at a time with all `M` strips of inputs: a vector of inputs is 16 rows at one pair of columns, and
/// meets the same pair of a row of weights in all lanes.
///
/// # Safety
/// As [`TileOps::multiply`], with `M` the block's strips of inputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn multiply<const M: usize>(block: &Block) {
    for strip in 0..block.rows {
        for row in (0..SIDE).step_by(ROWS) {
            // SAFETY: rows and tiles of the block.
            unsafe {
                let sums = block.sums.add(strip * block.sums_stride + row * SIDE);
                let mut acc = [[_mm512_setzero_ps(); M]; ROWS];
                if !block.first {
                    for i in 0..ROWS {
                        for j in 0..M {
                            acc[i][j] = _mm512_loadu_ps(sums.add(j * SUMS + i * SIDE));
                        }
                    }
                }
                let mut weights = block.weights.add(strip * block.weights_stride + row * DEPTH);
                let mut inputs = block.inputs;
                for _ in 0..block.steps {
                    for pair in 0..SIDE {
                        let mut x = [pairs(_mm512_setzero_si512()); M];
                        for j in 0..M {
                            let at = inputs.add(j * block.inputs_stride + pair * DEPTH);
                            x[j] = pairs(_mm512_loadu_si512(at.cast()));
                        }
                        for i in 0..ROWS {
                            let w = pairs(_mm512_set1_epi32(
                                weights.add(i * DEPTH + 2 * pair).cast::<i32>().read_unaligned(),
                            ));
                            for j in 0..M {
                                acc[i][j] = _mm512_dpbf16_ps(acc[i][j], w, x[j]);
                            }
                        }
                    }
                    weights = weights.add(TILE);
                    inputs = inputs.add(TILE);
                }
                for i in 0..ROWS {
                    for j in 0..M {
                        _mm512_storeu_ps(sums.add(j * SUMS + i * SIDE), acc[i][j]);
                    }
                }
            }
        }
    }
}

/// Lanes below `n`.
#[inline]
fn below(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// Rows become columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: &[__m512; 16]) -> [__m512; 16] {
    // Pairs of rows, then fours: `four[4 i + j]` has column `4 l + j` of rows `4 i..4 i + 4` in its quarter `l`.
    let (mut two, mut four, mut out) = (*r, *r, *r);
    for i in 0..8 {
        two[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        two[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        for half in 0..2 {
            let a = _mm512_castps_pd(two[4 * i + half]);
            let b = _mm512_castps_pd(two[4 * i + half + 2]);
            four[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            four[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    // Then whole quarters: even and odd ones of the upper and of the lower rows, and once more.
    for j in 0..4 {
        let even = _mm512_shuffle_f32x4::<0x88>(four[j], four[4 + j]);
        let odd = _mm512_shuffle_f32x4::<0xDD>(four[j], four[4 + j]);
        let low_even = _mm512_shuffle_f32x4::<0x88>(four[8 + j], four[12 + j]);
        let low_odd = _mm512_shuffle_f32x4::<0xDD>(four[8 + j], four[12 + j]);
        out[j] = _mm512_shuffle_f32x4::<0x88>(even, low_even);
        out[8 + j] = _mm512_shuffle_f32x4::<0xDD>(even, low_even);
        out[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, low_odd);
        out[12 + j] = _mm512_shuffle_f32x4::<0xDD>(odd, low_odd);
    }
    out
}

/// # Safety
/// As [`TileOps::pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn pack(from: Inputs, to: *mut u16) {
    let mut rows = [_mm512_setzero_ps(); SIDE];
    for (c, row) in rows.iter_mut().enumerate().take(from.rows) {
        // SAFETY: the masks leave out what lies beyond the input's columns.
        unsafe {
            let x = from.x.add(c * from.stride);
            let low = _mm512_maskz_loadu_ps(below(from.cols), x);
            let high = _mm512_maskz_loadu_ps(below(from.cols.saturating_sub(16)), x.wrapping_add(16));
            *row = _mm512_castsi512_ps(plain(_mm512_cvtne2ps_pbh(high, low)));
        }
    }
    for (p, column) in transpose(&rows).into_iter().enumerate() {
        // SAFETY: the tile has 16 vectors.
        unsafe { _mm512_storeu_ps(to.add(p * DEPTH).cast(), column) };
    }
}

/// # Safety
/// As [`TileOps::line`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn line(x: *const f32, cols: usize, scale: f32, to: *mut u16) {
    let scale = _mm512_set1_ps(scale);
    // SAFETY: the masks leave out what lies beyond the columns.
    unsafe {
        let low = _mm512_maskz_loadu_ps(below(cols), x);
        let high = _mm512_maskz_loadu_ps(below(cols.saturating_sub(16)), x.wrapping_add(16));
        let line = _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, scale), _mm512_mul_ps(low, scale));
        _mm512_storeu_si512(to.cast(), plain(line));
    }
}

/// # Safety
/// As [`TileOps::pair`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair(from: Inputs, to: *mut u16) {
    /// A number of the first half, then one of the second.
    const BY_TURNS: [u16; DEPTH] = {
        let mut index = [0; DEPTH];
        let mut i = 0;
        while i < DEPTH {
            index[i] = (i / 2 + i % 2 * SIDE) as u16;
            i += 1;
        }
        index
    };
    // SAFETY: rows of the input, 16 columns each; the tile has 16 vectors.
    unsafe {
        let by_turns = _mm512_loadu_si512(BY_TURNS.as_ptr().cast());
        let row = |i: usize| {
            if i < from.rows { _mm512_loadu_ps(from.x.add(i * from.stride)) } else { _mm512_setzero_ps() }
        };
        for p in 0..SIDE {
            let both = plain(_mm512_cvtne2ps_pbh(row(2 * p + 1), row(2 * p)));
            _mm512_storeu_si512(to.add(p * DEPTH).cast(), _mm512_permutexvar_epi16(by_turns, both));
        }
    }
}

/// # Safety
/// As [`TileOps::weigh`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn weigh(s: Avx512, part: &Softmax<'_>) {
    let ones = pairs(_mm512_set1_epi32(0x3F80_3F80));
    for (r, seen) in part.seen.iter().enumerate() {
        // SAFETY: row `r` of the tiles, for which the caller vouches.
        unsafe {
            let scores = part.scores.add(r * SIDE);
            let weights = part.weights.add(r * DEPTH);
            if seen.is_empty() {
                for step in 0..part.steps {
                    _mm512_storeu_si512(weights.add(step * TILE).cast(), _mm512_setzero_si512());
                }
                continue;
            }
            if part.softcap.is_some() || seen.len() < part.steps * DEPTH {
                mask(s, scores, part, seen);
            }
            let (mut even, mut odd) = (_mm512_loadu_ps(scores), _mm512_loadu_ps(scores.add(SUMS)));
            for step in 1..part.steps {
                even = _mm512_max_ps(even, _mm512_loadu_ps(scores.add(2 * step * SUMS)));
                odd = _mm512_max_ps(odd, _mm512_loadu_ps(scores.add((2 * step + 1) * SUMS)));
            }
            // Most blocks bring no new maximum, and the lanes need not be compared with each other then.
            let largest = _mm512_max_ps(even, odd);
            if _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, _mm512_set1_ps(*part.max.add(r))) != 0 {
                raise(s, part, r, s.max_lane(largest));
            }
            let max = *part.max.add(r);
            let shift = _mm512_set1_ps(if max == f32::NEG_INFINITY { 0.0 } else { -max * std::f32::consts::LOG2_E });
            let mut total = _mm512_loadu_ps(part.totals.add(r * SIDE));
            for step in 0..part.steps {
                let low = power(_mm512_loadu_ps(scores.add(2 * step * SUMS)), shift);
                let high = power(_mm512_loadu_ps(scores.add((2 * step + 1) * SUMS)), shift);
                let rounded = _mm512_cvtne2ps_pbh(high, low);
                // The rounded weights are added up, so that what all values have in common comes out exact.
                total = _mm512_dpbf16_ps(total, rounded, ones);
                _mm512_storeu_si512(weights.add(step * TILE).cast(), plain(rounded));
            }
            _mm512_storeu_ps(part.totals.add(r * SIDE), total);
        }
    }
}

/// Caps a row's scores, and makes -inf of those that it does not see.
///
/// # Safety
/// As [`TileOps::weigh`]; `scores` are those of the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn mask(s: Avx512, scores: *mut f32, part: &Softmax<'_>, seen: &Range<usize>) {
    for strip in 0..2 * part.steps {
        let lanes = |end: usize| below(end.saturating_sub(strip * SIDE));
        // SAFETY: the caller vouches for the tiles.
        unsafe {
            let at = scores.add(strip * SUMS);
            let mut score = _mm512_loadu_ps(at);
            if let Some(cap) = part.softcap {
                let cap = _mm512_set1_ps(cap);
                score = _mm512_mul_ps(cap, math::tanh(s, _mm512_div_ps(score, cap)));
            }
            let seen = lanes(seen.end) & !lanes(seen.start);
            _mm512_storeu_ps(at, _mm512_mask_blend_ps(seen, _mm512_set1_ps(f32::NEG_INFINITY), score));
        }
    }
}

/// Brings a row's totals and sums to a larger maximum.
///
/// # Safety
/// As [`TileOps::weigh`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn raise(s: Avx512, part: &Softmax<'_>, r: usize, max: f32) {
    // SAFETY: the caller vouches for the row's numbers.
    unsafe {
        let factor = math::exp(s, _mm512_set1_ps(*part.max.add(r) - max));
        *part.max.add(r) = max;
        let totals = part.totals.add(r * SIDE);
        _mm512_storeu_ps(totals, _mm512_mul_ps(_mm512_loadu_ps(totals), factor));
        for strip in 0..part.strips {
            let sums = part.sums.add(strip * SUMS + r * SIDE);
            _mm512_storeu_ps(sums, _mm512_mul_ps(_mm512_loadu_ps(sums), factor));
        }
    }
}

/// `2^(score log₂ e + shift)`, rel 3e-6, for exponents up to 0; below -126 it is 0. NaN whose lower 16 bits are zero, as bf16
/// makes them, stay NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn power(score: __m512, shift: __m512) -> __m512 {
    /// `2^r = 1 + r P(r)` for `|r| <= 1/2`, a least-maximum fit: weights keep 8 bits.
    const P: [f32; 4] = [0.693_124_2, 0.240_240_99, 0.055_906_425, 0.009_582_853];
    // Adding this leaves the nearest integer in the low bits: 1.5 * 2^23.
    let magic = _mm512_set1_ps(12_582_912.0);
    let x = _mm512_fmadd_ps(score, _mm512_set1_ps(std::f32::consts::LOG2_E), shift);
    let shifted = _mm512_add_ps(x, magic);
    let r = _mm512_sub_ps(x, _mm512_sub_ps(shifted, magic));
    let mut p = _mm512_set1_ps(P[3]);
    for term in [P[2], P[1], P[0], 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(term));
    }
    let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0));
    let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    _mm512_castsi512_ps(_mm512_maskz_add_epi32(kept, _mm512_castps_si512(p), exponent))
}

/// # Safety
/// As [`TileOps::write`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn write(sums: *const f32, to: Target) {
    let lanes = below(to.rows);
    // SAFETY: the tile has 16 vectors; the masks leave out what lies beyond the rows.
    unsafe {
        let mut rows = [_mm512_setzero_ps(); SIDE];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_ps(sums.add(r * SIDE));
        }
        let bias = if to.bias.is_null() { None } else { Some(_mm512_maskz_loadu_ps(lanes, to.bias)) };
        for (c, column) in transpose(&rows).into_iter().enumerate().take(to.cols) {
            let column = bias.map_or(column, |bias| _mm512_add_ps(column, bias));
            _mm512_mask_storeu_ps(to.out.add(c * to.stride), lanes, column);
        }
    }
}

/// The call of [`decode`] for a storage form.
struct Decode<'a> {
    simd: Avx512,
    view: &'a View<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    steps: usize,
    to: *mut u16,
}

impl Visitor for Decode<'_> {
    type Output = ();
    fn visit<C: Codec>(self, _: C) {
        // SAFETY: the visitor's type is the view's form; the rest was promised to `TileOps::decode`.
        unsafe { decode::<C>(&self) };
    }
}

/// Groups whose scales are converted at a time.
const GROUPS: usize = 16;

/// Scales and biases of [`GROUPS`] groups of a strip's rows.
struct Scales {
    scale: [[f32; GROUPS]; SIDE],
    bias: [[f32; GROUPS]; SIDE],
}

/// # Safety
/// As [`TileOps::decode`]; `C` is the view's storage form.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn decode<C: Codec>(job: &Decode<'_>) {
    let Decode { view, rows, cols, steps, to, .. } = job;
    let mut scales = Scales { scale: [[0.0; GROUPS]; SIDE], bias: [[0.0; GROUPS]; SIDE] };
    for (strip, first) in rows.clone().step_by(SIDE).enumerate() {
        let count = SIDE.min(rows.end - first);
        // SAFETY: tiles of the strips; rows and columns lie in the matrix. Tiles are written one after the other, not the rows
        // of one tile after those of the next: the cache then sees what is written next.
        unsafe {
            let to = to.add(strip * steps * TILE);
            for step in 0..*steps {
                // What no column fills is zero: rows beyond the last, and the end of the last step.
                let kept = if cols.len() >= (step + 1) * DEPTH { count } else { 0 };
                for i in kept..SIDE {
                    _mm512_storeu_si512(to.add(step * TILE + i * DEPTH).cast(), _mm512_setzero_si512());
                }
            }
            if C::GROUPED {
                let end = cols.end.div_ceil(view.group);
                for chunk in (cols.start / view.group..end).step_by(GROUPS) {
                    let stop = end.min(chunk + GROUPS);
                    for i in 0..count {
                        convert_scales(view, first + i, chunk..stop, &mut scales.scale[i], &mut scales.bias[i]);
                    }
                    for g in chunk..stop {
                        // A length that the compiler knows makes straight code of a group.
                        let part = (first..first + count, g, g - chunk);
                        match view.group {
                            32 => groups::<C, 32>(job, part, &scales, to),
                            64 => groups::<C, 64>(job, part, &scales, to),
                            128 => groups::<C, 128>(job, part, &scales, to),
                            _ => groups::<C, 0>(job, part, &scales, to),
                        }
                    }
                }
            } else {
                dense::<C>(job, first..first + count, to);
            }
        }
    }
}

/// Converts scales and biases of at most [`GROUPS`] groups of a row.
///
/// # Safety
/// The row and the groups lie in the matrix.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn convert_scales(
    view: &View<'_>,
    row: usize,
    groups: Range<usize>,
    scale: &mut [f32; GROUPS],
    bias: &mut [f32; GROUPS],
) {
    let (kind, scales, biases) = view.scale_bytes(row, groups.start);
    let lanes = below(groups.len());
    // SAFETY: the masks leave out what lies beyond the groups; affine matrices, which alone have floats, have biases.
    unsafe {
        let load = |p: *const u8| match kind {
            ScaleType::Float(Float::F32) => _mm512_maskz_loadu_ps(lanes, p.cast()),
            ScaleType::Float(Float::F16) => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p.cast())),
            ScaleType::Float(Float::Bf16) => {
                let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
            ScaleType::E8m0 | ScaleType::E4m3 => _mm512_setzero_ps(),
        };
        if let ScaleType::Float(_) = kind {
            _mm512_storeu_ps(scale.as_mut_ptr(), load(scales));
            _mm512_storeu_ps(bias.as_mut_ptr(), load(biases));
            return;
        }
        for (i, scale) in scale.iter_mut().enumerate().take(groups.len()) {
            let byte = *scales.add(i);
            *scale = view.multiplier() * if kind == ScaleType::E8m0 { e8m0(byte) } else { E4M3[byte as usize] };
        }
    }
}

/// Rows of a form without groups.
///
/// # Safety
/// As [`decode`], with at most [`SIDE`] of the rows and `to` their strip.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn dense<C: Codec>(job: &Decode<'_>, rows: Range<usize>, to: *mut u16) {
    let (s, len) = (job.simd, job.cols.len());
    let as_is = matches!(job.view.elements, Elements::Dense(Float::Bf16, _));
    let none = C::group(s, 1.0, 0.0);
    for k in (0..len).step_by(DEPTH) {
        for (i, row) in rows.clone().enumerate() {
            // SAFETY: the columns lie in the row, and loads take no more than is left of it.
            unsafe {
                let from = job.view.row(row).add((job.cols.start + k) * C::BITS as usize / 8);
                let to = to.add(k / DEPTH * TILE + i * DEPTH);
                let left = len - k;
                if as_is {
                    let mask = if left >= DEPTH { u32::MAX } else { (1 << left) - 1 };
                    _mm512_storeu_si512(to.cast(), _mm512_maskz_loadu_epi16(mask, from.cast()));
                    continue;
                }
                let load = |skip: usize| match left.saturating_sub(skip) {
                    0 => _mm512_setzero_ps(),
                    left @ 1..16 => C::load_part(s, from.add(skip * C::BITS as usize / 8), left),
                    _ => C::load(s, from.add(skip * C::BITS as usize / 8), &none),
                };
                _mm512_storeu_si512(to.cast(), plain(_mm512_cvtne2ps_pbh(load(16), load(0))));
            }
        }
    }
}

/// The weights of one group of some rows. Their number is a multiple of 16, and a step may hold the end of one and the start
/// of another.
///
/// # Safety
/// As [`decode`], with at most [`SIDE`] of the rows, a group of the columns (of `LEN`, or any length if that is 0) and its place
/// among the scales, and `to` the strip.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn groups<C: Codec, const LEN: usize>(
    job: &Decode<'_>,
    (rows, g, scale): (Range<usize>, usize, usize),
    scales: &Scales,
    to: *mut u16,
) {
    let (s, view) = (job.simd, job.view);
    let len = if LEN == 0 { view.group } else { LEN };
    let (at, row_bytes) = (g * len - job.cols.start, view.row_bytes);
    let first = view.row(rows.start).wrapping_add(g * len * C::BITS as usize / 8);
    for i in 0..rows.len().min(SIDE) {
        let group = C::group(s, scales.scale[i][scale], scales.bias[i][scale]);
        // SAFETY: the group's codes lie in the row, its weights in the strip.
        unsafe {
            let codes = first.wrapping_add(i * row_bytes);
            let to = to.add(i * DEPTH);
            if !len.is_multiple_of(DEPTH) {
                for k in (0..len).step_by(16) {
                    let half = _mm512_cvtneps_pbh(C::load(s, codes.add(k * C::BITS as usize / 8), &group));
                    let half: __m256i = std::mem::transmute(half);
                    _mm256_storeu_si256(to.add((at + k) / DEPTH * TILE + (at + k) % DEPTH).cast(), half);
                }
                continue;
            }
            let to = to.add(at / DEPTH * TILE);
            if C::BITS == 4 {
                // The sixteen weights that the codes can mean, twice: then a look-up of 32 need not clear the bit above a code.
                const ALL: [u8; 8] = [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE];
                let weights = C::load(s, ALL.as_ptr(), &group);
                let table = plain(_mm512_cvtne2ps_pbh(weights, weights));
                for k in (0..len).step_by(DEPTH) {
                    let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.add(k / 2).cast()));
                    let index = _mm512_or_si512(bytes, _mm512_slli_epi32::<12>(bytes));
                    _mm512_storeu_si512(to.add(k / DEPTH * TILE).cast(), _mm512_permutexvar_epi16(index, table));
                }
            } else {
                for k in (0..len).step_by(DEPTH) {
                    let low = C::load(s, codes.add(k * C::BITS as usize / 8), &group);
                    let high = C::load(s, codes.add((k + 16) * C::BITS as usize / 8), &group);
                    _mm512_storeu_si512(to.add(k / DEPTH * TILE).cast(), plain(_mm512_cvtne2ps_pbh(high, low)));
                }
            }
        }
    }
}
