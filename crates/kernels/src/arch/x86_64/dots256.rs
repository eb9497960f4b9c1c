//! Integer dot products with AVX2, and with the one instruction more that AVX-VNNI has: two registers of 32 bytes.

#![allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::runs256;
use crate::arch::x86_64::Avx2;
use crate::codec::ScaleType;
use crate::dots::{Dots, DotsOp, MOST_PLANES, Planes, two_digits as by_dots};
use crate::simd::Simd;
use crate::weights::Float;

/// The token of AVX-VNNI and everything that [`Avx2`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AvxVnni(Avx2);

impl AvxVnni {
    /// `None` if the processor lacks one of the features.
    pub fn new() -> Option<Self> {
        Avx2::new().filter(|_| is_x86_feature_detected!("avxvnni")).map(Self)
    }
}

/// Runs `op` in a function that has the features.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
unsafe fn run_vnni<Op: DotsOp>(token: AvxVnni, op: Op) {
    op.eval(token);
}

/// Runs `op` in a function that has the features.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<Op: DotsOp>(token: Avx2, op: Op) {
    op.eval(token);
}

/// An intrinsic without memory operand.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token exists only if the processor has the instruction.
        unsafe { $e }
    };
}

/// An intrinsic that reads memory, in an `unsafe fn` whose caller vouches for exactly that memory.
macro_rules! mem {
    ($e:expr) => {
        // SAFETY: the token exists only if the processor has the instruction; the bytes are those that the caller named.
        unsafe { $e }
    };
}

/// Two registers: bytes 0..32 and 32..64.
pub(super) type Pair = [__m256i; 2];

/// How sixteen codes of `BITS` bits, `2 * BITS` bytes in each half of a register, come into bytes. Those at even places are shifted right
/// to the low byte of a 16-bit lane, those at odd ones left to the high byte, all by multiplication, out of the two bytes that hold them.
struct Spread<const BITS: u32>;

impl<const BITS: u32> Spread<BITS> {
    /// Bytes of the lanes for codes at even and at odd places.
    const BYTES: [[u8; 16]; 2] = {
        let mut bytes = [[0x80; 16]; 2];
        let mut i = 0;
        while i < 16 {
            let (byte, lane) = (i * BITS as usize / 8, i / 2 * 2);
            if i % 2 == 0 && (i * BITS as usize).is_multiple_of(8) {
                // The high half of a product is no shift by zero, so the code goes into the high byte.
                bytes[0][lane + 1] = byte as u8;
            } else {
                bytes[i % 2][lane] = byte as u8;
                bytes[i % 2][lane + 1] = byte as u8 + 1;
            }
            i += 1;
        }
        bytes
    };
    /// What they are multiplied with.
    const FACTORS: [[u16; 8]; 2] = {
        let mut factors = [[0; 8]; 2];
        let mut i = 0;
        while i < 16 {
            let bit = i as u32 * BITS % 8;
            factors[i % 2][i / 2] = if i % 2 == 1 || bit == 0 { 1 << (8 - bit) } else { 1 << (16 - bit) };
            i += 1;
        }
        factors
    };
}

/// A multiplication with powers of two. Written out, because the compiler makes shifts of it that take several instructions.
macro_rules! multiplication {
    ($name:ident) => {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn $name(a: __m256i, b: __m256i) -> __m256i {
            let mut a = a;
            // SAFETY: registers alone are read and written, and the function has the feature.
            unsafe {
                asm!(
                    concat!(stringify!($name), " {a}, {a}, {b}"),
                    a = inout(ymm_reg) a, b = in(ymm_reg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            a
        }
    };
}

multiplication!(vpmulhuw);
multiplication!(vpmullw);

/// A register whose halves are both the 16 bytes at `p`.
///
/// # Safety
/// `p` is readable for 16 bytes.
#[inline(always)]
unsafe fn twice(p: *const u8) -> __m256i {
    mem!(_mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())))
}

#[inline(always)]
unsafe fn load(p: *const u8, n: usize) -> Pair {
    mem!({
        if n >= 64 {
            return [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())];
        }
        let mut bytes = [0u8; 64];
        p.copy_to_nonoverlapping(bytes.as_mut_ptr(), n);
        [_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_loadu_si256(bytes.as_ptr().add(32).cast())]
    })
}

