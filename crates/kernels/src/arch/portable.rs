//! Plain loops over eight floats: the reference for the other instruction sets, and what a processor without them runs.

use half::{bf16, f16};

use crate::simd::Simd;

/// The token of the portable code, which every processor can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Portable(());

impl Portable {
    /// Always succeeds.
    pub fn new() -> Self {
        Self(())
    }
}

impl Default for Portable {
    fn default() -> Self {
        Self::new()
    }
}

const LANES: usize = 8;
type V = [f32; LANES];

/// Every E4M3 number; there is no NaN: 0x7f is 480, as MLX decodes it.
pub static E4M3: [f32; 256] = e4m3_table();

const fn e4m3_table() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        let (exponent, mantissa) = ((i >> 3) & 15, (i & 7) as f32);
        // 2^(exponent - 10) is a power of two in f32's normal range, so its bits can be written down.
        let magnitude = if exponent == 0 {
            mantissa / 512.0
        } else {
            (8.0 + mantissa) * f32::from_bits((exponent as u32 + 117) << 23)
        };
        table[i] = if i >= 128 { -magnitude } else { magnitude };
        i += 1;
    }
    table
}

/// The E2M1 numbers.
pub static E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Reads `N` bytes.
///
/// # Safety
/// `p` is readable for `N` bytes.
#[inline(always)]
unsafe fn bytes<const N: usize>(p: *const u8) -> [u8; N] {
    // SAFETY: an array of bytes has no alignment, and the caller vouches for the length.
    unsafe { p.cast::<[u8; N]>().read() }
}

/// The next `BITS` bytes, zero-extended: eight codes of `BITS` bits.
///
/// # Safety
/// `p` is readable for `BITS` bytes.
#[inline(always)]
pub unsafe fn eight_codes<const BITS: u32>(p: *const u8) -> u64 {
    // SAFETY: each arm reads exactly `BITS` bytes.
    unsafe {
        match BITS {
            1 => u64::from(p.read()),
            2 => u64::from(u16::from_le_bytes(bytes(p))),
            3 => u64::from(u16::from_le_bytes(bytes(p))) | u64::from(p.add(2).read()) << 16,
            4 => u64::from(u32::from_le_bytes(bytes(p))),
            5 => u64::from(u32::from_le_bytes(bytes(p))) | u64::from(p.add(4).read()) << 32,
            6 => u64::from(u32::from_le_bytes(bytes(p))) | u64::from(u16::from_le_bytes(bytes(p.add(4)))) << 32,
            8 => u64::from_le_bytes(bytes(p)),
            _ => unreachable!("codes of {BITS} bits"),
        }
    }
}

impl Simd for Portable {
    type F = V;
    type Affine = (f32, f32);
    type Fp4 = [f32; 16];
    const LANES: usize = LANES;
    const REGISTERS: usize = 4;
    const NAME: &'static str = "portable";

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        // SAFETY: the caller vouches for eight floats.
        unsafe { p.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> V {
        // SAFETY: only the first `n` are read.
        std::array::from_fn(|i| if i < n { unsafe { p.add(i).read_unaligned() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> V {
        // SAFETY: the caller vouches for 16 bytes.
        std::array::from_fn(|i| f16::from_le_bytes(unsafe { bytes(p.add(2 * i)) }).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> V {
        // SAFETY: the caller vouches for 16 bytes.
        std::array::from_fn(|i| bf16::from_le_bytes(unsafe { bytes(p.add(2 * i)) }).to_f32())
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> V {
        // SAFETY: the caller vouches for 8 bytes.
        std::array::from_fn(|i| E4M3[unsafe { p.add(i).read() } as usize])
    }
    #[inline(always)]
    unsafe fn load_codes<const BITS: u32>(self, p: *const u8) -> V {
        // SAFETY: the caller vouches for `BITS` bytes.
        let codes = unsafe { eight_codes::<BITS>(p) };
        std::array::from_fn(|i| ((codes >> (i as u32 * BITS)) & ((1 << BITS) - 1)) as f32)
    }
    #[inline(always)]
    unsafe fn load_table16(self, p: *const u8, table: &[f32; 16]) -> V {
        // SAFETY: the caller vouches for 4 bytes.
        let codes = unsafe { eight_codes::<4>(p) };
        std::array::from_fn(|i| table[(codes >> (4 * i) & 15) as usize])
    }
    #[inline(always)]
    fn affine<const BITS: u32>(self, scale: f32, bias: f32) -> (f32, f32) {
        (scale, bias)
    }
    #[inline(always)]
    unsafe fn load_affine<const BITS: u32>(self, p: *const u8, group: &(f32, f32)) -> V {
        // SAFETY: the caller vouches for `BITS` bytes.
        unsafe { self.load_codes::<BITS>(p) }.map(|code| code * group.0 + group.1)
    }
    #[inline(always)]
    fn fp4(self, scale: f32) -> [f32; 16] {
        E2M1.map(|value| value * scale)
    }
    #[inline(always)]
    unsafe fn load_fp4(self, p: *const u8, group: &[f32; 16]) -> V {
        // SAFETY: the caller vouches for 4 bytes.
        unsafe { self.load_table16(p, group) }
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        // SAFETY: the caller vouches for eight floats.
        unsafe { p.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: V, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: only the first `n` are written.
            unsafe { p.add(i).write_unaligned(x) }
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] / b[i])
    }
    // Not `f32::mul_add`: without the instruction that is a call into libm per lane.
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2i(self, n: V) -> V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        let four: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    fn max_lane(self, a: V) -> f32 {
        a.into_iter().fold(a[0], |m, x| if x > m { x } else { m })
    }
}
