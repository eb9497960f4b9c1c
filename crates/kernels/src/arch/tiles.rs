//! What products of bf16 tiles are written against: [`TileOps`], the work on blocks of tiles, and [`Registers`], the eight tile
//! registers of AMX. [`Scalar`] stands in for both on machines without such instructions, adding in the same order.
//!
//! A tile is 1 KiB. One of weights holds 16 rows of 32 consecutive columns in bf16. One of inputs holds 16 pairs of columns, each
//! for 16 rows: pair `p` of row `c` is at `[p][c]`, as the instructions want their right operand. One of sums holds 16 × 16
//! floats, a line for each row of weights.

use std::ops::Range;

use crate::Isa;
use crate::codec::{DecodeBlock, View};

/// Rows of a tile, and of the pairs and sums in it.
pub(crate) const SIDE: usize = 16;
/// Columns that a tile of weights or inputs covers.
pub(crate) const DEPTH: usize = 32;
/// Elements of a tile of weights or inputs.
pub(crate) const TILE: usize = SIDE * DEPTH;
/// Elements of a tile of sums.
pub(crate) const SUMS: usize = SIDE * SIDE;

/// A product of strips of tiles: `sums[r][c] (+)= Σ weights[r][s] · inputs[c][s]` over the steps `s`.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) weights: *const u16,
    /// Elements from a strip of weights to the next; inside a strip tiles follow each other.
    pub(crate) weights_stride: usize,
    pub(crate) inputs: *const u16,
    /// Elements from a strip of inputs to the next.
    pub(crate) inputs_stride: usize,
    pub(crate) sums: *mut f32,
    /// Elements from the sums of a strip of weights to the next; those of its strips of inputs follow each other.
    pub(crate) sums_stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) steps: usize,
    /// Whether the sums start at zero.
    pub(crate) first: bool,
}

/// Up to 16 rows of the input, and the 32 columns or fewer that a tile takes of them.
#[derive(Clone, Copy)]
pub(crate) struct Inputs {
    pub(crate) x: *const f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Where a tile of sums goes: `rows` (of weights) × `cols` (of the input) of it, transposed.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) out: *mut f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Added to the sums of each row of weights; none if null.
    pub(crate) bias: *const f32,
}

/// A strip of scores that become weights: one step of an online softmax for 16 rows, with the sums that it belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Softmax<'a> {
    /// `2 * steps` tiles of scores of 16 slots each, which may be overwritten.
    pub(crate) scores: *mut f32,
    /// Where the weights go: tiles of 32 slots.
    pub(crate) weights: *mut u16,
    pub(crate) steps: usize,
    /// The slots that each row sees, counted from the first score; the rest weighs 0.
    pub(crate) seen: &'a [Range<usize>; SIDE],
    /// Scores become `cap tanh(score / cap)`.
    pub(crate) softcap: Option<f32>,
    /// The largest score of each row so far, -inf before the first.
    pub(crate) max: *mut f32,
    /// For each row 16 numbers whose sum is that of its weights, as they were rounded, so far.
    pub(crate) totals: *mut f32,
    /// `strips` tiles of weighted values so far, which are brought to a new maximum.
    pub(crate) sums: *mut f32,
    pub(crate) strips: usize,
}

/// The arithmetic of one tile unit. An implementor is a token that exists only where its instructions do.
pub(crate) trait TileOps: Copy + Send + Sync {
    /// What a thread holds while it multiplies; dropping it gives the unit back.
    type Session;
    /// Strips of weights, and of inputs, that a block of sums kept in registers has.
    const ROWS: usize;
    const COLS: usize;
    /// Most steps of a block, so that its strips of weights stay in the first cache while inputs pass.
    const STEPS: usize;