#[inline(always)]
unsafe fn unpack<const BITS: u32>(p: *const u8, n: usize) -> Pair {
    let mut copy = [0u8; 64];
    let mut p = p;
    if n < 64 {
        // SAFETY: the caller vouches for `n` bytes.
        unsafe { p.copy_to_nonoverlapping(copy.as_mut_ptr(), n.min(8 * BITS as usize)) };
        p = copy.as_ptr();
    }
    mem!({
        let (even, odd) = (twice(Spread::<BITS>::BYTES[0].as_ptr()), twice(Spread::<BITS>::BYTES[1].as_ptr()));
        let (right, left) =
            (twice(Spread::<BITS>::FACTORS[0].as_ptr().cast()), twice(Spread::<BITS>::FACTORS[1].as_ptr().cast()));
        let mask = (1 << BITS) - 1;
        let mut out = [_mm256_setzero_si256(); 2];
        for (i, out) in out.iter_mut().enumerate() {
            // Both loads end before byte 64: the last begins at 6 * BITS, at most 36.
            let first = _mm_loadu_si128(p.add(4 * i * BITS as usize).cast());
            let second = _mm_loadu_si128(p.add((4 * i + 2) * BITS as usize).cast());
            let bytes = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), second);
            let low = vpmulhuw(_mm256_shuffle_epi8(bytes, even), right);
            let high = vpmullw(_mm256_shuffle_epi8(bytes, odd), left);
            *out = _mm256_or_si256(
                _mm256_and_si256(low, _mm256_set1_epi16(mask)),
                _mm256_and_si256(high, _mm256_set1_epi16(mask << 8)),
            );
        }
        out
    })
}

/// Reads eight scales.
///
/// # Safety
/// `p` is readable for them.
#[inline(always)]
unsafe fn eight_scales(s: Avx2, kind: ScaleType, p: *const u8) -> __m256 {
    mem!(match kind {
        ScaleType::Float(Float::F32) => Simd::load(s, p.cast()),
        ScaleType::Float(Float::F16) => s.load_f16(p),
        ScaleType::Float(Float::Bf16) => s.load_bf16(p),
        ScaleType::E8m0 => {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            // Zero stands for 2^-127, which is denormal.
            let least = _mm256_cmpeq_epi32(bytes, _mm256_setzero_si256());
            let least = _mm256_and_si256(least, _mm256_set1_epi32(1 << 22));
            _mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32::<23>(bytes), least))
        }
        ScaleType::E4m3 => s.load_e4m3(p),
    })
}

#[inline(always)]
unsafe fn scales(s: Avx2, kind: ScaleType, p: *const u8, n: usize, left: usize) -> [__m256; 2] {
    mem!({
        let (size, mut copy) = (kind.size(), [0u8; 64]);
        let mut p = p;
        if left < 16 * size {
            p.copy_to_nonoverlapping(copy.as_mut_ptr(), n * size);
            p = copy.as_ptr();
        }
        let all = [eight_scales(s, kind, p), eight_scales(s, kind, p.add(8 * size))];
        if n >= 16 {
            return all;
        }
        // What lies behind the row's scales may be anything, and infinity times zero is not zero.
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes));
        let high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32 - 8), lanes));
        [_mm256_and_ps(all[0], low), _mm256_and_ps(all[1], high)]
    })
}

/// Eight vectors of eight lanes: lane `l` of result `i` is lane `i` of vector `l`.
#[inline(always)]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let (mut pairs, mut fours, mut out) = (rows, rows, rows);
    op!({
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        for i in 0..2 {
            for j in 0..2 {
                let (a, b) = (pairs[4 * i + j], pairs[4 * i + 2 + j]);
                fours[4 * i + 2 * j] = _mm256_unpacklo_epi64(a, b);
                fours[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(a, b);
            }
        }
        for i in 0..4 {
            out[i] = _mm256_permute2x128_si256::<0x20>(fours[i], fours[4 + i]);
            out[4 + i] = _mm256_permute2x128_si256::<0x31>(fours[i], fours[4 + i]);
        }
    });
    out
}

/// See [`Dots::field`].
#[inline(always)]
fn field<const SHIFT: u32>(bytes: __m256i, mask: u8) -> __m256i {
    op!({
        // The intrinsics' shift counts are signed.
        let shifted = match SHIFT {
            0 => bytes,
            2 => _mm256_srli_epi16::<2>(bytes),
            4 => _mm256_srli_epi16::<4>(bytes),
            6 => _mm256_srli_epi16::<6>(bytes),
            _ => unreachable!("fields of 2 and 4 bits"),
        };
        _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
    })
}

