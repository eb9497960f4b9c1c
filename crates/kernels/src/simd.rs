//! The vector vocabulary that kernels are written against, and the dispatch that compiles them once per instruction set.
//!
//! A kernel is a struct of its arguments that implements [`SimdOp`]; [`crate::Isa::run`] calls it inside a function that has
//! the instruction set's features enabled. Everything on the path must be `#[inline(always)]`: that is how the intrinsics,
//! which are compiled for the feature, end up inside the one function that has it.

/// A set of vector instructions on `LANES` floats.
///
/// An implementor is a token: it exists only if the processor has the instructions, so its methods may use them.
/// `LANES` is a multiple of 8, so that a vector of codes of any width starts and ends on a byte.
///
/// # Safety
/// Methods that take a pointer need it readable (or writable) for the elements that they name; no alignment is needed.
pub trait Simd: Copy + Send + Sync + 'static {
    /// `LANES` floats.
    type F: Copy;
    /// What [`Simd::load_affine`] needs to know of a group: its scale and bias, or the weights of all codes.
    type Affine: Copy;
    /// What [`Simd::load_fp4`] needs to know of a group: its scale, or the weights of all codes.
    type Fp4: Copy;
    /// Number of floats in a vector.
    const LANES: usize;
    /// How many values of type `F` the register file holds: register blocking depends on it.
    const REGISTERS: usize;
    /// Printable name of the instruction set, as in `x86_64-avx512`.
    const NAME: &'static str;

    /// The same number in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// Reads `LANES` floats.
    ///
    /// # Safety
    /// `p` is readable for `LANES` floats.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Reads `n < LANES` floats, zero in the other lanes.
    ///
    /// # Safety
    /// `p` is readable for `n` floats.
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::F;
    /// Reads `LANES` binary16 numbers.
    ///
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes.
    unsafe fn load_f16(self, p: *const u8) -> Self::F;
    /// Reads `LANES` bfloat16 numbers.
    ///
    /// # Safety
    /// `p` is readable for `2 * LANES` bytes.
    unsafe fn load_bf16(self, p: *const u8) -> Self::F;
    /// Reads `LANES` E4M3 numbers (one byte each).
    ///
    /// # Safety
    /// `p` is readable for `LANES` bytes.
    unsafe fn load_e4m3(self, p: *const u8) -> Self::F;
    /// Reads `LANES` unsigned codes of `BITS` bits from a little-endian bit stream, as floats.
    ///
    /// # Safety
    /// `p` is readable for `LANES * BITS / 8` bytes; the implementation reads no byte beyond them.
    unsafe fn load_codes<const BITS: u32>(self, p: *const u8) -> Self::F;
    /// Reads `LANES` 4-bit codes and looks each up in a table.
    ///
    /// # Safety
    /// `p` is readable for `LANES / 2` bytes.
    unsafe fn load_table16(self, p: *const u8, table: &[f32; 16]) -> Self::F;
    /// Prepares a group of affine codes of `BITS` bits.
    fn affine<const BITS: u32>(self, scale: f32, bias: f32) -> Self::Affine;
    /// Reads `LANES` codes of `BITS` bits as `code * scale + bias`, rounded after each step: the weights that MLX has.
    ///
    /// # Safety
    /// As [`Simd::load_codes`].
    unsafe fn load_affine<const BITS: u32>(self, p: *const u8, group: &Self::Affine) -> Self::F;
    /// Prepares a group of E2M1 codes.
    fn fp4(self, scale: f32) -> Self::Fp4;
    /// Reads `LANES` E2M1 codes, two in a byte, times the group's scale.
    ///
    /// # Safety
    /// `p` is readable for `LANES / 2` bytes.
    unsafe fn load_fp4(self, p: *const u8, group: &Self::Fp4) -> Self::F;
    /// Asks for the cache line at `p`, which need not be readable.
    fn prefetch(self, p: *const u8);
    /// The same, in the second cache where there is an instruction for it: for what is needed later than the first cache
    /// keeps it, above all at distances of a power of two.
    #[inline(always)]
    fn prefetch_far(self, p: *const u8) {
        self.prefetch(p);
    }
    /// Writes `LANES` floats.
    ///
    /// # Safety
    /// `p` is writable for `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Writes the first `n < LANES` floats.
    ///
    /// # Safety
    /// `p` is writable for `n` floats.
    unsafe fn store_part(self, p: *mut f32, v: Self::F, n: usize);

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of each pair (either operand if one is NaN).
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair (either operand if one is NaN).
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Square root.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// Absolute value.
    fn abs(self, a: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^n` for integral `n` in `-126..=127`.
    fn exp2i(self, n: Self::F) -> Self::F;
    /// `if a < b { x } else { y }`, lane by lane.
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Sum of all lanes, always in the same order.
    fn sum(self, a: Self::F) -> f32;
    /// [`Simd::sum`] of each of four, the same bits, in fewer instructions where there are shuffles for it.
    #[inline(always)]
    fn sum4(self, v: [Self::F; 4]) -> [f32; 4] {
        let [a, b, c, d] = v;
        [self.sum(a), self.sum(b), self.sum(c), self.sum(d)]
    }
    /// [`Simd::sum`] of each of sixteen, the same bits.
    #[inline(always)]
    fn sum16(self, v: [Self::F; 16]) -> [f32; 16] {
        let mut sums = [0.0; 16];
        for (sums, v) in sums.as_chunks_mut::<4>().0.iter_mut().zip(v.as_chunks::<4>().0) {
            *sums = self.sum4(*v);
        }
        sums
    }
    /// Largest lane.
    fn max_lane(self, a: Self::F) -> f32;
}

/// A computation written once for every instruction set.
pub trait SimdOp {
    /// What it returns.
    type Output;
    /// Runs it. Implementations must be `#[inline(always)]`.
    fn eval<S: Simd>(self, simd: S) -> Self::Output;
}
