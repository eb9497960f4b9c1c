//! Integer dot products with NEON: four registers of sixteen bytes, multiplied with whatever the processor has for that.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use crate::arch::aarch64::Neon;
use crate::codec::ScaleType;
use crate::dots::{Dots, DotsOp};
use crate::simd::Simd;
use crate::weights::Float;

/// The token of FEAT_DotProd, which has dot products of signed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeonDot(Neon);

/// The token of FEAT_I8MM, which has dot products of unsigned with signed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeonI8mm(Neon);

impl NeonDot {
    /// `None` if the processor lacks the feature.
    pub fn new() -> Option<Self> {
        Neon::new().filter(|_| is_aarch64_feature_detected!("dotprod")).map(Self)
    }
}

impl NeonI8mm {
    /// `None` if the processor lacks the feature.
    pub fn new() -> Option<Self> {
        Neon::new().filter(|_| is_aarch64_feature_detected!("i8mm")).map(Self)
    }
}

impl From<NeonDot> for Neon {
    fn from(token: NeonDot) -> Neon {
        token.0
    }
}

impl From<NeonI8mm> for Neon {
    fn from(token: NeonI8mm) -> Neon {
        token.0
    }
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

/// The same for each of four registers; a closure would not inherit the instructions of the function around it.
macro_rules! four {
    ($i:ident => $e:expr) => {
        four!($i => $e, 0, 1, 2, 3)
    };
    ($i:ident => $e:expr, $($n:literal),*) => {
        // SAFETY: as of `op` or, in an `unsafe fn`, as of `mem`.
        unsafe { [$({ let $i = $n; $e }),*] }
    };
}

/// Register `i` has the bytes from `16 i` on, the lanes from `4 i` on.
type Bytes = [uint8x16_t; 4];
type Ints = [int32x4_t; 4];
type Floats = [float32x4_t; 4];

/// The lanes' numbers.
const LANES: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// How sixteen codes of `BITS` bits come into bytes: the two bytes that hold a code into a 16-bit lane, and how far to shift
/// them (negative is right). Eight codes a time.
struct Spread<const BITS: u32>;

impl<const BITS: u32> Spread<BITS> {
    const BYTES: [[u8; 16]; 2] = {
        let mut bytes = [[0; 16]; 2];
        let mut i = 0;
        while i < 16 {
            let byte = i * BITS as usize / 8;
            bytes[i / 8][i % 8 * 2] = byte as u8;
            bytes[i / 8][i % 8 * 2 + 1] = byte as u8 + 1;
            i += 1;
        }
        bytes
    };
    const SHIFTS: [i16; 8] = {
        let mut shifts = [0; 8];
        let mut i = 0;
        while i < 8 {
            shifts[i] = -(i as i16 * BITS as i16 % 8);
            i += 1;
        }
        shifts
    };
}

/// Sixteen codes from the first bytes.
#[inline(always)]
fn codes<const BITS: u32>(bytes: uint8x16_t) -> uint8x16_t {
    let [first, second] = &Spread::<BITS>::BYTES;
    op!({
        let shifts = vld1q_s16(Spread::<BITS>::SHIFTS.as_ptr());
        let low = vshlq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(first.as_ptr()))), shifts);
        let high = vshlq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(second.as_ptr()))), shifts);
        let codes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
        vandq_u8(codes, vdupq_n_u8((1 << BITS) - 1))
    })
}

/// `p` if 64 bytes are readable there, else a copy of the first `n`.
///
/// # Safety
/// `p` is readable for `n` bytes.
#[inline(always)]
unsafe fn whole(p: *const u8, n: usize, copy: &mut [u8; 64]) -> *const u8 {
    if n >= 64 {
        return p;
    }
    mem!(p.copy_to_nonoverlapping(copy.as_mut_ptr(), n));
    copy.as_ptr()
}

/// See [`Dots::field`].
#[inline(always)]
fn field<const SHIFT: u32>(bytes: Bytes, mask: u8) -> Bytes {
    four!(i => {
        // The intrinsics' shift counts are signed, and none is zero.
        let shifted = match SHIFT {
            0 => bytes[i],
            2 => vshrq_n_u8::<2>(bytes[i]),
            4 => vshrq_n_u8::<4>(bytes[i]),
            6 => vshrq_n_u8::<6>(bytes[i]),
            _ => unreachable!("fields of 2 and 4 bits"),
        };
        vandq_u8(shifted, vdupq_n_u8(mask))
    })
}