/// The lanes of [`Dots::spread`] that two registers take from one, from each first one.
const fn spread_lanes(groups: usize) -> [[[i32; 8]; 2]; 8] {
    let mut lanes = [[[0; 8]; 2]; 8];
    let mut i = 0;
    while i < 128 {
        lanes[i / 16][i % 16 / 8][i % 8] = ((i / 16 + i % 16 * groups / 16) % 8) as i32;
        i += 1;
    }
    lanes
}

/// See [`Dots::spread`]. The groups lie in one register, because they begin at a multiple of their number.
#[inline(always)]
fn spread<const GROUPS: usize>(v: &[__m256; 2], first: usize) -> [__m256; 2] {
    if GROUPS <= 2 {
        // A group fills a register.
        let lanes: *const f32 = v.as_ptr().cast();
        // SAFETY: the caller's groups are lanes.
        return op!([_mm256_broadcast_ss(&*lanes.add(first)), _mm256_broadcast_ss(&*lanes.add(first + GROUPS / 2))]);
    }
    let [low, high] = &const { spread_lanes(GROUPS) }[first % 8];
    op!({
        let (low, high) = (_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast()));
        let from = v[first / 8];
        [_mm256_permutevar8x32_ps(from, low), _mm256_permutevar8x32_ps(from, high)]
    })
}

/// See [`Dots::sums`]: of two, whose registers have been added, the four lanes of one in each half.
#[inline(always)]
fn halves(a: __m256, b: __m256) -> __m256 {
    op!(_mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)))
}

/// The sums of the four lanes of each half, first those 2 apart.
#[inline(always)]
fn half_sums(a: __m256) -> [f32; 2] {
    op!({
        let pairs = _mm256_add_ps(a, _mm256_permute_ps::<0x4e>(a));
        let all = _mm256_add_ps(pairs, _mm256_permute_ps::<0xb1>(pairs));
        [_mm256_cvtss_f32(all), _mm_cvtss_f32(_mm256_extractf128_ps::<1>(all))]
    })
}

