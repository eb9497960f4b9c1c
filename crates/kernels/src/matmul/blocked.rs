//! Many input rows: arithmetic is the limit, so a block of weights is decoded once into the cache and used by all rows.
//!
//! The accumulators are vectors, one per element of the tile. They stay in registers within a block of columns and in memory
//! between blocks: storing a float changes no bit, so the sum is the one of the direct kernel.

#![allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]

use super::{BLOCK_M, BLOCK_N, Job, Tile};
use crate::codec::DecodeBlock;
use crate::simd::{Simd, SimdOp};
use crate::{Isa, scratch};

/// Columns that are decoded at a time: a multiple of every group and vector.
const BLOCK_K: usize = 512;
/// Distance of two decoded rows: not a power of two, so that they do not compete for the same cache sets.
const STRIDE: usize = BLOCK_K + 16;
/// Weight rows of a register tile.
const TILE_N: usize = 4;

/// Computes a tile.
pub(super) fn run(isa: Isa, job: &Job<'_>, tile: Tile) {
    assert!(tile.unit.len <= BLOCK_M && tile.end <= job.n);
    let weights = BLOCK_N * STRIDE;
    scratch::floats(weights + BLOCK_M * BLOCK_N * isa.lanes(), |memory| {
        let (weights, sums) = memory.split_at_mut(weights);
        for first in (tile.start..tile.end).step_by(BLOCK_N) {
            let block = Tile { start: first, end: tile.end.min(first + BLOCK_N), ..tile };
            let rows = tile.unit.matrix * job.n + block.start..tile.unit.matrix * job.n + block.end;
            // A matrix without columns has one empty block: its product is zero.
            for k in (0..job.view.cols.max(1)).step_by(BLOCK_K) {
                let cols = k..job.view.cols.min(k + BLOCK_K);
                DecodeBlock { view: &job.view, rows: rows.clone(), cols: cols.clone(), out: weights, stride: STRIDE }
                    .run(isa);
                isa.run(Multiply { job, block, k: (cols.start, cols.end), weights, sums });
            }
        }
    });
}

/// Adds the products of one block of columns, and writes the results after the last.
struct Multiply<'a> {
    job: &'a Job<'a>,
    block: Tile,
    k: (usize, usize),
    weights: &'a [f32],
    sums: &'a mut [f32],
}

impl SimdOp for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(mut self, s: S) {
        let rows = self.block.unit.len;
        let mut at = 0;
        // The accumulators, a vector of weights and one of input per row stay in registers.
        let most = if S::REGISTERS >= 32 { 6 } else { 3 };
        while at < rows {
            let tile = most.min(rows - at);
            match tile {
                1 => self.row_of_tiles::<S, 1>(s, at),
                2 => self.row_of_tiles::<S, 2>(s, at),
                3 => self.row_of_tiles::<S, 3>(s, at),
                4 if S::REGISTERS >= 32 => self.row_of_tiles::<S, 4>(s, at),
                5 if S::REGISTERS >= 32 => self.row_of_tiles::<S, 5>(s, at),
                _ if S::REGISTERS >= 32 => self.row_of_tiles::<S, 6>(s, at),
                _ => unreachable!("a tile of {tile} rows"),
            }
            at += tile;
        }
    }
}

impl Multiply<'_> {
    /// `M` input rows with all weight rows of the block.
    #[inline(always)]
    fn row_of_tiles<S: Simd, const M: usize>(&mut self, s: S, at: usize) {
        let (job, block) = (self.job, self.block);
        let inputs: [_; M] = std::array::from_fn(|i| job.rows(block.unit, at + i));
        let x = inputs.map(|(x, _)| x.wrapping_add(self.k.0));
        let last = self.k.1 == job.view.cols;
        for col in (0..block.end - block.start).step_by(TILE_N) {
            let weights = &self.weights[col * STRIDE..(col + TILE_N) * STRIDE];
            let mut acc = [[s.splat(0.0); TILE_N]; M];
            if self.k.0 > 0 {
                for i in 0..M {
                    for j in 0..TILE_N {
                        let sum = &self.sums[((at + i) * BLOCK_N + col + j) * S::LANES..][..S::LANES];
                        // SAFETY: the slice has `LANES` floats.
                        acc[i][j] = unsafe { s.load(sum.as_ptr()) };
                    }
                }
            }
            // SAFETY: the input rows have these columns; the block's rows were decoded and filled up with zeros.
            unsafe { multiply::<S, M>(s, &x, weights.as_ptr(), self.k.1 - self.k.0, &mut acc) };
            for i in 0..M {
                for j in 0..TILE_N {
                    if !last {
                        let sum = &mut self.sums[((at + i) * BLOCK_N + col + j) * S::LANES..][..S::LANES];
                        // SAFETY: the slice has `LANES` floats.
                        unsafe { s.store(sum.as_mut_ptr(), acc[i][j]) };
                    } else if block.start + col + j < block.end {
                        // SAFETY: this task alone has the tile.
                        unsafe { job.write(block.unit, inputs[i].1, block.start + col + j, s.sum(acc[i][j])) };
                    }
                }
            }
        }
    }
}

/// The register tile: `M` input rows times `TILE_N` decoded rows over `len` columns.
///
/// # Safety
/// `x` are readable for `len` floats, `weights` for `TILE_N` rows of `STRIDE`, where `len` rounded up to vectors is at most
/// that.
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize>(
    s: S,
    x: &[*const f32; M],
    weights: *const f32,
    len: usize,
    acc: &mut [[S::F; TILE_N]; M],
) {
    let whole = len / S::LANES * S::LANES;
    // The tile is copied so that it stays in registers, which memory behind a reference does not.
    let mut tile = *acc;
    for k in (0..whole).step_by(S::LANES) {
        let mut inputs = [s.splat(0.0); M];
        for i in 0..M {
            // SAFETY: the vector lies in the columns.
            inputs[i] = unsafe { s.load(x[i].add(k)) };
        }
        for j in 0..TILE_N {
            // SAFETY: as above.
            let w = unsafe { s.load(weights.add(j * STRIDE + k)) };
            for i in 0..M {
                tile[i][j] = s.fma(inputs[i], w, tile[i][j]);
            }
        }
    }
    if whole < len {
        for i in 0..M {
            // SAFETY: what is left of the row is less than a vector.
            let input = unsafe { s.load_part(x[i].add(whole), len - whole) };
            for j in 0..TILE_N {
                // SAFETY: the decoded rows go on with zeros to the end of the vector.
                tile[i][j] = s.fma(input, unsafe { s.load(weights.add(j * STRIDE + whole)) }, tile[i][j]);
            }
        }
    }
    *acc = tile;
}