/// See [`Dots::transpose`]: four lanes of four rows at a time.
#[inline(always)]
fn transpose(rows: [Bytes; 16]) -> [Bytes; 16] {
    let mut out = rows;
    for i in 0..4 {
        for l in 0..4 {
            op!({
                let [a, b] = [vreinterpretq_u32_u8(rows[4 * l][i]), vreinterpretq_u32_u8(rows[4 * l + 1][i])];
                let [c, d] = [vreinterpretq_u32_u8(rows[4 * l + 2][i]), vreinterpretq_u32_u8(rows[4 * l + 3][i])];
                let [ab, cd] = [vreinterpretq_u64_u32(vtrn1q_u32(a, b)), vreinterpretq_u64_u32(vtrn1q_u32(c, d))];
                out[4 * i][l] = vreinterpretq_u8_u64(vtrn1q_u64(ab, cd));
                out[4 * i + 2][l] = vreinterpretq_u8_u64(vtrn2q_u64(ab, cd));
                let [ab, cd] = [vreinterpretq_u64_u32(vtrn2q_u32(a, b)), vreinterpretq_u64_u32(vtrn2q_u32(c, d))];
                out[4 * i + 1][l] = vreinterpretq_u8_u64(vtrn1q_u64(ab, cd));
                out[4 * i + 3][l] = vreinterpretq_u8_u64(vtrn2q_u64(ab, cd));
            });
        }
    }
    out
}

/// Reads eight scales.
///
/// # Safety
/// `p` is readable for them.
#[inline(always)]
unsafe fn eight_scales(s: Neon, kind: ScaleType, p: *const u8) -> (float32x4_t, float32x4_t) {
    mem!(match kind {
        ScaleType::Float(Float::F32) => Simd::load(s, p.cast()),
        ScaleType::Float(Float::F16) => s.load_f16(p),
        ScaleType::Float(Float::Bf16) => s.load_bf16(p),
        ScaleType::E8m0 => {
            let halves = vmovl_u8(vld1_u8(p));
            (powers(vmovl_u16(vget_low_u16(halves))), powers(vmovl_high_u16(halves)))
        }
        ScaleType::E4m3 => s.load_e4m3(p),
    })
}

/// Four E8M0 numbers.
#[inline(always)]
fn powers(bytes: uint32x4_t) -> float32x4_t {
    // Zero stands for 2^-127, which is denormal.
    op!({
        let least = vandq_u32(vceqzq_u32(bytes), vdupq_n_u32(1 << 22));
        vreinterpretq_f32_u32(vorrq_u32(vshlq_n_u32::<23>(bytes), least))
    })
}

#[inline(always)]
unsafe fn scales(s: Neon, kind: ScaleType, p: *const u8, n: usize, left: usize) -> Floats {
    let (size, mut p, mut copy) = (kind.size(), p, [0u8; 64]);
    if left < 16 * size {
        mem!(p.copy_to_nonoverlapping(copy.as_mut_ptr(), n * size));
        p = copy.as_ptr();
    }
    let (low, high) = mem!((eight_scales(s, kind, p), eight_scales(s, kind, p.add(8 * size))));
    let all = [low.0, low.1, high.0, high.1];
    if n >= 16 {
        return all;
    }
    // What lies behind the row's scales may be anything, and infinity times zero is not zero.
    four!(i => {
        let there = vcltq_u32(vld1q_u32(LANES.as_ptr().add(4 * i)), vdupq_n_u32(n as u32));
        vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(all[i]), there))
    })
}

/// The bytes of [`Dots::spread`] that four registers take from one, from each first lane.
const fn spread_bytes(groups: usize) -> [[[u8; 16]; 4]; 4] {
    let mut bytes = [[[0; 16]; 4]; 4];
    let mut i = 0;
    while i < 256 {
        let lane = i / 64 + i % 64 / 4 * groups / 16;
        bytes[i / 64][i % 64 / 16][i % 16] = (4 * (lane % 4) + i % 4) as u8;
        i += 1;
    }
    bytes
}