    /// Readies the calling thread for [`TileOps::multiply`].
    fn begin(self) -> Self::Session;
    /// Adds a block of at most `ROWS` × `COLS` strips.
    ///
    /// # Safety
    /// The block's pointers are good for its tiles, and no other thread has its sums.
    unsafe fn multiply(self, session: &mut Self::Session, block: &Block);
    /// Rounds inputs to bf16 and lays them out as a tile, zero outside of `from`.
    ///
    /// # Safety
    /// `from` is readable, `to` is writable for a tile.
    unsafe fn pack(self, from: Inputs, to: *mut u16);
    /// Rounds the first `cols` ≤ 32 of a row, times `scale`, to a line of a tile of weights, zero beyond them.
    ///
    /// # Safety
    /// `x` is readable for `cols` floats, `to` writable for a line.
    unsafe fn line(self, x: *const f32, cols: usize, scale: f32, to: *mut u16);
    /// Rounds up to 32 rows of 16 columns to bf16 and lays them out as a tile whose pairs are of consecutive rows, zero
    /// beyond `from.rows`.
    ///
    /// # Safety
    /// `from` is readable for 16 columns, whatever its `cols`; `to` is writable for a tile.
    unsafe fn pair(self, from: Inputs, to: *mut u16);
    /// Turns scores into weights `e^(score - max)`, rounded to bf16, to within `2⁻⁸` of them. A row whose slots hold NaN has
    /// NaN among its totals.
    ///
    /// # Safety
    /// The pointers are good for the tiles, lines and rows that they stand for, and no other thread has them.
    unsafe fn weigh(self, part: &Softmax<'_>);
    /// Decodes weights into strips of bf16 tiles of `steps` each, zero outside of `rows` × `cols`.
    ///
    /// # Safety
    /// `rows` × `cols` lie in the matrix, `cols.start` begins a group and `cols.end` ends one or the row; `to` is writable for
    /// `rows.len() / 16` strips, rounded up, of `steps` ≥ `cols.len() / 32` tiles.
    unsafe fn decode(self, view: &View<'_>, rows: Range<usize>, cols: Range<usize>, steps: usize, to: *mut u16);
    /// Writes sums, transposed, with their bias.
    ///
    /// # Safety
    /// `sums` is readable for a tile, `to` is writable as it says, its bias readable for `rows` if there is one.
    unsafe fn write(self, sums: *const f32, to: Target);
    /// Asks for the cache line at `p`, which need not be readable, in the second cache.
    fn prefetch(self, p: *const u8);
    /// Multiplies `rounds` times in registers alone and returns the floating-point operations: the peak to compare with.
    fn spin(self, session: &mut Self::Session, rounds: usize) -> f64;
}

/// The tile registers: the instructions of AMX that products need. `C`, `A`, `B` and `T` are below 8.
pub(crate) trait Registers {
    /// Fills a register with zeros.
    fn zero<const T: u8>(&mut self);
    /// Reads a tile.
    ///
    /// # Safety
    /// `p` is readable for 1 KiB.
    unsafe fn load<const T: u8>(&mut self, p: *const u8);
    /// Writes a tile.
    ///
    /// # Safety
    /// `p` is writable for 1 KiB.
    unsafe fn store<const T: u8>(&mut self, p: *mut u8);
    /// Adds the product of a tile of weights and one of inputs to a tile of sums.
    fn dot<const C: u8, const A: u8, const B: u8>(&mut self);
}

/// A block of up to 2 × 2 strips in tile registers: sums in 0 to 3, weights in 4 and 5, inputs in 6 and 7.
///
/// # Safety
/// As [`TileOps::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_in_registers<R: Registers>(r: &mut R, block: &Block) {
    // SAFETY: passed on.
    unsafe {
        match (block.rows, block.cols) {
            (2, 2) => block_of::<R, true, true>(r, block),
            (2, 1) => block_of::<R, true, false>(r, block),
            (1, 2) => block_of::<R, false, true>(r, block),
            (1, 1) => block_of::<R, false, false>(r, block),
            (rows, cols) => unreachable!("a block of {rows} x {cols}"),
        }
    }
}

/// One or two strips of weights with one or two of inputs.
///
/// # Safety
/// As [`TileOps::multiply`].
#[inline(always)]
unsafe fn block_of<R: Registers, const ROWS2: bool, const COLS2: bool>(r: &mut R, block: &Block) {
    // SAFETY: tiles of the block, for which the caller vouches.
    unsafe {
        let below = block.sums.add(if ROWS2 { block.sums_stride } else { 0 });
        if block.first {
            r.zero::<0>();
            r.zero::<1>();
            r.zero::<2>();
            r.zero::<3>();
        } else {
            r.load::<0>(block.sums.cast());
            if COLS2 {
                r.load::<1>(block.sums.add(SUMS).cast());
            }
            if ROWS2 {
                r.load::<2>(below.cast());
            }
            if ROWS2 && COLS2 {
                r.load::<3>(below.add(SUMS).cast());
            }
        }
        for step in 0..block.steps {
            let weights = block.weights.add(step * TILE);
            let inputs = block.inputs.add(step * TILE);
            r.load::<4>(weights.cast());
            r.load::<6>(inputs.cast());
            r.dot::<0, 4, 6>();
            if COLS2 {
                r.load::<7>(inputs.add(block.inputs_stride).cast());
                r.dot::<1, 4, 7>();
            }
            if ROWS2 {
                r.load::<5>(weights.add(block.weights_stride).cast());
                r.dot::<2, 5, 6>();
            }
            if ROWS2 && COLS2 {
                r.dot::<3, 5, 7>();
            }
        }
        r.store::<0>(block.sums.cast());
        if COLS2 {
            r.store::<1>(block.sums.add(SUMS).cast());
        }
        if ROWS2 {
            r.store::<2>(below.cast());
        }
        if ROWS2 && COLS2 {
            r.store::<3>(below.add(SUMS).cast());
        }
    }
}

/// The stand-in for tile instructions: plain loops, the same additions in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scalar;

/// The stand-in's registers.
pub(crate) struct ScalarRegisters([[u32; SUMS]; 8]);

/// Rounds to the nearest bf16, ties to even; what is below the normal numbers becomes zero, as in the instructions.
pub(crate) fn to_bf16(x: f32) -> u16 {
    half::bf16::from_f32(flush(x)).to_bits()
}

/// A number, or zero of its sign if it is subnormal.
fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x }
}

