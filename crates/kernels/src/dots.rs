//! The integer vocabulary: products of unsigned codes with signed 8-bit digits, 64 bytes at a time on every instruction set.
//!
//! An implementation has sixteen lanes whatever its registers hold, and lane `l` of a sum of products takes bytes
//! `4 l .. 4 l + 4`. Integer sums are exact and the float operations are prescribed one by one, so all implementations give
//! the same bits, and [`Stand`], in plain Rust, is the reference of the others.

use crate::codec::ScaleType;
#[cfg(test)]
use crate::{arch::portable::E4M3, codec::e8m0, weights::Float};

/// Lanes of integers and floats.
pub(crate) const LANES: usize = 16;
/// Bytes of a vector.
pub(crate) const BYTES: usize = 64;
/// Sums that are added across lanes together.
pub(crate) const SUMS: usize = 4;

/// Most planes of a vector of codes.
pub(crate) const MOST_PLANES: usize = 4;
/// A vector of codes taken apart, or the digits that it meets: 64 bytes a plane.
pub(crate) type Planes<D> = [<D as Dots>::Bytes; MOST_PLANES];

/// Instructions for integer dot products.
///
/// An implementor is a token: it exists only if the processor has the instructions, so its methods may use them.
///
/// # Safety
/// Methods that take a pointer need it readable for what they name; no alignment is needed.
pub(crate) trait Dots: Copy + Send + Sync + 'static {
    /// 64 bytes.
    type Bytes: Copy;
    /// Sixteen integers.
    type Ints: Copy;
    /// Sixteen floats.
    type Floats: Copy;
    /// Printable name of the instruction set.
    const NAME: &'static str;
    /// Most input rows that share an unpacked vector of weights: their sums have to stay in registers. 1 or 4.
    const MOST_ROWS: usize;
    /// Most input rows whose digits of a vector stay in registers while the weight rows meet them one after the other, if that is
    /// faster than all weight rows at once. Of more input rows, each meets all weight rows.
    const HELD_ROWS: usize = 0;
    /// Input rows, and vectors of columns, of a register tile: their sums have to stay in registers. 1, 4 or 8, and 1 or 2.
    const TILE_ROWS: usize;
    /// See [`Dots::TILE_ROWS`].
    const TILE_VECTORS: usize;

    /// Reads 64 bytes, zero beyond the first `n`.
    ///
    /// # Safety
    /// `p` is readable for `n` bytes.
    unsafe fn load(self, p: *const u8, n: usize) -> Self::Bytes;
    /// Reads 64 codes of 3, 5 or 6 bits, a byte for each; the codes beyond the first `n` bytes are zero or not whole.
    ///
    /// # Safety
    /// `p` is readable for `n` bytes.
    unsafe fn unpack<const BITS: u32>(self, p: *const u8, n: usize) -> Self::Bytes;
    /// `(byte >> SHIFT) & mask`, for a mask that leaves no bit of the next byte.
    fn field<const SHIFT: u32>(self, bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Looks each byte, below 16, up.
    fn lookup(self, bytes: Self::Bytes, table: &[u8; 16]) -> Self::Bytes;
    /// No sum yet.
    fn no_ints(self) -> Self::Ints;
    /// Zeros.
    fn no_bytes(self) -> Self::Bytes;
    /// The same four bytes in every lane.
    ///
    /// # Safety
    /// `p` is readable for four bytes.
    unsafe fn quad(self, p: *const i8) -> Self::Bytes;
    /// Writes 64 bytes.
    ///
    /// # Safety
    /// `p` is writable for 64 bytes.
    unsafe fn store(self, p: *mut u8, bytes: Self::Bytes);
    /// Lane `l` of result `i` is lane `i` of vector `l`.
    #[inline(always)]
    fn transpose(self, rows: [Self::Bytes; LANES]) -> [Self::Bytes; LANES] {
        let (mut lanes, mut columns, mut out) = ([[0u32; LANES]; LANES], [[0u32; LANES]; LANES], rows);
        for (lanes, row) in lanes.iter_mut().zip(rows) {
            // SAFETY: a list of sixteen lanes has 64 bytes.
            unsafe { self.store(lanes.as_mut_ptr().cast(), row) };
        }
        for (i, column) in columns.iter_mut().enumerate() {
            for (l, lanes) in lanes.iter().enumerate() {
                column[l] = lanes[i];
            }
        }
        for (out, column) in out.iter_mut().zip(&columns) {
            // SAFETY: as above.
            *out = unsafe { self.load(column.as_ptr().cast(), BYTES) };
        }
        out
    }
    /// Adds to lane `l` the products of bytes `4 l .. 4 l + 4` of codes and digits. Codes are below 64 unless `WIDE`.
    fn dot<const WIDE: bool>(self, sums: Self::Ints, codes: Self::Bytes, digits: Self::Bytes) -> Self::Ints;
    /// `256 * a`.
    fn times_256(self, a: Self::Ints) -> Self::Ints;
    /// Of each of some vectors of codes, taken apart into so many planes, the products with the planes' high digits, 256 times as
    /// much, and with their low ones.
    #[inline(always)]
    fn two_digits<const WIDE: bool, const R: usize>(
        self,
        codes: &[Planes<Self>; R],
        digits: &[Planes<Self>; 2],
        planes: usize,
    ) -> [Self::Ints; R] {
        two_digits::<Self, WIDE, R>(self, codes, digits, planes)
    }
    /// Zeros.
    fn no_floats(self) -> Self::Floats;
    /// Reads sixteen floats.
    ///
    /// # Safety
    /// `p` is readable for sixteen floats.
    unsafe fn floats(self, p: *const f32) -> Self::Floats;
    /// Writes sixteen floats.
    ///
    /// # Safety
    /// `p` is writable for sixteen floats.
    unsafe fn store_floats(self, p: *mut f32, a: Self::Floats);
    /// The same number in every lane.
    fn splat(self, x: f32) -> Self::Floats;
    /// Reads the first `n` of sixteen scales, zeros after them.
    ///
    /// # Safety
    /// `p` is readable for `n` scales, and for `left` bytes.
    unsafe fn scales(self, kind: ScaleType, p: *const u8, n: usize, left: usize) -> Self::Floats;
    /// `a * b`.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a + b`.
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The floats' bytes.
    fn bits(self, a: Self::Floats) -> Self::Bytes;
    /// Integers as floats, rounded to nearest.
    fn convert(self, a: Self::Ints) -> Self::Floats;
    /// Lane `l` is lane `first + l * GROUPS / 16`, for up to 8 `GROUPS`, of which `first` is a multiple.
    fn spread<const GROUPS: usize>(self, v: &Self::Floats, first: usize) -> Self::Floats;
    /// The sum of each one's lanes: first those 8 apart, then those 4, 2 and 1.
    fn sums(self, v: [Self::Floats; SUMS]) -> [f32; SUMS];
    /// How far ahead of those in use the next bytes of a stream are asked for.
    fn ahead(self) -> usize {
        2048
    }
    /// Asks for the cache line at `p`, which need not be readable.
    fn prefetch(self, p: *const u8);
    /// The same for what is used later, and must not displace what is used before.
    #[inline(always)]
    fn prefetch_far(self, p: *const u8) {
        self.prefetch(p);
    }
    /// Runs `op` as compiled for the instructions.
    fn run<Op: DotsOp>(self, op: Op);
}

