//! NEON: eight lanes in a pair of registers, so sixteen such pairs.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::arch::portable::{E2M1, eight_codes};
use crate::simd::{Simd, SimdOp};

/// The token of NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neon(());

impl Neon {
    /// `None` if the processor lacks the feature, which no processor with an operating system does.
    pub fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

/// Runs `op` in a function that has the feature, into which everything is inlined.
///
/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub unsafe fn run<Op: SimdOp>(token: Neon, op: Op) -> Op::Output {
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

type V = (float32x4_t, float32x4_t);

/// Four binary16 numbers; the intrinsic needs the unstable `f16` type, the instruction is in every NEON.
#[inline(always)]
fn widen_f16(h: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    op!(asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) h, options(pure, nomem, nostack, preserves_flags)));
    wide
}

/// How eight codes come into their lanes: the two bytes of each, and how far to shift them (negative is right).
struct Spread<const BITS: u32>;

impl<const BITS: u32> Spread<BITS> {
    const BYTES: [u8; 32] = {
        let mut bytes = [0xff; 32];
        let mut lane = 0;
        while lane < 8 {
            let byte = lane as u32 * BITS / 8;
            bytes[lane * 4] = byte as u8;
            if byte + 1 < BITS {
                bytes[lane * 4 + 1] = (byte + 1) as u8;
            }
            lane += 1;
        }
        bytes
    };
    const SHIFTS: [i32; 8] = {
        let mut shifts = [0; 8];
        let mut lane = 0;
        while lane < 8 {
            shifts[lane] = -(lane as i32 * BITS as i32 % 8);
            lane += 1;
        }
        shifts
    };
}

/// Eight codes of `BITS` bits, a lane each.
///
/// # Safety
/// `p` is readable for `BITS` bytes.
#[inline(always)]
unsafe fn integers<const BITS: u32>(p: *const u8) -> (uint32x4_t, uint32x4_t) {
    let codes = mem!(vcreate_u8(eight_codes::<BITS>(p)));
    op!({
        if BITS == 8 {
            let wide = vmovl_u8(codes);
            return (vmovl_u16(vget_low_u16(wide)), vmovl_high_u16(wide));
        }
        if BITS == 4 {
            let nibbles = vzip1_u8(vand_u8(codes, vdup_n_u8(15)), vshr_n_u8::<4>(codes));
            let wide = vmovl_u8(nibbles);
            return (vmovl_u16(vget_low_u16(wide)), vmovl_high_u16(wide));
        }
        let codes = vcombine_u8(codes, codes);
        (spread::<BITS, 0>(codes), spread::<BITS, 1>(codes))
    })
}

/// The lower (`HALF` 0) or upper four codes.
#[inline(always)]
fn spread<const BITS: u32, const HALF: usize>(codes: uint8x16_t) -> uint32x4_t {
    op!({
        let bytes = vqtbl1q_u8(codes, vld1q_u8(Spread::<BITS>::BYTES.as_ptr().add(16 * HALF)));
        let shifts = vld1q_s32(Spread::<BITS>::SHIFTS.as_ptr().add(4 * HALF));
        vandq_u32(vshlq_u32(vreinterpretq_u32_u8(bytes), shifts), vdupq_n_u32((1 << BITS) - 1))
    })
}

/// The floats at `codes` in a table.
#[inline(always)]
fn look_up(table: uint8x16x4_t, codes: uint32x4_t) -> float32x4_t {
    // Code c stands at bytes 4c..4c+4 of the table.
    op!({
        let index = vmlaq_n_u32(vdupq_n_u32(0x0302_0100), codes, 0x0404_0404);
        vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(index)))
    })
}

/// `2^n`.
#[inline(always)]
fn exp2i(n: float32x4_t) -> float32x4_t {
    op!(vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)))))
}

