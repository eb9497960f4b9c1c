//! AVX-512 F, BW, VL and DQ: sixteen lanes, thirty-two registers, and look-ups in tables of 16 or 32 floats.

use std::arch::x86_64::*;

use crate::arch::portable::E2M1;
use crate::arch::x86_64::Avx2;
use crate::simd::{Simd, SimdOp};

/// The token of AVX-512 F, BW, VL, DQ and everything that [`Avx2`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512(());

impl Avx512 {
    /// `None` if the processor lacks one of the features.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        (has && Avx2::new().is_some()).then_some(Self(()))
    }
}

/// Runs `op` in a function that has the features, into which everything is inlined.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub unsafe fn run<Op: SimdOp>(token: Avx512, op: Op) -> Op::Output {
    op.eval(token)
}

/// An intrinsic without memory operand.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token exists only if the processor has the instruction.
        unsafe { $e }
    };
}

/// An intrinsic that reads or writes memory, in an `unsafe fn` whose caller vouches for exactly that memory.
macro_rules! mem {
    ($e:expr) => {
        // SAFETY: the token exists only if the processor has the instruction; the bytes are those that the caller named.
        unsafe { $e }
    };
}

/// How sixteen codes come into their lanes.
struct Spread<const BITS: u32>;

impl<const BITS: u32> Spread<BITS> {
    /// For codes that lie in a copy of the bytes in each quarter: the two bytes of each lane.
    const BYTES: [u8; 64] = {
        let mut bytes = [0x80; 64];
        let mut lane = 0;
        while lane < 16 {
            let byte = lane as u32 * BITS / 8;
            bytes[lane * 4] = byte as u8;
            if byte + 1 < 2 * BITS {
                bytes[lane * 4 + 1] = (byte + 1) as u8;
            }
            lane += 1;
        }
        bytes
    };
    /// How far to shift each lane. Up to 4 bits, lanes 0..8 hold the first 32 bits and lanes 8..16 the last 32 of the
    /// `16 * BITS`; above, each lane holds the bytes of `BYTES`.
    const SHIFTS: [u32; 16] = {
        let mut shifts = [0; 16];
        let mut lane = 0;
        while lane < 16 {
            let bit = lane as u32 * BITS;
            shifts[lane] = match BITS {
                5.. => bit % 8,
                3 | 4 if lane >= 8 => bit - (16 * BITS - 32),
                _ => bit,
            };
            lane += 1;
        }
        shifts
    };
    /// The codes that a look-up by the low four (or, in the second row, five) bits of a lane stands for.
    const CODES: [[f32; 16]; 2] = {
        let mut codes = [[0.0; 16]; 2];
        let mut i = 0;
        while i < 32 {
            codes[i / 16][i % 16] = (i % (1 << BITS)) as f32;
            i += 1;
        }
        codes
    };
}

/// Sixteen codes of `BITS` bits in the low bits of each lane, with their neighbours above them (none for 8 bits).
///
/// # Safety
/// `p` is readable for `2 * BITS` bytes.
#[inline(always)]
unsafe fn integers<const BITS: u32>(p: *const u8) -> __m512i {
    mem!({
        if BITS == 8 {
            return _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        }
        let words = match BITS {
            1 => _mm512_set1_epi32(i32::from(p.cast::<u16>().read_unaligned())),
            2 => _mm512_set1_epi32(p.cast::<i32>().read_unaligned()),
            3 | 4 => {
                let low = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
                let high = p.add(2 * BITS as usize - 4).cast::<i32>().read_unaligned();
                _mm512_mask_set1_epi32(low, 0xff00, high)
            }
            _ => {
                let bytes = _mm_maskz_loadu_epi8(((1u32 << (2 * BITS)) - 1) as u16, p.cast());
                _mm512_shuffle_epi8(
                    _mm512_broadcast_i32x4(bytes),
                    _mm512_loadu_si512(Spread::<BITS>::BYTES.as_ptr().cast()),
                )
            }
        };
        _mm512_srlv_epi32(words, _mm512_loadu_si512(Spread::<BITS>::SHIFTS.as_ptr().cast()))
    })
}