/// The halves of a pair; bf16 are the upper halves of floats.
fn halves(pair: u32) -> (f32, f32) {
    (flush(f32::from_bits(pair << 16)), flush(f32::from_bits(pair & 0xffff_0000)))
}

impl Registers for ScalarRegisters {
    fn zero<const T: u8>(&mut self) {
        self.0[T as usize] = [0; SUMS];
    }
    unsafe fn load<const T: u8>(&mut self, p: *const u8) {
        // SAFETY: the caller vouches for 1 KiB.
        unsafe { p.copy_to_nonoverlapping(self.0[T as usize].as_mut_ptr().cast(), 4 * SUMS) };
    }
    unsafe fn store<const T: u8>(&mut self, p: *mut u8) {
        // SAFETY: the caller vouches for 1 KiB.
        unsafe { p.copy_from_nonoverlapping(self.0[T as usize].as_ptr().cast(), 4 * SUMS) };
    }
    fn dot<const C: u8, const A: u8, const B: u8>(&mut self) {
        let (a, b) = (self.0[A as usize], self.0[B as usize]);
        for i in 0..SIDE {
            // The products of a step at even columns and those at odd ones are summed apart from zero. A product of two
            // bf16 is exact, so the sums are the same as with fused operations.
            let mut sums = [(0f32, 0f32); SIDE];
            for p in 0..SIDE {
                let (even, odd) = halves(a[i * SIDE + p]);
                for (j, sum) in sums.iter_mut().enumerate() {
                    let (x_even, x_odd) = halves(b[p * SIDE + j]);
                    *sum = (flush(sum.0 + even * x_even), flush(sum.1 + odd * x_odd));
                }
            }
            for (sum, &(even, odd)) in self.0[C as usize][i * SIDE..].iter_mut().zip(&sums) {
                *sum = flush(flush(f32::from_bits(*sum)) + flush(even + odd)).to_bits();
            }
        }
    }
}

impl TileOps for Scalar {
    type Session = ScalarRegisters;
    const ROWS: usize = 2;
    const COLS: usize = 2;
    const STEPS: usize = 16;