/// See [`Dots::sums`]: of one whose registers have been added.
#[inline(always)]
fn four_sum(a: Floats) -> f32 {
    op!({
        let four = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
        vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
    })
}

/// A dot product with the name of its feature. The intrinsics are not stable, so it is written out.
macro_rules! dot_product {
    ($name:ident, $feature:literal) => {
        #[inline]
        #[target_feature(enable = $feature)]
        fn $name(sums: int32x4_t, codes: uint8x16_t, digits: int8x16_t) -> int32x4_t {
            let mut sums = sums;
            // SAFETY: registers alone are read and written, and the function has the feature.
            unsafe {
                asm!(
                    concat!(stringify!($name), " {0:v}.4s, {1:v}.16b, {2:v}.16b"),
                    inout(vreg) sums, in(vreg) codes, in(vreg) digits,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sums
        }
    };
}

dot_product!(sdot, "neon,dotprod");
dot_product!(usdot, "neon,i8mm");

/// Codes as they are.
#[inline(always)]
unsafe fn dot_i8mm<const WIDE: bool>(sums: int32x4_t, codes: uint8x16_t, digits: int8x16_t) -> int32x4_t {
    op!(usdot(sums, codes, digits))
}

/// Wide codes are signed bytes if 128 is taken off, which -128 puts back when it is subtracted.
#[inline(always)]
unsafe fn dot_signed<const WIDE: bool>(sums: int32x4_t, codes: uint8x16_t, digits: int8x16_t) -> int32x4_t {
    op!({
        if !WIDE {
            return sdot(sums, codes, digits);
        }
        let most = vdupq_n_u8(128);
        let off = sdot(vdupq_n_s32(0), most, digits);
        sdot(vsubq_s32(sums, off), veorq_u8(codes, most), digits)
    })
}

/// A sum of two products has 16 bits for narrow codes alone; one product has them for wide codes too, 128 of which are added
/// apart.
#[inline(always)]
unsafe fn dot<const WIDE: bool>(sums: int32x4_t, codes: uint8x16_t, digits: int8x16_t) -> int32x4_t {
    op!({
        if !WIDE {
            let codes = vreinterpretq_s8_u8(codes);
            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(digits));
            return vpadalq_s16(sums, vpaddq_s16(low, vmull_high_s8(codes, digits)));
        }
        let codes = vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128)));
        let low = vmlal_s8(vshll_n_s8::<7>(vget_low_s8(digits)), vget_low_s8(codes), vget_low_s8(digits));
        let high = vmlal_high_s8(vshll_high_n_s8::<7>(digits), codes, digits);
        vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
    })
}

