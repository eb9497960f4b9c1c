//! The integer vocabulary: products of unsigned codes with signed 8-bit digits, 64 bytes at a time on every instruction set.
//!
//! An implementation has sixteen lanes whatever its registers hold, and lane `l` of a sum of products takes bytes
//! `4 l .. 4 l + 4`. Integer sums are exact and the float operations are prescribed one by one, so all implementations give
//! the same bits, and [`Stand`], in plain Rust, is the reference of the others.

use crate::codec::ScaleType;
use crate::weights::Float;
#[cfg(test)]
use crate::{arch::portable::E4M3, codec::e8m0};

/// Lanes of integers and floats.
pub(crate) const LANES: usize = 16;
/// Bytes of a vector.
pub(crate) const BYTES: usize = 64;
/// Sums that are added across lanes together.
pub(crate) const SUMS: usize = 4;

/// Columns of a panel: of the widest register tile, which has two vectors.
pub(crate) const WIDTH: usize = 2 * LANES;
/// Bytes of a panel that four codes of each column take.
pub(crate) const QUAD: usize = 4 * WIDTH;
/// Steps of four codes that are taken without looking for the end of the group.
const QUADS: usize = 4;

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
    /// Parts of a vector, 1 or 2, that are better computed one after the other, because registers do not hold all of what is needed
    /// for both.
    const PARTS: usize = 1;
    /// Input rows, and vectors of columns, of a register tile: their sums have to stay in registers. 1, 4 or 8, and 1 or 2.
    const TILE_ROWS: usize;
    /// See [`Dots::TILE_ROWS`].
    const TILE_VECTORS: usize;
    /// Whether codes of 64 and more meet numbers of 16 bits in panels, not their two digits: [`Dots::quads`] gets, as `HIGH` digits,
    /// pairs of numbers for the even codes of each quad, then those for the odd ones.
    const WORDS: bool = false;
    /// Whether [`Dots::quads`] and [`Dots::fours`] add up products in 16 bits first, as many as [`short_run`] says.
    const SHORT_RUNS: bool = false;

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
    /// Adds to the sums of a register tile the products of `count` quads of a panel's codes, a multiple of four and of `RUN`, with the
    /// digits that each row has for them. With `HIGH` digits, which are the first, the sums become 256 times as large. `RUN` is zero
    /// if codes are 64 and more, and their [`short_run`] where there are [`Dots::SHORT_RUNS`].
    ///
    /// # Safety
    /// `panel` is readable for `V` vectors of each quad, one [`QUAD`] after the other, and `digits` for [`Dots::TILE_ROWS`] times
    /// four of each.
    #[inline(always)]
    unsafe fn quads<const M: usize, const V: usize, const RUN: usize, const HIGH: bool>(
        self,
        sums: &mut [[Self::Ints; V]; M],
        panel: *const u8,
        digits: *const i8,
        count: usize,
    ) {
        // SAFETY: passed on.
        unsafe { quads::<Self, M, V, RUN, HIGH>(self, sums, panel, digits, count) }
    }
    /// [`Dots::quads`] with high digits, where each row has them for some quads of its own, which lie where `places` say.
    ///
    /// # Safety
    /// The same, `places` is as long as the digits, and the places lie in the panel.
    #[inline(always)]
    unsafe fn fours<const M: usize, const V: usize, const RUN: usize>(
        self,
        sums: &mut [[Self::Ints; V]; M],
        panel: *const u8,
        (digits, places): (*const i8, *const u32),
        count: usize,
    ) {
        // SAFETY: passed on.
        unsafe { fours::<Self, M, V, RUN>(self, sums, panel, (digits, places), count) }
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
    /// [`Dots::scales`] from several places, from each of which as many bytes are readable as from the last.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn scales_of<const R: usize>(
        self,
        kind: ScaleType,
        p: &[*const u8; R],
        n: usize,
        left: usize,
    ) -> [Self::Floats; R] {
        // The kind is asked for once: where it is a constant, nothing is left to choose for each place.
        // SAFETY: passed on.
        unsafe {
            match kind {
                ScaleType::Float(Float::F32) => scales_of(self, ScaleType::Float(Float::F32), p, n, left),
                ScaleType::Float(Float::F16) => scales_of(self, ScaleType::Float(Float::F16), p, n, left),
                ScaleType::Float(Float::Bf16) => scales_of(self, ScaleType::Float(Float::Bf16), p, n, left),
                ScaleType::E8m0 => scales_of(self, ScaleType::E8m0, p, n, left),
                ScaleType::E4m3 => scales_of(self, ScaleType::E4m3, p, n, left),
            }
        }
    }
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
    /// The part of `b`, and the others of `a`: what else went into `b` need not be computed.
    #[inline(always)]
    fn part<const PART: usize>(self, _a: Self::Floats, b: Self::Floats) -> Self::Floats {
        b
    }
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

