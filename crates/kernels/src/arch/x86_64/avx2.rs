//! AVX2 with FMA and F16C: eight lanes, sixteen registers.

use std::arch::x86_64::*;

use crate::arch::portable::{E2M1, eight_codes};
use crate::simd::{Simd, SimdOp};

/// The token of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx2(());

impl Avx2 {
    /// `None` if the processor lacks one of the features.
    pub fn new() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

/// Runs `op` in a function that has the features, into which everything is inlined.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn run<Op: SimdOp>(token: Avx2, op: Op) -> Op::Output {
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

/// For each 32-bit lane of eight codes, the two bytes that hold it, and how far to shift them.
const fn spread(bits: u32) -> ([u8; 32], [u32; 8]) {
    let (mut bytes, mut shifts) = ([0x80; 32], [0; 8]);
    let mut lane = 0;
    while lane < 8 {
        let bit = lane as u32 * bits;
        bytes[lane * 4] = (bit / 8) as u8;
        if bit / 8 + 1 < bits {
            bytes[lane * 4 + 1] = (bit / 8 + 1) as u8;
        }
        shifts[lane] = bit % 8;
        lane += 1;
    }
    (bytes, shifts)
}

struct Spread<const BITS: u32>;

impl<const BITS: u32> Spread<BITS> {
    const BYTES: [u8; 32] = spread(BITS).0;
    const SHIFTS: [u32; 8] = spread(BITS).1;
    /// `lane * BITS`, for codes of which eight fit in 32 bits.
    const STEPS: [u32; 8] = [0, BITS, 2 * BITS, 3 * BITS, 4 * BITS, 5 * BITS, 6 * BITS, 7 * BITS];
}

/// Lanes below `n`.
#[inline(always)]
fn lanes_below(n: usize) -> __m256i {
    op!(_mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
}

/// Eight codes of `BITS` bits with whatever follows them in the upper bits of each lane if `MASK` is false.
#[inline(always)]
unsafe fn integers<const BITS: u32, const MASK: bool>(p: *const u8) -> __m256i {
    // SAFETY: the caller vouches for `BITS` bytes.
    let codes = unsafe { eight_codes::<BITS>(p) };
    op!({
        if BITS == 8 {
            return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(codes as i64));
        }
        let shifted = if BITS <= 4 {
            let steps = _mm256_loadu_si256(Spread::<BITS>::STEPS.as_ptr().cast());
            _mm256_srlv_epi32(_mm256_set1_epi32(codes as i32), steps)
        } else {
            let bytes = _mm256_loadu_si256(Spread::<BITS>::BYTES.as_ptr().cast());
            let shifts = _mm256_loadu_si256(Spread::<BITS>::SHIFTS.as_ptr().cast());
            _mm256_srlv_epi32(_mm256_shuffle_epi8(_mm256_set1_epi64x(codes as i64), bytes), shifts)
        };
        if MASK { _mm256_and_si256(shifted, _mm256_set1_epi32((1 << BITS) - 1)) } else { shifted }
    })
}

impl Simd for Avx2 {
    type F = __m256;
    type Affine = (__m256, __m256);
    type Fp4 = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const NAME: &'static str = "x86_64-avx2";

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        mem!(_mm256_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> __m256 {
        mem!(_mm256_maskload_ps(p, lanes_below(n)))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m256 {
        mem!(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m256 {
        mem!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))))
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> __m256 {
        mem!({
            let codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(p.cast()));
            let magnitude = _mm_slli_epi16::<7>(_mm_and_si128(codes, _mm_set1_epi16(127)));
            let sign = _mm_slli_epi16::<8>(_mm_and_si128(codes, _mm_set1_epi16(128)));
            _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(magnitude, sign)), _mm256_set1_ps(256.0))
        })
    }
    #[inline(always)]
    unsafe fn load_codes<const BITS: u32>(self, p: *const u8) -> __m256 {
        mem!(_mm256_cvtepi32_ps(integers::<BITS, true>(p)))
    }
    #[inline(always)]
    unsafe fn load_table16(self, p: *const u8, table: &[f32; 16]) -> __m256 {
        mem!({
            let codes = integers::<4, false>(p);
            // `permutevar8x32` looks at the low three bits; the fourth, shifted to the sign, picks the half of the table.
            let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), codes);
            let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), codes);
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
        })
    }
    #[inline(always)]
    fn affine<const BITS: u32>(self, scale: f32, bias: f32) -> (__m256, __m256) {
        (self.splat(scale), self.splat(bias))
    }
    #[inline(always)]
    unsafe fn load_affine<const BITS: u32>(self, p: *const u8, group: &(__m256, __m256)) -> __m256 {
        mem!(_mm256_add_ps(_mm256_mul_ps(self.load_codes::<BITS>(p), group.0), group.1))
    }
    #[inline(always)]
    fn fp4(self, scale: f32) -> __m256 {
        op!(_mm256_mul_ps(_mm256_loadu_ps(E2M1.as_ptr()), _mm256_set1_ps(scale)))
    }
    #[inline(always)]
    unsafe fn load_fp4(self, p: *const u8, group: &__m256) -> __m256 {
        mem!({
            let codes = integers::<4, false>(p);
            let sign = _mm256_and_si256(_mm256_slli_epi32::<28>(codes), _mm256_set1_epi32(i32::MIN));
            _mm256_xor_ps(_mm256_permutevar8x32_ps(*group, codes), _mm256_castsi256_ps(sign))
        })
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
    unsafe fn store(self, p: *mut f32, v: __m256) {
        mem!(_mm256_storeu_ps(p, v))
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: __m256, n: usize) {
        mem!(_mm256_maskstore_ps(p, lanes_below(n), v))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        op!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        op!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn exp2i(self, n: __m256) -> __m256 {
        op!({
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        op!(_mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        op!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        op!({
            // The pairs that `sum` adds, of several vectors at once: halves, then inside halves.
            let ab = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
            let cd = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(c, d), _mm256_permute2f128_ps::<0x31>(c, d));
            let two = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xEE>(ab, cd));
            let one = _mm256_add_ps(two, _mm256_permute_ps::<0xB1>(two));
            let acbd = _mm_shuffle_ps::<0x88>(_mm256_castps256_ps128(one), _mm256_extractf128_ps::<1>(one));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm_permute_ps::<0xD8>(acbd));
            sums
        })
    }
    #[inline(always)]
    fn max_lane(self, a: __m256) -> f32 {
        op!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
}