/// [`Dots::two_digits`] by [`Dots::dot`].
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]
pub(crate) fn two_digits<D: Dots, const WIDE: bool, const R: usize>(
    d: D,
    codes: &[Planes<D>; R],
    [high, low]: &[Planes<D>; 2],
    planes: usize,
) -> [D::Ints; R] {
    let mut ints = [d.no_ints(); R];
    for plane in 0..planes {
        for r in 0..R {
            ints[r] = d.dot::<WIDE>(ints[r], codes[r][plane], high[plane]);
        }
    }
    for r in 0..R {
        ints[r] = d.times_256(ints[r]);
    }
    for plane in 0..planes {
        for r in 0..R {
            ints[r] = d.dot::<WIDE>(ints[r], codes[r][plane], low[plane]);
        }
    }
    ints
}

/// A computation written once for every implementation of [`Dots`].
pub(crate) trait DotsOp {
    /// Runs it. Implementations must be `#[inline(always)]`.
    fn eval<D: Dots>(self, d: D);
}

/// Bytes of a stored scale, and its value.
#[cfg(test)]
fn scale(kind: ScaleType, bytes: &[u8]) -> f32 {
    match kind {
        ScaleType::Float(Float::F32) => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        ScaleType::Float(Float::F16) => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        ScaleType::Float(Float::Bf16) => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        ScaleType::E8m0 => e8m0(bytes[0]),
        ScaleType::E4m3 => E4M3[bytes[0] as usize],
    }
}

/// The scalar stand-in, which every processor runs. Its loops are called, not inlined: compiled again for every form of
/// weights they would take minutes.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stand;

#[cfg(test)]
impl Dots for Stand {
    type Bytes = [u8; BYTES];
    type Ints = [i32; LANES];
    type Floats = [f32; LANES];
    const NAME: &'static str = "portable";
    const MOST_ROWS: usize = 1;
    const TILE_ROWS: usize = 1;
    const TILE_VECTORS: usize = 1;