/// Lanes below `n`.
#[inline(always)]
fn lanes_below(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

impl Simd for Avx512 {
    type F = __m512;
    /// Up to 4 bits: the weights of all codes; 5 bits: those below 16, the others; above: scale and bias.
    type Affine = (__m512, __m512);
    type Fp4 = __m512;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const NAME: &'static str = "x86_64-avx512";

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        mem!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> __m512 {
        mem!(_mm512_maskz_loadu_ps(lanes_below(n), p))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m512 {
        mem!(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m512 {
        mem!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))))
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> __m512 {
        mem!({
            let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
            let magnitude = _mm256_slli_epi16::<7>(_mm256_and_si256(codes, _mm256_set1_epi16(127)));
            let sign = _mm256_slli_epi16::<8>(_mm256_and_si256(codes, _mm256_set1_epi16(128)));
            _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(magnitude, sign)), _mm512_set1_ps(256.0))
        })
    }
    #[inline(always)]
    unsafe fn load_codes<const BITS: u32>(self, p: *const u8) -> __m512 {
        mem!({
            let codes = integers::<BITS>(p);
            _mm512_cvtepi32_ps(if BITS == 8 {
                codes
            } else {
                _mm512_and_si512(codes, _mm512_set1_epi32((1 << BITS) - 1))
            })
        })
    }
    #[inline(always)]
    unsafe fn load_table16(self, p: *const u8, table: &[f32; 16]) -> __m512 {
        mem!(_mm512_permutexvar_ps(integers::<4>(p), _mm512_loadu_ps(table.as_ptr())))
    }
    #[inline(always)]
    fn affine<const BITS: u32>(self, scale: f32, bias: f32) -> (__m512, __m512) {
        op!({
            let (scale, bias) = (_mm512_set1_ps(scale), _mm512_set1_ps(bias));
            match BITS {
                6.. => (scale, bias),
                _ => {
                    let low = _mm512_mul_ps(_mm512_loadu_ps(Spread::<BITS>::CODES[0].as_ptr()), scale);
                    let high = _mm512_mul_ps(_mm512_loadu_ps(Spread::<BITS>::CODES[1].as_ptr()), scale);
                    (_mm512_add_ps(low, bias), _mm512_add_ps(high, bias))
                }
            }
        })
    }
    #[inline(always)]
    unsafe fn load_affine<const BITS: u32>(self, p: *const u8, group: &(__m512, __m512)) -> __m512 {
        mem!({
            match BITS {
                6.. => _mm512_add_ps(_mm512_mul_ps(self.load_codes::<BITS>(p), group.0), group.1),
                5 => _mm512_permutex2var_ps(group.0, integers::<BITS>(p), group.1),
                _ => _mm512_permutexvar_ps(integers::<BITS>(p), group.0),
            }
        })
    }
    #[inline(always)]
    fn fp4(self, scale: f32) -> __m512 {
        op!(_mm512_mul_ps(_mm512_loadu_ps(E2M1.as_ptr()), _mm512_set1_ps(scale)))
    }
    #[inline(always)]
    unsafe fn load_fp4(self, p: *const u8, group: &__m512) -> __m512 {
        mem!(_mm512_permutexvar_ps(integers::<4>(p), *group))
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }
    #[inline(always)]
    fn prefetch_far(self, p: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        mem!(_mm512_storeu_ps(p, v))
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: __m512, n: usize) {
        mem!(_mm512_mask_storeu_ps(p, lanes_below(n), v))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        op!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn exp2i(self, n: __m512) -> __m512 {
        op!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        op!({
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        op!({
            // The pairs that `sum` adds, of several vectors at once: halves, quarters, then inside quarters.
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b));
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xEE>(c, d));
            let four = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd));
            let two = _mm512_add_ps(four, _mm512_permute_ps::<0x4E>(four));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0xB1>(two));
            let mut sums = [0.0; 4];
            let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, one)));
            sums
        })
    }
    #[inline(always)]
    fn sum16(self, v: [__m512; 16]) -> [f32; 16] {
        op!({
            // The pairs that `sum` adds. Two vectors share one: of each, the parts that stay where they are, and the others
            // in their places. So a step takes one shuffle for two, and vector `i` ends in lane `i`.
            let (mut halves, mut quarters, mut twos) = ([v[0]; 8], [v[0]; 4], [v[0]; 2]);
            for (i, half) in halves.iter_mut().enumerate() {
                let (a, b) = (v[i], v[i + 8]);
                *half = _mm512_add_ps(_mm512_mask_blend_ps(0xFF00, a, b), _mm512_shuffle_f32x4::<0x4E>(a, b));
            }
            for (i, quarter) in quarters.iter_mut().enumerate() {
                let (a, b) = (halves[i], halves[i + 4]);
                let others = _mm512_mask_blend_ps(0x0F0F, a, b);
                let others = _mm512_shuffle_f32x4::<0xB1>(others, others);
                *quarter = _mm512_add_ps(_mm512_mask_blend_ps(0xF0F0, a, b), others);
            }
            for (i, two) in twos.iter_mut().enumerate() {
                let (a, b) = (quarters[i], quarters[i + 2]);
                *two = _mm512_add_ps(_mm512_mask_blend_ps(0xCCCC, a, b), _mm512_shuffle_ps::<0x4E>(a, b));
            }
            let [a, b] = twos;
            let others = _mm512_permute_ps::<0xB1>(_mm512_mask_blend_ps(0x5555, a, b));
            let mut sums = [0.0; 16];
            _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(_mm512_mask_blend_ps(0xAAAA, a, b), others));
            sums
        })
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        op!({
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
}
