//! Integer dot products with AVX-512: VNNI multiplies, VBMI unpacks codes that straddle bytes.

use std::arch::x86_64::*;

use crate::arch::x86_64::Avx512;
use crate::codec::ScaleType;
use crate::dots::{Dots, DotsOp};
use crate::simd::Simd;
use crate::weights::Float;

/// The token of AVX512-VNNI, AVX512-VBMI and everything that [`Avx512`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512Vnni(Avx512);

impl Avx512Vnni {
    /// `None` if the processor lacks one of the features.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vbmi");
        Avx512::new().filter(|_| has).map(Self)
    }
}

/// Runs `op` in a function that has the features.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
unsafe fn run<Op: DotsOp>(token: Avx512Vnni, op: Op) {
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

/// The first `n` of at most 64.
#[inline(always)]
fn below(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// How 64 codes of `BITS` bits come into their bytes: the bytes of eight codes into each quarter word, then each code by
/// its first bit there.
struct Spread<const BITS: u32>;

impl<const BITS: u32> Spread<BITS> {
    const BYTES: [u8; 64] = {
        let mut bytes = [0; 64];
        let mut i = 0;
        while i < 64 {
            // Bytes 0..BITS of a quarter word are its codes; the others are never looked at.
            bytes[i] = (i / 8 * BITS as usize + if i % 8 < BITS as usize { i % 8 } else { 0 }) as u8;
            i += 1;
        }
        bytes
    };
    const SHIFTS: i64 = {
        let mut bytes = [0; 8];
        let mut i = 0;
        while i < 8 {
            bytes[i] = (i * BITS as usize) as u8;
            i += 1;
        }
        i64::from_le_bytes(bytes)
    };
}

/// The lanes of [`Dots::spread`], from each first one.
const fn spread_lanes(groups: usize) -> [[i32; 16]; 16] {
    let mut lanes = [[0; 16]; 16];
    let mut i = 0;
    while i < 256 {
        lanes[i / 16][i % 16] = ((i / 16 + i % 16 * groups / 16) % 16) as i32;
        i += 1;
    }
    lanes
}

/// See [`Dots::transpose`]: first lanes and pairs of lanes within each quarter of a register, then the quarters.
#[inline(always)]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    op!({
        let mut quarters = rows;
        for i in (0..16).step_by(4) {
            let (a, b) = (_mm512_unpacklo_epi32(rows[i], rows[i + 1]), _mm512_unpackhi_epi32(rows[i], rows[i + 1]));
            let (c, d) =
                (_mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]), _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]));
            // Quarter `q` of vector `i + j` has lane `4 q + j` of four rows.
            quarters[i] = _mm512_unpacklo_epi64(a, c);
            quarters[i + 1] = _mm512_unpackhi_epi64(a, c);
            quarters[i + 2] = _mm512_unpacklo_epi64(b, d);
            quarters[i + 3] = _mm512_unpackhi_epi64(b, d);
        }
        let mut out = rows;
        for j in 0..4 {
            let [a, b, c, d] = [quarters[j], quarters[4 + j], quarters[8 + j], quarters[12 + j]];
            let (low, high) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
            let (low2, high2) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
            out[j] = _mm512_shuffle_i32x4::<0x88>(low, low2);
            out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
            out[4 + j] = _mm512_shuffle_i32x4::<0x88>(high, high2);
            out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
        }
        out
    })
}

