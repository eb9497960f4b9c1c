//! Few input rows: memory is the limit, so each vector of codes is taken apart in registers and used at once.
//!
//! Weight rows come from memory in several streams, a vector of each at a time, which meets the digits of all input rows as they
//! lie. The lanes of a vector belong to one group of weights or to several in turn, whose scales are spread over them.
//!
//! An element of the result is a sum in sixteen lanes: for each sixteen groups first their biases' terms, a lane each, then vector
//! after vector the integers, lane `l` with bytes `4 l .. 4 l + 4`.

#![allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]

use std::marker::PhantomData;

use super::codes::{Codes, CodesOp, Scales};
use super::input::{Row, Rows};
use super::{Kernel, Task};
use crate::codec::View;
use crate::dots::{BYTES, Dots, DotsOp, LANES, SUMS};

/// Most parts of a task that are read in turns, a row of each: with one, a core has too few cache lines on their way (75 % of
/// what it can read, 97 % with four, on Sapphire Rapids).
const STREAMS: usize = 4;
/// Most sums in registers: of more input rows than two fewer streams are read.
const TILE: usize = 8;
/// The same as [`Dots::ahead`] for scales.
const SCALES_AHEAD: usize = 256;
/// Weight rows that meet one batch of input rows before the next batch: they stay in the nearest cache.
const COLUMNS: usize = 8;
/// Most planes of a vector.
const MOST_PLANES: usize = 4;

/// Computes a tile.
pub(super) fn multiply(kernel: Kernel, task: Task<'_, Rows<'_>>) {
    struct Visit<'a>(Kernel, Task<'a, Rows<'a>>);
    impl CodesOp for Visit<'_> {
        fn eval<C: Codes, const GROUP: usize>(self) {
            self.0.run(Multiply::<C, GROUP> { task: self.1, ahead: 0, form: PhantomData });
        }
    }
    task.form.visit(Visit(kernel, task));
}

struct Multiply<'a, C, const GROUP: usize> {
    task: Task<'a, Rows<'a>>,
    /// As [`Dots::ahead`].
    ahead: usize,
    form: PhantomData<C>,
}

impl<C: Codes, const GROUP: usize> DotsOp for Multiply<'_, C, GROUP> {
    #[inline(always)]
    fn eval<D: Dots>(mut self, d: D) {
        self.ahead = d.ahead();
        let Task { job, tile, .. } = self.task;
        assert!(tile.unit.matrix * job.n + tile.end <= job.view.rows && job.view.group == GROUP);
        // Several passes over the input: a few columns stay in the nearest cache for all of them. One: they are met once.
        let step = if tile.unit.len > D::MOST_ROWS { COLUMNS } else { tile.end - tile.start };
        for first in (tile.start..tile.end).step_by(step.max(1)) {
            let mut row = 0;
            while row < tile.unit.len {
                let (left, cols) = ((tile.unit.len - row).min(D::MOST_ROWS), (first, tile.end.min(first + step)));
                // Conditions on constants keep rows that an implementation does not take from being compiled.
                // SAFETY: the columns lie in the tile, checked above; positions in the unit.
                unsafe {
                    if left == 1 {
                        self.columns::<D, STREAMS, 1>(d, cols, row, left);
                    } else if const { D::MOST_ROWS == 8 } && left > 4 {
                        self.columns::<D, { TILE / 8 }, 8>(d, cols, row, left);
                    } else if const { D::MOST_ROWS > 1 } {
                        if left == 2 {
                            self.columns::<D, { TILE / 2 }, 2>(d, cols, row, left);
                        } else {
                            self.columns::<D, { TILE / 4 }, 4>(d, cols, row, left);
                        }
                    }
                }
                row += left;
            }
        }
    }
}

/// A row of weights.
#[derive(Clone, Copy)]
struct Line {
    codes: *const u8,
    scales: *const u8,
    biases: *const u8,
    /// Bytes that are readable from the scales on, and from the biases.
    left: usize,
}

impl Line {
    fn new(view: &View<'_>, row: usize) -> Line {
        let (scales, biases, left) = view.scale_row(row);
        Line { codes: view.row(row), scales, biases, left }
    }
}