/// What the tokens share: everything but the multiplication.
macro_rules! dots {
    ($token:ty, $name:literal, $features:literal, $dot:ident) => {
        impl Dots for $token {
            type Bytes = Bytes;
            type Ints = Ints;
            type Floats = Floats;
            const NAME: &'static str = $name;
            const MOST_ROWS: usize = 1;
            const TILE_ROWS: usize = 4;
            const TILE_VECTORS: usize = 1;

            #[inline(always)]
            unsafe fn load(self, p: *const u8, n: usize) -> Bytes {
                let mut copy = [0u8; 64];
                // SAFETY: passed on.
                let p = unsafe { whole(p, n, &mut copy) };
                four!(i => vld1q_u8(p.add(16 * i)))
            }
            #[inline(always)]
            unsafe fn unpack<const BITS: u32>(self, p: *const u8, n: usize) -> Bytes {
                let mut copy = [0u8; 64];
                // SAFETY: passed on.
                let p = unsafe { whole(p, n, &mut copy) };
                // The last register begins at byte 36 at most.
                four!(i => codes::<BITS>(vld1q_u8(p.add(2 * i * BITS as usize))))
            }
            #[inline(always)]
            fn field<const SHIFT: u32>(self, bytes: Bytes, mask: u8) -> Bytes {
                field::<SHIFT>(bytes, mask)
            }
            #[inline(always)]
            fn lookup(self, bytes: Bytes, table: &[u8; 16]) -> Bytes {
                four!(i => vqtbl1q_u8(vld1q_u8(table.as_ptr()), bytes[i]))
            }
            #[inline(always)]
            fn no_ints(self) -> Ints {
                op!([vdupq_n_s32(0); 4])
            }
            #[inline(always)]
            fn no_bytes(self) -> Bytes {
                op!([vdupq_n_u8(0); 4])
            }
            #[inline(always)]
            unsafe fn quad(self, p: *const i8) -> Bytes {
                mem!([vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())); 4])
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut u8, bytes: Bytes) {
                four!(i => vst1q_u8(p.add(16 * i), bytes[i]));
            }
            #[inline(always)]
            fn transpose(self, rows: [Bytes; 16]) -> [Bytes; 16] {
                transpose(rows)
            }
            #[inline(always)]
            fn dot<const WIDE: bool>(self, sums: Ints, codes: Bytes, digits: Bytes) -> Ints {
                four!(i => $dot::<WIDE>(sums[i], codes[i], vreinterpretq_s8_u8(digits[i])))
            }
            #[inline(always)]
            fn times_256(self, a: Ints) -> Ints {
                four!(i => vshlq_n_s32::<8>(a[i]))
            }
            #[inline(always)]
            fn no_floats(self) -> Floats {
                op!([vdupq_n_f32(0.0); 4])
            }
            #[inline(always)]
            unsafe fn floats(self, p: *const f32) -> Floats {
                four!(i => vld1q_f32(p.add(4 * i)))
            }
            #[inline(always)]
            unsafe fn store_floats(self, p: *mut f32, a: Floats) {
                four!(i => vst1q_f32(p.add(4 * i), a[i]));
            }
            #[inline(always)]
            fn splat(self, x: f32) -> Floats {
                op!([vdupq_n_f32(x); 4])
            }
            #[inline(always)]
            unsafe fn scales(self, kind: ScaleType, p: *const u8, n: usize, left: usize) -> Floats {
                mem!(scales(self.into(), kind, p, n, left))
            }
            #[inline(always)]
            fn mul(self, a: Floats, b: Floats) -> Floats {
                four!(i => vmulq_f32(a[i], b[i]))
            }
            #[inline(always)]
            fn add(self, a: Floats, b: Floats) -> Floats {
                four!(i => vaddq_f32(a[i], b[i]))
            }
            #[inline(always)]
            fn fma(self, a: Floats, b: Floats, c: Floats) -> Floats {
                four!(i => vfmaq_f32(c[i], a[i], b[i]))
            }
            #[inline(always)]
            fn bits(self, a: Floats) -> Bytes {
                four!(i => vreinterpretq_u8_f32(a[i]))
            }
            #[inline(always)]
            fn convert(self, a: Ints) -> Floats {
                four!(i => vcvtq_f32_s32(a[i]))
            }
            #[inline(always)]
            fn spread<const GROUPS: usize>(self, v: &Floats, first: usize) -> Floats {
                // Eight groups are two registers', half of the lanes each.
                let bytes = &const { spread_bytes(GROUPS) }[first % 4];
                let from = first / 4;
                let far = if GROUPS > 4 { from + 1 } else { from };
                let from = [v[from], v[from], v[far], v[far]];
                four!(i => vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(from[i]), vld1q_u8(bytes[i].as_ptr()))))
            }
            #[inline(always)]
            fn sums(self, [a, b, c, d]: [Floats; 4]) -> [f32; 4] {
                [four_sum(a), four_sum(b), four_sum(c), four_sum(d)]
            }
            #[inline(always)]
            fn prefetch(self, p: *const u8) {
                Simd::prefetch(Neon::from(self), p);
            }
            fn run<Op: DotsOp>(self, op: Op) {
                #[target_feature(enable = $features)]
                fn run<Op: DotsOp>(token: $token, op: Op) {
                    op.eval(token);
                }
                op!(run(self, op))
            }
        }
    };
}

dots!(NeonI8mm, "aarch64-i8mm", "neon,i8mm", dot_i8mm);
dots!(NeonDot, "aarch64-dotprod", "neon,dotprod", dot_signed);
dots!(Neon, "aarch64-neon", "neon", dot);
