//! `x · W` with the sum over the rows of `W`: blocks of rows are decoded into the cache and added, row by row, to tiles of
//! the result. The result's own memory holds the sums between blocks.

#![allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]

use std::ops::Range;

use super::Out;
use crate::codec::{DecodeBlock, View};
use crate::simd::{Simd, SimdOp};
use crate::{Cpu, scratch};

/// Weight rows that are decoded at a time.
const BLOCK_R: usize = 64;
/// Columns of a task: a multiple of every group.
const BLOCK_C: usize = 256;
/// Distance of two decoded rows.
const STRIDE: usize = BLOCK_C + 16;
/// Input rows of a task.
const BLOCK_M: usize = 192;
/// Vectors of columns in a register tile.
const TILE_C: usize = 4;

/// `x [m, rows] · W [rows, cols]`; the sizes have been checked.
pub(super) fn run(cpu: &Cpu, x: &[f32], view: &View<'_>, m: usize, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    let (across, down) = (view.cols.div_ceil(BLOCK_C), m.div_ceil(BLOCK_M));
    let out = Out(out.as_mut_ptr());
    // A product too small to share runs as one task.
    let small = m * view.rows * view.cols < 1 << 17;
    let tasks = if small { 1 } else { across * down };
    let whole = &out;
    cpu.pool.run(tasks, &|task| {
        for part in if small { 0..across * down } else { task..task + 1 } {
            let (col, row) = (part / down * BLOCK_C, part % down * BLOCK_M);
            let part =
                Part { x, view, rows: row..m.min(row + BLOCK_M), cols: col..view.cols.min(col + BLOCK_C), out: *whole };
            part.run(cpu);
        }
    });
}

/// A task: some rows and columns of the result.
struct Part<'a> {
    x: &'a [f32],
    view: &'a View<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: Out,
}

impl Part<'_> {
    fn run(&self, cpu: &Cpu) {
        scratch::floats(BLOCK_R * STRIDE, |weights| {
            // A matrix without rows has one empty block: its product is zero.
            for r in (0..self.view.rows.max(1)).step_by(BLOCK_R) {
                let rows = r..self.view.rows.min(r + BLOCK_R);
                let block = DecodeBlock {
                    view: self.view,
                    rows: rows.clone(),
                    cols: self.cols.clone(),
                    out: weights,
                    stride: STRIDE,
                };
                block.run(cpu.isa);
                cpu.isa.run(Multiply { part: self, r: (rows.start, rows.end), weights });
            }
        });
    }
}

/// Adds the products of one block of weight rows.
struct Multiply<'a> {
    part: &'a Part<'a>,
    r: (usize, usize),
    weights: &'a [f32],
}

impl SimdOp for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Range { start: mut at, end } = self.part.rows;
        if S::REGISTERS >= 32 {
            while at + 6 <= end {
                self.row_of_tiles::<S, 6>(s, at);
                at += 6;
            }
        }
        while at + 2 <= end {
            self.row_of_tiles::<S, 2>(s, at);
            at += 2;
        }
        if at < end {
            self.row_of_tiles::<S, 1>(s, at);
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn row_of_tiles<S: Simd, const M: usize>(&self, s: S, at: usize) {
        let Part { x, view, cols, out, .. } = self.part;
        for col in cols.clone().step_by(TILE_C * S::LANES) {
            let mut tile = [[s.splat(0.0); TILE_C]; M];
            let left = cols.end - col;
            if self.r.0 > 0 {
                for i in 0..M {
                    for j in 0..TILE_C {
                        // SAFETY: the row and, within what is left of them, the columns are this task's own.
                        tile[i][j] = unsafe { load(s, out.0.add((at + i) * view.cols + col), left, j) };
                    }
                }
            }
            for r in self.r.0..self.r.1 {
                let w = &self.weights[(r - self.r.0) * STRIDE + (col - cols.start)..];
                for j in 0..TILE_C.min(left.div_ceil(S::LANES)) {
                    debug_assert!(w.len() >= (j + 1) * S::LANES);
                    // SAFETY: decoded lines are filled up to whole vectors, and longer than `BLOCK_C`.
                    let w = unsafe { s.load(w.as_ptr().add(j * S::LANES)) };
                    for i in 0..M {
                        tile[i][j] = s.fma(s.splat(x[(at + i) * view.rows + r]), w, tile[i][j]);
                    }
                }
            }
            for i in 0..M {
                for j in 0..TILE_C {
                    // SAFETY: as for the loads.
                    unsafe { store(s, out.0.add((at + i) * view.cols + col), left, j, tile[i][j]) };
                }
            }
        }
    }
}

/// The `j`-th vector from `p`, of which `left` floats exist.
///
/// # Safety
/// `p` is readable for `left` floats.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: *const f32, left: usize, j: usize) -> S::F {
    let n = left.saturating_sub(j * S::LANES);
    // SAFETY: a vector is read only as far as floats are left.
    unsafe {
        match n {
            0 => s.splat(0.0),
            _ if n < S::LANES => s.load_part(p.add(j * S::LANES), n),
            _ => s.load(p.add(j * S::LANES)),
        }
    }
}

/// Writes the `j`-th vector from `p`, of which `left` floats exist.
///
/// # Safety
/// `p` is writable for `left` floats.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, p: *mut f32, left: usize, j: usize, v: S::F) {
    let n = left.saturating_sub(j * S::LANES);
    // SAFETY: a vector is written only as far as floats are left.
    unsafe {
        match n {
            0 => {}
            _ if n < S::LANES => s.store_part(p.add(j * S::LANES), v, n),
            _ => s.store(p.add(j * S::LANES), v),
        }
    }
}