impl Simd for Neon {
    type F = V;
    type Affine = (float32x4_t, float32x4_t);
    type Fp4 = float32x4_t;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const NAME: &'static str = "aarch64-neon";

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        op!((vdupq_n_f32(x), vdupq_n_f32(x)))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        mem!((vld1q_f32(p), vld1q_f32(p.add(4))))
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> V {
        let mut floats = [0.0f32; 8];
        mem!({
            p.cast::<u8>().copy_to_nonoverlapping(floats.as_mut_ptr().cast(), 4 * n);
            self.load(floats.as_ptr())
        })
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> V {
        let halves = mem!(vreinterpretq_u16_u8(vld1q_u8(p)));
        op!((widen_f16(vget_low_u16(halves)), widen_f16(vget_high_u16(halves))))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> V {
        let halves = mem!(vreinterpretq_u16_u8(vld1q_u8(p)));
        op!((
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(halves))),
            vreinterpretq_f32_u32(vshll_high_n_u16::<16>(halves)),
        ))
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> V {
        let codes = mem!(vmovl_u8(vld1_u8(p)));
        op!({
            let magnitude = vshlq_n_u16::<7>(vandq_u16(codes, vdupq_n_u16(127)));
            let sign = vshlq_n_u16::<8>(vandq_u16(codes, vdupq_n_u16(128)));
            let halves = vorrq_u16(magnitude, sign);
            let low = vmulq_n_f32(widen_f16(vget_low_u16(halves)), 256.0);
            (low, vmulq_n_f32(widen_f16(vget_high_u16(halves)), 256.0))
        })
    }
    #[inline(always)]
    unsafe fn load_codes<const BITS: u32>(self, p: *const u8) -> V {
        let (low, high) = mem!(integers::<BITS>(p));
        op!((vcvtq_f32_u32(low), vcvtq_f32_u32(high)))
    }
    #[inline(always)]
    unsafe fn load_table16(self, p: *const u8, table: &[f32; 16]) -> V {
        let (low, high) = mem!(integers::<4>(p));
        op!({
            let bytes = table.as_ptr().cast::<u8>();
            let table = uint8x16x4_t(
                vld1q_u8(bytes),
                vld1q_u8(bytes.add(16)),
                vld1q_u8(bytes.add(32)),
                vld1q_u8(bytes.add(48)),
            );
            (look_up(table, low), look_up(table, high))
        })
    }
    #[inline(always)]
    fn affine<const BITS: u32>(self, scale: f32, bias: f32) -> (float32x4_t, float32x4_t) {
        op!((vdupq_n_f32(scale), vdupq_n_f32(bias)))
    }
    #[inline(always)]
    unsafe fn load_affine<const BITS: u32>(self, p: *const u8, group: &(float32x4_t, float32x4_t)) -> V {
        let codes = mem!(self.load_codes::<BITS>(p));
        op!((vaddq_f32(vmulq_f32(codes.0, group.0), group.1), vaddq_f32(vmulq_f32(codes.1, group.0), group.1)))
    }
    #[inline(always)]
    fn fp4(self, scale: f32) -> float32x4_t {
        op!(vdupq_n_f32(scale))
    }
    #[inline(always)]
    unsafe fn load_fp4(self, p: *const u8, group: &float32x4_t) -> V {
        let values = mem!(self.load_table16(p, &E2M1));
        op!((vmulq_f32(values.0, *group), vmulq_f32(values.1, *group)))
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        op!(asm!("prfm pldl1keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly)));
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        mem!({
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
        })
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: V, n: usize) {
        let mut floats = [0.0f32; 8];
        mem!({
            self.store(floats.as_mut_ptr(), v);
            floats.as_ptr().cast::<u8>().copy_to_nonoverlapping(p.cast(), 4 * n);
        })
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        op!((vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        op!((vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1)))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        op!((vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        op!((vdivq_f32(a.0, b.0), vdivq_f32(a.1, b.1)))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        op!((vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        op!((vmaxnmq_f32(a.0, b.0), vmaxnmq_f32(a.1, b.1)))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        op!((vminnmq_f32(a.0, b.0), vminnmq_f32(a.1, b.1)))
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        op!((vsqrtq_f32(a.0), vsqrtq_f32(a.1)))
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        op!((vabsq_f32(a.0), vabsq_f32(a.1)))
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        op!((vrndnq_f32(a.0), vrndnq_f32(a.1)))
    }
    #[inline(always)]
    fn exp2i(self, n: V) -> V {
        (exp2i(n.0), exp2i(n.1))
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        op!((vbslq_f32(vcltq_f32(a.0, b.0), x.0, y.0), vbslq_f32(vcltq_f32(a.1, b.1), x.1, y.1)))
    }
    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        op!({
            let four = vaddq_f32(a.0, a.1);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vpadds_f32(two)
        })
    }
    #[inline(always)]
    fn max_lane(self, a: V) -> f32 {
        op!(vmaxnmvq_f32(vmaxnmq_f32(a.0, a.1)))
    }
}