impl<C: Codes, const GROUP: usize> Multiply<'_, C, GROUP> {
    /// Groups in a vector, one if it is a part of one.
    const GROUPS: usize = if C::CODES > GROUP { C::CODES / GROUP } else { 1 };

    /// The products of some weight rows, `R` at a time, with the `count` input rows from position `first` on; the last is repeated
    /// up to `M`.
    ///
    /// # Safety
    /// The columns lie in the tile, the positions in its unit; this task alone writes them.
    #[inline(always)]
    unsafe fn columns<D: Dots, const R: usize, const M: usize>(
        &self,
        d: D,
        cols: (usize, usize),
        first: usize,
        count: usize,
    ) {
        let Task { job, input, tile, .. } = self.task;
        let rows: [_; M] = std::array::from_fn(|i| job.positions(tile.unit, first + i.min(count - 1)));
        let x = rows.map(|(x_row, _)| input.row(x_row));
        let (stream, matrix) = ((cols.1 - cols.0).div_ceil(R), tile.unit.matrix * job.n);
        for col in (cols.0..cols.1).step_by(stream.max(1)) {
            let codes = job.view.row(matrix + col);
            for at in (0..self.ahead).step_by(64) {
                d.prefetch(codes.wrapping_add(at));
            }
        }
        for step in 0..stream {
            let at: [usize; R] = std::array::from_fn(|i| cols.0 + i * stream + step);
            // Beyond the end the last row is computed again and dropped.
            let lines = at.map(|col| Line::new(&job.view, matrix + col.min(cols.1 - 1)));
            let mut sums = [[d.no_floats(); M]; R];
            for group in (0..job.view.groups).step_by(LANES) {
                // SAFETY: the lines lie in the matrix, the input rows were quantized for it.
                unsafe { self.block::<D, R, M>(d, &lines, group, &x, &mut sums) };
            }
            for (i, sums) in sums.as_flattened().chunks_exact(SUMS).enumerate() {
                for (j, sum) in d.sums([sums[0], sums[1], sums[2], sums[3]]).into_iter().enumerate() {
                    let (col, row) = (at[(SUMS * i + j) / M], (SUMS * i + j) % M);
                    if col < cols.1 && row < count {
                        // SAFETY: the element lies in the tile, which is this task's alone.
                        unsafe { job.write(tile.unit, rows[row].1, col, sum) };
                    }
                }
            }
        }
    }

    /// Adds the products of sixteen groups of some weight rows, or as many as are left, from `first` on.
    ///
    /// # Safety
    /// `lines` are rows of the matrix, `first` a multiple of 16 below its groups; the input rows have the layout of its
    /// columns.
    #[inline(always)]
    unsafe fn block<D: Dots, const R: usize, const M: usize>(
        &self,
        d: D,
        lines: &[Line; R],
        first: usize,
        x: &[Row; M],
        sums: &mut [[D::Floats; M]; R],
    ) {
        let view = &self.task.job.view;
        let (kind, count) = (view.scale_type(), (view.groups - first).min(LANES));
        let (mut scales, mut tile) = ([[d.no_floats(); M]; R], *sums);
        for r in 0..R {
            let offset = first * kind.size();
            let (scales_at, biases_at) = (lines[r].scales.wrapping_add(offset), lines[r].biases.wrapping_add(offset));
            d.prefetch(scales_at.wrapping_add(SCALES_AHEAD));
            d.prefetch(biases_at.wrapping_add(SCALES_AHEAD));
            let at = Scales { kind, scales: scales_at, biases: biases_at, left: lines[r].left - offset };
            // SAFETY: the row has `count` more groups; the lists of the input are filled up to whole lanes.
            unsafe {
                let (scale, bias) = C::scales(d, &at, view.multiplier(), count);
                for m in 0..M {
                    scales[r][m] = d.mul(scale, d.floats(x[m].scales.add(first)));
                    tile[r][m] = d.fma(bias, d.floats(x[m].sums.add(first)), tile[r][m]);
                }
            }
        }
        let vectors = first * GROUP / C::CODES;
        for vector in 0..(count * GROUP).div_ceil(C::CODES) {
            let codes = lines.map(|line| line.codes.wrapping_add((vectors + vector) * C::CODE_BYTES));
            let digits = x.map(|x| x.digits.wrapping_add(2 * (vectors + vector) * C::CODES));
            // SAFETY: the vector begins in the rows; the digits of the input are filled up to whole vectors with zeros.
            let ints = unsafe { self.vector::<D, R, M>(d, codes, digits) };
            for r in 0..R {
                for m in 0..M {
                    let scale = Self::spread(d, scales[r][m], vector * C::CODES / GROUP);
                    tile[r][m] = d.fma(d.convert(ints[r][m]), scale, tile[r][m]);
                }
            }
        }
        *sums = tile;
    }

    /// The integer sums of a vector of each weight row with each input row.
    ///
    /// # Safety
    /// The codes begin in rows of the matrix, and what a row lacks of the vector is read up to the matrix's end at most; the
    /// digits go on for a whole vector.
    #[inline(always)]
    unsafe fn vector<D: Dots, const R: usize, const M: usize>(
        &self,
        d: D,
        codes: [*const u8; R],
        digits: [*const i8; M],
    ) -> [[D::Ints; M]; R] {
        let end = self.task.job.view.code_end() as usize;
        // The last row is the nearest to the end: one comparison for all, and reads that need no mask.
        let whole = end - codes[R - 1] as usize >= BYTES;
        let mut planes = [[d.no_bytes(); MOST_PLANES]; R];
        for r in 0..R {
            d.prefetch(codes[r].wrapping_add(self.ahead));
            // SAFETY: passed on. Two calls, so that the one that nearly always runs has a length that the compiler knows.
            let raw = unsafe {
                if whole { C::load(d, codes[r], BYTES) } else { C::load(d, codes[r], end - codes[r] as usize) }
            };
            for plane in 0..C::PLANES {
                planes[r][plane] = C::plane(d, raw, plane);
            }
        }
        let mut ints = [[d.no_ints(); M]; R];
        for m in 0..M {
            for digit in 0..2 {
                for plane in 0..C::PLANES {
                    // SAFETY: passed on.
                    let digits =
                        unsafe { d.load(digits[m].wrapping_add(digit * C::CODES + plane * BYTES).cast(), BYTES) };
                    for r in 0..R {
                        ints[r][m] = if C::WIDE {
                            d.dot::<true>(ints[r][m], planes[r][plane], digits)
                        } else {
                            d.dot::<false>(ints[r][m], planes[r][plane], digits)
                        };
                    }
                }
                if digit == 0 {
                    for r in 0..R {
                        ints[r][m] = d.times_256(ints[r][m]);
                    }
                }
            }
        }
        ints
    }

    /// Of a block's sixteen groups those from `first` on that a vector has, in its lanes.
    #[inline(always)]
    fn spread<D: Dots>(d: D, v: D::Floats, first: usize) -> D::Floats {
        match Self::GROUPS {
            1 => d.spread::<1>(v, first),
            2 => d.spread::<2>(v, first),
            4 => d.spread::<4>(v, first),
            _ => d.spread::<8>(v, first),
        }
    }
}