/// Most vectors of codes up to `most` of which the sums of two products each fit into 16 bits: 0, 2, 4 or 8.
pub(crate) const fn short_run(most: u8) -> usize {
    match i16::MAX as usize / (2 * 128 * most as usize) {
        0 | 1 => 0,
        2 | 3 => 2,
        4..8 => 4,
        _ => 8,
    }
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

/// See [`Dots::scales_of`].
#[inline(always)]
unsafe fn scales_of<D: Dots, const R: usize>(
    d: D,
    kind: ScaleType,
    p: &[*const u8; R],
    n: usize,
    left: usize,
) -> [D::Floats; R] {
    let mut out = [d.no_floats(); R];
    for (out, p) in out.iter_mut().zip(p) {
        // SAFETY: passed on.
        *out = unsafe { d.scales(kind, *p, n, left) };
    }
    out
}

/// [`Dots::quads`] by [`Dots::dot`].
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]
pub(crate) unsafe fn quads<D: Dots, const M: usize, const V: usize, const RUN: usize, const HIGH: bool>(
    d: D,
    sums: &mut [[D::Ints; V]; M],
    mut panel: *const u8,
    mut digits: *const i8,
    count: usize,
) {
    // A copy, so that it stays in registers, which memory behind a reference does not.
    let mut tile = *sums;
    for _ in 0..count / QUADS {
        for quad in 0..QUADS {
            // SAFETY: the quad is one of those that the caller vouches for.
            unsafe {
                let mut codes = [d.no_bytes(); V];
                for v in 0..V {
                    codes[v] = d.load(panel.add(quad * QUAD + v * BYTES), BYTES);
                }
                for i in 0..M {
                    let digits = d.quad(digits.add(4 * (quad * D::TILE_ROWS + i)));
                    for v in 0..V {
                        tile[i][v] = dot::<D, RUN>(d, tile[i][v], codes[v], digits);
                    }
                }
            }
        }
        panel = panel.wrapping_add(QUADS * QUAD);
        digits = digits.wrapping_add(4 * QUADS * D::TILE_ROWS);
    }
    *sums = if HIGH { times_256(d, tile) } else { tile };
}

/// [`Dots::fours`] by [`Dots::dot`].
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]
pub(crate) unsafe fn fours<D: Dots, const M: usize, const V: usize, const RUN: usize>(
    d: D,
    sums: &mut [[D::Ints; V]; M],
    panel: *const u8,
    (digits, places): (*const i8, *const u32),
    count: usize,
) {
    let mut tile = *sums;
    for four in 0..count {
        for i in 0..M {
            // SAFETY: the caller vouches for the places and what lies there.
            unsafe {
                let at = four * D::TILE_ROWS + i;
                let (codes, digits) = (panel.add(*places.add(at) as usize), d.quad(digits.add(4 * at)));
                for v in 0..V {
                    tile[i][v] = dot::<D, RUN>(d, tile[i][v], d.load(codes.add(v * BYTES), BYTES), digits);
                }
            }
        }
    }
    *sums = times_256(d, tile);
}

/// [`Dots::dot`] of codes that are wide if they have no runs.
#[inline(always)]
fn dot<D: Dots, const RUN: usize>(d: D, sums: D::Ints, codes: D::Bytes, digits: D::Bytes) -> D::Ints {
    if RUN == 0 { d.dot::<true>(sums, codes, digits) } else { d.dot::<false>(sums, codes, digits) }
}

/// [`Dots::times_256`] of a register tile.
#[inline(always)]
fn times_256<D: Dots, const M: usize, const V: usize>(d: D, mut tile: [[D::Ints; V]; M]) -> [[D::Ints; V]; M] {
    for row in &mut tile {
        for sums in row {
            *sums = d.times_256(*sums);
        }
    }
    tile
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