/// What both tokens share: everything but the multiplication.
macro_rules! dots {
    ($token:ty, $name:literal, $run:ident, $dot:ident, $two_digits:ident $(, { $($more:tt)* })?) => {
        impl Dots for $token {
            type Bytes = Pair;
            type Ints = Pair;
            type Floats = [__m256; 2];
            const NAME: &'static str = $name;
            const MOST_ROWS: usize = 4;
            const HELD_ROWS: usize = 1;
            const PARTS: usize = 2;
            const TILE_ROWS: usize = 4;
            const TILE_VECTORS: usize = 1;
            $($($more)*)?

            #[inline(always)]
            unsafe fn load(self, p: *const u8, n: usize) -> Pair {
                mem!(load(p, n))
            }
            #[inline(always)]
            unsafe fn unpack<const BITS: u32>(self, p: *const u8, n: usize) -> Pair {
                mem!(unpack::<BITS>(p, n))
            }
            #[inline(always)]
            fn field<const SHIFT: u32>(self, bytes: Pair, mask: u8) -> Pair {
                // No closures: they do not inherit the instructions of the function around them.
                [field::<SHIFT>(bytes[0], mask), field::<SHIFT>(bytes[1], mask)]
            }
            #[inline(always)]
            fn lookup(self, bytes: Pair, table: &[u8; 16]) -> Pair {
                op!({
                    let table = twice(table.as_ptr());
                    [_mm256_shuffle_epi8(table, bytes[0]), _mm256_shuffle_epi8(table, bytes[1])]
                })
            }
            #[inline(always)]
            fn no_ints(self) -> Pair {
                op!([_mm256_setzero_si256(); 2])
            }
            #[inline(always)]
            fn no_bytes(self) -> Pair {
                op!([_mm256_setzero_si256(); 2])
            }
            #[inline(always)]
            unsafe fn quad(self, p: *const i8) -> Pair {
                mem!([_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2])
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut u8, bytes: Pair) {
                mem!({
                    _mm256_storeu_si256(p.cast(), bytes[0]);
                    _mm256_storeu_si256(p.add(32).cast(), bytes[1]);
                })
            }
            #[inline(always)]
            fn transpose(self, rows: [Pair; 16]) -> [Pair; 16] {
                let mut out = rows;
                for half in 0..2 {
                    for from in 0..2 {
                        let mut eight = op!([_mm256_setzero_si256(); 8]);
                        for i in 0..8 {
                            eight[i] = rows[8 * half + i][from];
                        }
                        let eight = transpose(eight);
                        for i in 0..8 {
                            out[8 * from + i][half] = eight[i];
                        }
                    }
                }
                out
            }
            #[inline(always)]
            fn dot<const WIDE: bool>(self, sums: Pair, codes: Pair, digits: Pair) -> Pair {
                op!({
                    let low = $dot::<WIDE>(sums[0], codes[0], digits[0]);
                    [low, $dot::<WIDE>(sums[1], codes[1], digits[1])]
                })
            }
            #[inline(always)]
            fn two_digits<const WIDE: bool, const R: usize>(
                self,
                codes: &[Planes<Self>; R],
                digits: &[Planes<Self>; 2],
                planes: usize,
            ) -> [Pair; R] {
                $two_digits::<Self, WIDE, R>(self, codes, digits, planes)
            }
            #[inline(always)]
            fn times_256(self, a: Pair) -> Pair {
                op!([_mm256_slli_epi32::<8>(a[0]), _mm256_slli_epi32::<8>(a[1])])
            }
            #[inline(always)]
            fn no_floats(self) -> [__m256; 2] {
                op!([_mm256_setzero_ps(); 2])
            }
            #[inline(always)]
            unsafe fn floats(self, p: *const f32) -> [__m256; 2] {
                mem!([_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))])
            }
            #[inline(always)]
            unsafe fn store_floats(self, p: *mut f32, a: [__m256; 2]) {
                mem!({
                    _mm256_storeu_ps(p, a[0]);
                    _mm256_storeu_ps(p.add(8), a[1]);
                })
            }
            #[inline(always)]
            fn splat(self, x: f32) -> [__m256; 2] {
                op!([_mm256_set1_ps(x); 2])
            }
            #[inline(always)]
            unsafe fn scales(self, kind: ScaleType, p: *const u8, n: usize, left: usize) -> [__m256; 2] {
                mem!(scales(self.avx2(), kind, p, n, left))
            }
            #[inline(always)]
            fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
                op!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
            }
            #[inline(always)]
            fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
                op!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
            }
            #[inline(always)]
            fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
                op!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
            }
            #[inline(always)]
            fn bits(self, a: [__m256; 2]) -> Pair {
                op!([_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])])
            }
            #[inline(always)]
            fn convert(self, a: Pair) -> [__m256; 2] {
                op!([_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])])
            }
            #[inline(always)]
            fn part<const PART: usize>(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
                if PART == 0 { [b[0], a[1]] } else { [a[0], b[1]] }
            }
            #[inline(always)]
            fn spread<const GROUPS: usize>(self, v: &[__m256; 2], first: usize) -> [__m256; 2] {
                spread::<GROUPS>(v, first)
            }
            #[inline(always)]
            fn sums(self, [a, b, c, d]: [[__m256; 2]; 4]) -> [f32; 4] {
                let [a, b, c, d] = op!([
                    _mm256_add_ps(a[0], a[1]),
                    _mm256_add_ps(b[0], b[1]),
                    _mm256_add_ps(c[0], c[1]),
                    _mm256_add_ps(d[0], d[1])
                ]);
                let ([a, b], [c, d]) = (half_sums(halves(a, b)), half_sums(halves(c, d)));
                [a, b, c, d]
            }
            #[inline(always)]
            fn ahead(self) -> usize {
                super::ahead(1024)
            }
            #[inline(always)]
            fn prefetch(self, p: *const u8) {
                op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
            }
            #[inline(always)]
            fn prefetch_far(self, p: *const u8) {
                op!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
            }
            fn run<Op: DotsOp>(self, op: Op) {
                // SAFETY: the token exists only if the processor has the features.
                unsafe { $run(self, op) }
            }
        }
    };
}

/// `vpdpbusd`.
#[inline(always)]
unsafe fn dot_vnni<const WIDE: bool>(sums: __m256i, codes: __m256i, a: __m256i) -> __m256i {
    op!(_mm256_dpbusd_avx_epi32(sums, codes, a))
}