    #[inline(never)]
    unsafe fn load(self, p: *const u8, n: usize) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        // SAFETY: the caller vouches for the source; the destination has 64 bytes.
        unsafe { p.copy_to_nonoverlapping(bytes.as_mut_ptr(), n.min(BYTES)) };
        bytes
    }
    #[inline(never)]
    unsafe fn unpack<const BITS: u32>(self, p: *const u8, n: usize) -> [u8; BYTES] {
        // SAFETY: passed on.
        let bytes = unsafe { self.load(p, n.min(8 * BITS as usize)) };
        let byte = |i: usize| u32::from(*bytes.get(i).unwrap_or(&0));
        std::array::from_fn(|i| {
            let bit = i * BITS as usize;
            ((byte(bit / 8) | byte(bit / 8 + 1) << 8) >> (bit % 8)) as u8 & ((1 << BITS) - 1)
        })
    }
    #[inline(never)]
    fn field<const SHIFT: u32>(self, bytes: [u8; BYTES], mask: u8) -> [u8; BYTES] {
        bytes.map(|b| (b >> SHIFT) & mask)
    }
    #[inline(never)]
    fn lookup(self, bytes: [u8; BYTES], table: &[u8; 16]) -> [u8; BYTES] {
        bytes.map(|b| table[b as usize & 15])
    }
    #[inline(always)]
    fn no_ints(self) -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    fn no_bytes(self) -> [u8; BYTES] {
        [0; BYTES]
    }
    #[inline(never)]
    unsafe fn quad(self, p: *const i8) -> [u8; BYTES] {
        // SAFETY: the caller vouches for four bytes.
        let four = unsafe { p.cast::<[u8; 4]>().read() };
        std::array::from_fn(|i| four[i % 4])
    }
    #[inline(never)]
    unsafe fn store(self, p: *mut u8, bytes: [u8; BYTES]) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { p.cast::<[u8; BYTES]>().write(bytes) };
    }
    #[inline(never)]
    fn dot<const WIDE: bool>(self, sums: [i32; LANES], codes: [u8; BYTES], digits: [u8; BYTES]) -> [i32; LANES] {
        std::array::from_fn(|l| {
            sums[l] + (4 * l..4 * l + 4).map(|i| i32::from(codes[i]) * i32::from(digits[i] as i8)).sum::<i32>()
        })
    }
    #[inline(never)]
    fn times_256(self, a: [i32; LANES]) -> [i32; LANES] {
        a.map(|a| 256 * a)
    }
    #[inline(always)]
    fn no_floats(self) -> [f32; LANES] {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn floats(self, p: *const f32) -> [f32; LANES] {
        // SAFETY: the caller vouches for sixteen floats.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_floats(self, p: *mut f32, a: [f32; LANES]) {
        // SAFETY: the caller vouches for sixteen floats.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(a) };
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }
    #[inline(never)]
    unsafe fn scales(self, kind: ScaleType, p: *const u8, n: usize, _: usize) -> [f32; LANES] {
        // SAFETY: the caller vouches for `n` scales.
        let bytes = unsafe { std::slice::from_raw_parts(p, n * kind.size()) };
        let mut out = [0.0; LANES];
        for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(kind.size())) {
            *out = scale(kind, bytes);
        }
        out
    }
    #[inline(never)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| a[l] * b[l])
    }
    #[inline(never)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| a[l] + b[l])
    }
    #[inline(never)]
    fn fma(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    #[inline(never)]
    fn bits(self, a: [f32; LANES]) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        for (bytes, a) in bytes.as_chunks_mut().0.iter_mut().zip(a) {
            *bytes = a.to_ne_bytes();
        }
        bytes
    }
    #[inline(never)]
    fn convert(self, a: [i32; LANES]) -> [f32; LANES] {
        a.map(|a| a as f32)
    }
    #[inline(never)]
    fn spread<const GROUPS: usize>(self, v: &[f32; LANES], first: usize) -> [f32; LANES] {
        std::array::from_fn(|l| v[first + l * GROUPS / LANES])
    }
    #[inline(never)]
    fn sums(self, v: [[f32; LANES]; SUMS]) -> [f32; SUMS] {
        v.map(|mut lanes| {
            for apart in [8, 4, 2, 1] {
                for l in 0..apart {
                    lanes[l] += lanes[l + apart];
                }
            }
            lanes[0]
        })
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    fn run<Op: DotsOp>(self, op: Op) {
        op.eval(self);
    }
}