    fn begin(self) -> ScalarRegisters {
        ScalarRegisters([[0; SUMS]; 8])
    }
    unsafe fn multiply(self, session: &mut ScalarRegisters, block: &Block) {
        // SAFETY: passed on.
        unsafe { multiply_in_registers(session, block) };
    }
    unsafe fn pack(self, from: Inputs, to: *mut u16) {
        for c in 0..SIDE {
            for k in 0..DEPTH {
                let inside = c < from.rows && k < from.cols;
                // SAFETY: the element lies in the input, the place in the tile.
                unsafe {
                    let x = if inside { *from.x.add(c * from.stride + k) } else { 0.0 };
                    *to.add(k / 2 * DEPTH + 2 * c + k % 2) = to_bf16(x);
                }
            }
        }
    }
    unsafe fn line(self, x: *const f32, cols: usize, scale: f32, to: *mut u16) {
        for k in 0..DEPTH {
            // SAFETY: the element lies in the row, the place in the line.
            unsafe { *to.add(k) = if k < cols { to_bf16(*x.add(k) * scale) } else { 0 } };
        }
    }
    unsafe fn pair(self, from: Inputs, to: *mut u16) {
        for k in 0..DEPTH {
            for c in 0..SIDE {
                // SAFETY: the element lies in the input, the place in the tile.
                unsafe {
                    let x = if k < from.rows { *from.x.add(k * from.stride + c) } else { 0.0 };
                    *to.add(k / 2 * DEPTH + 2 * c + k % 2) = to_bf16(x);
                }
            }
        }
    }
    unsafe fn weigh(self, part: &Softmax<'_>) {
        for (r, seen) in part.seen.iter().enumerate() {
            // SAFETY: row `r` of the tiles, as the caller vouches.
            unsafe {
                let score = |slot: usize| {
                    let score = *part.scores.add(slot / SIDE * SUMS + r * SIDE + slot % SIDE);
                    part.softcap.map_or(score, |cap| cap * (score / cap).tanh())
                };
                let old = *part.max.add(r);
                // The larger of a number and NaN is the number.
                let max = seen.clone().map(score).fold(old, f32::max);
                let (shift, factor) = if max == f32::NEG_INFINITY { (0.0, 1.0) } else { (max, (old - max).exp()) };
                *part.max.add(r) = max;
                let totals = std::slice::from_raw_parts_mut(part.totals.add(r * SIDE), SIDE);
                totals.iter_mut().for_each(|total| *total *= factor);
                for strip in 0..part.strips {
                    let sums = std::slice::from_raw_parts_mut(part.sums.add(strip * SUMS + r * SIDE), SIDE);
                    sums.iter_mut().for_each(|sum| *sum *= factor);
                }
                for slot in 0..part.steps * DEPTH {
                    let weight = if seen.contains(&slot) { to_bf16((score(slot) - shift).exp()) } else { 0 };
                    totals[slot % SIDE] += half::bf16::from_bits(weight).to_f32();
                    *part.weights.add(slot / DEPTH * TILE + r * DEPTH + slot % DEPTH) = weight;
                }
            }
        }
    }
    unsafe fn decode(self, view: &View<'_>, rows: Range<usize>, cols: Range<usize>, steps: usize, to: *mut u16) {
        let stride = steps * DEPTH;
        let mut line = vec![0f32; stride];
        for i in 0..rows.len().next_multiple_of(SIDE) {
            line.fill(0.0);
            let row = rows.start + i;
            if row < rows.end && !cols.is_empty() {
                DecodeBlock { view, rows: row..row + 1, cols: cols.clone(), out: &mut line, stride }
                    .run(Isa::Portable(crate::arch::portable::Portable::new()));
            }
            for (k, &x) in line.iter().enumerate() {
                let at = i / SIDE * steps * TILE + k / DEPTH * TILE + i % SIDE * DEPTH + k % DEPTH;
                // SAFETY: inside of the strips.
                unsafe { *to.add(at) = to_bf16(x) };
            }
        }
    }
    unsafe fn write(self, sums: *const f32, to: Target) {
        for c in 0..to.cols {
            for r in 0..to.rows {
                // SAFETY: the caller vouches for the target, its bias and the tile.
                unsafe {
                    let sum = *sums.add(r * SIDE + c);
                    *to.out.add(c * to.stride + r) = if to.bias.is_null() { sum } else { sum + *to.bias.add(r) };
                }
            }
        }
    }
    fn prefetch(self, _: *const u8) {}
    fn spin(self, session: &mut ScalarRegisters, rounds: usize) -> f64 {
        (0..rounds).for_each(|_| session.dot::<0, 4, 6>());
        (rounds * 2 * SUMS * DEPTH) as f64
    }
}