/// Sums of two products saturate at 16 bits: wide codes are multiplied as numbers of 16 bits.
#[inline(always)]
unsafe fn dot<const WIDE: bool>(sums: __m256i, codes: __m256i, a: __m256i) -> __m256i {
    op!({
        if !WIDE {
            return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, a), _mm256_set1_epi16(1)));
        }
        let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(a));
        _mm256_add_epi32(sums, wide_dot(codes, even, _mm256_srai_epi16::<8>(a)))
    })
}

/// The products of bytes with numbers of 16 bits, for the even bytes and for the odd ones.
#[inline(always)]
unsafe fn wide_dot(codes: __m256i, even: __m256i, odd: __m256i) -> __m256i {
    op!({
        let low = _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(255)), even);
        _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_srli_epi16::<8>(codes), odd))
    })
}

/// [`Dots::two_digits`]: pairs of products of codes below 64 add up in 16 bits (of one plane 63, of two 24, of four 3 are the largest
/// codes: at most 16,128), and the widening multiplies those of the high digits with 256. Wide codes meet both digits at once.
#[inline(always)]
fn two_digits<D: Dots<Bytes = Pair, Ints = Pair>, const WIDE: bool, const R: usize>(
    d: D,
    codes: &[Planes<D>; R],
    digits: &[Planes<D>; 2],
    planes: usize,
) -> [Pair; R] {
    let mut ints = [d.no_ints(); R];
    if WIDE {
        debug_assert_eq!(planes, 1);
        let [[high, ..], [low, ..]] = digits;
        for half in 0..2 {
            let (high, low) = (high[half], low[half]);
            op!({
                // Both digits together again.
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(low));
                let even = _mm256_add_epi16(_mm256_slli_epi16::<8>(high), even);
                let odd = _mm256_and_si256(high, _mm256_set1_epi16(-256));
                let odd = _mm256_add_epi16(odd, _mm256_srai_epi16::<8>(low));
                for r in 0..R {
                    ints[r][half] = wide_dot(codes[r][0][half], even, odd);
                }
            });
        }
        return ints;
    }
    for (ints, codes) in ints.iter_mut().zip(codes) {
        for (half, ints) in ints.iter_mut().enumerate() {
            let (high, low) = (words(codes, &digits[0], planes, half), words(codes, &digits[1], planes, half));
            *ints = op!(_mm256_add_epi32(
                _mm256_madd_epi16(high, _mm256_set1_epi16(256)),
                _mm256_madd_epi16(low, _mm256_set1_epi16(1))
            ));
        }
    }
    ints
}

/// The products of codes and digits in a half of the planes, two in each 16 bits.
#[inline(always)]
fn words(codes: &[Pair; MOST_PLANES], digits: &[Pair; MOST_PLANES], planes: usize, half: usize) -> __m256i {
    let mut sum = op!(_mm256_maddubs_epi16(codes[0][half], digits[0][half]));
    for plane in 1..planes {
        sum = op!(_mm256_add_epi16(sum, _mm256_maddubs_epi16(codes[plane][half], digits[plane][half])));
    }
    sum
}

impl AvxVnni {
    #[inline(always)]
    fn avx2(self) -> Avx2 {
        self.0
    }
}

impl Avx2 {
    #[inline(always)]
    fn avx2(self) -> Avx2 {
        self
    }
}

dots!(AvxVnni, "x86_64-avxvnni", run_vnni, dot_vnni, by_dots);
dots!(Avx2, "x86_64-avx2", run, dot, two_digits, {
    const SHORT_RUNS: bool = true;
    const WORDS: bool = true;

    #[inline(always)]
    unsafe fn quads<const M: usize, const V: usize, const RUN: usize, const HIGH: bool>(
        self,
        sums: &mut [[Pair; V]; M],
        panel: *const u8,
        digits: *const i8,
        count: usize,
    ) {
        // SAFETY: passed on.
        unsafe {
            if RUN == 0 {
                runs256::words::<M, V, HIGH>(sums, panel, digits, count)
            } else {
                runs256::quads::<M, V, RUN, HIGH>(sums, panel, digits, count)
            }
        }
    }
    #[inline(always)]
    unsafe fn fours<const M: usize, const V: usize, const RUN: usize>(
        self,
        sums: &mut [[Pair; V]; M],
        panel: *const u8,
        digits: (*const i8, *const u32),
        count: usize,
    ) {
        // Wide codes meet numbers of 16 bits.
        assert!(RUN > 0);
        // SAFETY: passed on.
        unsafe { runs256::fours::<M, V, RUN>(sums, panel, digits, count) }
    }
});