impl Dots for Avx512Vnni {
    type Bytes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;
    const NAME: &'static str = "x86_64-avx512vnni";
    const MOST_ROWS: usize = 4;
    /// Zen 4 takes 6 % less for a row that way.
    const HELD_ROWS: usize = 2;
    const TILE_ROWS: usize = 8;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn load(self, p: *const u8, n: usize) -> __m512i {
        mem!(if n >= 64 { _mm512_loadu_si512(p.cast()) } else { _mm512_maskz_loadu_epi8(below(n), p.cast()) })
    }
    #[inline(always)]
    unsafe fn unpack<const BITS: u32>(self, p: *const u8, n: usize) -> __m512i {
        mem!({
            // A whole vector if the row goes on that far: masked loads cost more.
            let bytes = if n >= 64 {
                _mm512_loadu_si512(p.cast())
            } else {
                _mm512_maskz_loadu_epi8(below(n.min(8 * BITS as usize)), p.cast())
            };
            let spread = _mm512_permutexvar_epi8(_mm512_loadu_si512(Spread::<BITS>::BYTES.as_ptr().cast()), bytes);
            let codes = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(Spread::<BITS>::SHIFTS), spread);
            _mm512_and_si512(codes, _mm512_set1_epi8((1 << BITS) - 1))
        })
    }
    #[inline(always)]
    fn field<const SHIFT: u32>(self, bytes: __m512i, mask: u8) -> __m512i {
        op!(_mm512_and_si512(_mm512_srli_epi16::<SHIFT>(bytes), _mm512_set1_epi8(mask as i8)))
    }
    #[inline(always)]
    fn lookup(self, bytes: __m512i, table: &[u8; 16]) -> __m512i {
        op!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), bytes))
    }
    #[inline(always)]
    fn no_ints(self) -> __m512i {
        op!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn no_bytes(self) -> __m512i {
        op!(_mm512_setzero_si512())
    }
    #[inline(always)]
    unsafe fn quad(self, p: *const i8) -> __m512i {
        mem!(_mm512_set1_epi32(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u8, bytes: __m512i) {
        mem!(_mm512_storeu_si512(p.cast(), bytes))
    }
    #[inline(always)]
    fn transpose(self, rows: [__m512i; 16]) -> [__m512i; 16] {
        transpose(rows)
    }
    #[inline(always)]
    fn dot<const WIDE: bool>(self, sums: __m512i, codes: __m512i, digits: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(sums, codes, digits))
    }
    #[inline(always)]
    fn times_256(self, a: __m512i) -> __m512i {
        op!(_mm512_slli_epi32::<8>(a))
    }
    #[inline(always)]
    fn no_floats(self) -> __m512 {
        op!(_mm512_setzero_ps())
    }
    #[inline(always)]
    unsafe fn floats(self, p: *const f32) -> __m512 {
        mem!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store_floats(self, p: *mut f32, a: __m512) {
        mem!(_mm512_storeu_ps(p, a))
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn scales(self, kind: ScaleType, p: *const u8, n: usize, _: usize) -> __m512 {
        let mask = below(n) as __mmask16;
        mem!(match kind {
            ScaleType::Float(Float::F32) => _mm512_maskz_loadu_ps(mask, p.cast()),
            ScaleType::Float(Float::F16) => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p.cast())),
            ScaleType::Float(Float::Bf16) => {
                let words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
            }
            ScaleType::E8m0 => {
                let bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, p.cast()));
                // Zero stands for 2^-127, which is denormal; lanes that were not read stay zero.
                let least = _mm512_mask_cmpeq_epi32_mask(mask, bytes, _mm512_setzero_si512());
                let bits = _mm512_slli_epi32::<23>(bytes);
                _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, least, _mm512_set1_epi32(1 << 22)))
            }
            ScaleType::E4m3 => {
                let mut bytes = [0u8; 16];
                _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm_maskz_loadu_epi8(mask, p.cast()));
                self.0.load_e4m3(bytes.as_ptr())
            }
        })
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn bits(self, a: __m512) -> __m512i {
        op!(_mm512_castps_si512(a))
    }
    #[inline(always)]
    fn convert(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn spread<const GROUPS: usize>(self, v: &__m512, first: usize) -> __m512 {
        let lanes = &const { spread_lanes(GROUPS) }[first % 16];
        op!(_mm512_permutexvar_ps(_mm512_loadu_si512(lanes.as_ptr().cast()), *v))
    }
    #[inline(always)]
    fn sums(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        op!({
            // Halves of two, then quarters of all four.
            let two = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
            let next = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
            let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(two, next), _mm512_shuffle_f32x4::<0xdd>(two, next));
            let four = _mm512_add_ps(even, odd);
            let pairs = _mm512_add_ps(four, _mm512_permute_ps::<0x4e>(four));
            let all = _mm512_add_ps(pairs, _mm512_permute_ps::<0xb1>(pairs));
            let first = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(_mm512_permutexvar_ps(first, all)));
        });
        sums
    }
    #[inline(always)]
    fn ahead(self) -> usize {
        super::ahead(512)
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
        unsafe { run(self, op) }
    }
}
