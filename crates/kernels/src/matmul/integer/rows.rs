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
use crate::dots::{BYTES, Dots, DotsOp, LANES, MOST_PLANES, Planes, SUMS};

/// Most parts of a task that are read in turns, a row of each: with one, a core has too few cache lines on their way (75 % of
/// what it can read, 97 % with four, on Sapphire Rapids).
const STREAMS: usize = 4;
/// Most sums in registers: of more input rows than two fewer streams are read.
const TILE: usize = 8;
/// The same as [`Dots::ahead`] for scales.
const SCALES_AHEAD: usize = 256;
/// Weight rows that meet one batch of input rows before the next batch: they stay in the nearest cache.
const COLUMNS: usize = 8;

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

/// Some weight rows, one of each stream.
struct Lines<const R: usize> {
    codes: [*const u8; R],
    scales: [*const u8; R],
    biases: [*const u8; R],
    /// Bytes that are readable of the codes from the last row on, which is the nearest to their end, and of its scales, and biases.
    left: (usize, usize),
}

impl<const R: usize> Lines<R> {
    /// The rows are in order.
    fn new(view: &View<'_>, rows: [usize; R]) -> Self {
        let scales = rows.map(|row| view.scale_row(row));
        let codes = rows.map(|row| view.row(row));
        Lines {
            codes,
            scales: scales.map(|(scales, ..)| scales),
            biases: scales.map(|(_, biases, _)| biases),
            left: (view.code_end() as usize - codes[R - 1] as usize, scales[R - 1].2),
        }
    }

    /// Goes on by so many bytes of codes and of scales.
    #[inline(always)]
    fn skip(&self, codes: usize, scales: usize) -> Self {
        let mut next = Lines { left: (self.left.0 - codes, self.left.1 - scales), ..*self };
        for r in 0..R {
            next.codes[r] = self.codes[r].wrapping_add(codes);
            next.scales[r] = self.scales[r].wrapping_add(scales);
            next.biases[r] = self.biases[r].wrapping_add(scales);
        }
        next
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
        // SAFETY: the rows lie in the result.
        let outs = rows.map(|(_, row)| unsafe { job.out.0.add(row * job.n) });
        let matrix = tile.unit.matrix * job.n;
        let bias = job.bias.map_or(std::ptr::null(), |bias| bias[matrix..][..job.n].as_ptr());
        // Where the columns are no multiple, the last streams share some.
        let stream = (cols.1 - cols.0).div_ceil(R);
        let starts: [usize; R] = std::array::from_fn(|i| (cols.0 + i * stream).min(cols.1 - stream));
        let lines = Lines::new(&job.view, starts.map(|col| matrix + col));
        for codes in lines.codes {
            for at in (0..self.ahead).step_by(64) {
                d.prefetch(codes.wrapping_add(at));
            }
        }
        let (groups, scale) = (job.view.groups, job.view.scale_type().size());
        // Where vectors that go on behind the codes' end are filled up.
        let mut rest = [[0; BYTES]; R];
        for step in 0..stream {
            let mut sums = [[d.no_floats(); M]; R];
            for group in (0..groups).step_by(LANES) {
                let lines = lines.skip(
                    step * job.view.row_bytes + group * GROUP / C::CODES * C::CODE_BYTES,
                    (step * groups + group) * scale,
                );
                // SAFETY: the lines lie in the matrix, the input rows were quantized for it.
                unsafe { self.block::<D, R, M>(d, lines, group, &x, &mut rest, &mut sums) };
            }
            for (i, sums) in sums.as_flattened().as_chunks::<SUMS>().0.iter().enumerate() {
                for (j, mut sum) in d.sums(*sums).into_iter().enumerate() {
                    let (col, out) = (starts[(SUMS * i + j) / M] + step, outs[(SUMS * i + j) % M]);
                    // SAFETY: the element lies in the tile, which is this task's alone; the bias is as long as the row.
                    unsafe {
                        if !bias.is_null() {
                            sum += *bias.add(col);
                        }
                        *out.add(col) = sum;
                    }
                }
            }
        }
    }

    /// Adds the products of sixteen groups of some weight rows, or as many as are left, from `first` on. `rest` is memory for a vector
    /// of each.
    ///
    /// # Safety
    /// `lines` are rows of the matrix from this group on, `first` a multiple of 16 below its groups; the input rows have the
    /// layout of its columns.
    #[inline(always)]
    unsafe fn block<D: Dots, const R: usize, const M: usize>(
        &self,
        d: D,
        lines: Lines<R>,
        first: usize,
        x: &[Row; M],
        rest: &mut [[u8; BYTES]; R],
        sums: &mut [[D::Floats; M]; R],
    ) {
        let count = (self.task.job.view.groups - first).min(LANES);
        let mut tile = *sums;
        // SAFETY: passed on.
        let scales = unsafe { self.scales(d, &lines, (first, count), x, &mut tile) };
        let begin = first * GROUP / C::CODES;
        let mut digits = [std::ptr::null(); M];
        for m in 0..M {
            digits[m] = x[m].digits.wrapping_add(2 * begin * C::CODES);
        }
        let (vectors, size, left) = ((count * GROUP).div_ceil(C::CODES), C::CODE_BYTES, lines.left.0);
        let mut codes = lines.codes;
        let mut until = if left < BYTES { 0 } else { vectors.min((left - BYTES) / size + 1) };
        let mut vector = 0;
        loop {
            for vector in vector..until {
                let codes = codes.map(|codes| codes.wrapping_add(vector * size));
                for codes in codes {
                    d.prefetch(codes.wrapping_add(self.ahead));
                }
                // SAFETY: so many whole vectors are readable, and the input's digits are filled up to whole vectors with zeros.
                unsafe {
                    Self::part::<D, R, M, 0>(d, &codes, &digits, vector, &scales, &mut tile);
                    if const { D::PARTS > 1 } {
                        Self::part::<D, R, M, 1>(d, &codes, &digits, vector, &scales, &mut tile);
                    }
                }
            }
            vector = until;
            if vector == vectors {
                break;
            }
            for r in 0..R {
                let from = lines.codes[r].wrapping_add(vector * size);
                let n = (left + (lines.codes[R - 1] as usize - lines.codes[r] as usize) - vector * size).min(BYTES);
                // SAFETY: so many bytes are readable.
                unsafe { std::ptr::copy_nonoverlapping(from, rest[r].as_mut_ptr(), n) };
            }
            for r in 0..R {
                codes[r] = rest[r].as_ptr().wrapping_sub(vector * size);
            }
            until = vector + 1;
        }
        *sums = tile;
    }

    /// Adds the products of a part of a vector of each of some weight rows.
    ///
    /// # Safety
    /// The weight rows' vectors are readable, and of the digits of the input rows those that they meet.
    #[inline(always)]
    unsafe fn part<D: Dots, const R: usize, const M: usize, const PART: usize>(
        d: D,
        codes: &[*const u8; R],
        digits: &[*const i8; M],
        vector: usize,
        scales: &[[D::Floats; M]; R],
        tile: &mut [[D::Floats; M]; R],
    ) {
        let (first, hold) = (vector * C::CODES / GROUP, const { M <= D::HELD_ROWS });
        let mut planes = [[d.no_bytes(); MOST_PLANES]; R];
        let mut held = [[[d.no_bytes(); MOST_PLANES]; 2]; M];
        if hold {
            for m in 0..M {
                // SAFETY: passed on.
                held[m] = unsafe { Self::digits(d, digits[m], vector) };
            }
        }
        for r in 0..R {
            // SAFETY: passed on.
            let raw = unsafe { C::load(d, codes[r], BYTES) };
            for plane in 0..C::PLANES {
                planes[r][plane] = C::plane(d, raw, plane);
            }
            if hold {
                for m in 0..M {
                    let [ints] = Self::dot(d, &[planes[r]], &held[m]);
                    let sum = d.fma(d.convert(ints), Self::spread(d, &scales[r][m], first), tile[r][m]);
                    tile[r][m] = d.part::<PART>(tile[r][m], sum);
                }
            }
        }
        if !hold {
            for m in 0..M {
                // SAFETY: passed on.
                let ints = Self::dot(d, &planes, &unsafe { Self::digits(d, digits[m], vector) });
                for r in 0..R {
                    let sum = d.fma(d.convert(ints[r]), Self::spread(d, &scales[r][m], first), tile[r][m]);
                    tile[r][m] = d.part::<PART>(tile[r][m], sum);
                }
            }
        }
    }

    /// What the integer sums of `count` groups are multiplied with, from `first` on; adds the terms of their biases.
    ///
    /// # Safety
    /// The lines and the input rows have these groups.
    #[inline(always)]
    unsafe fn scales<D: Dots, const R: usize, const M: usize>(
        &self,
        d: D,
        lines: &Lines<R>,
        (first, count): (usize, usize),
        x: &[Row; M],
        tile: &mut [[D::Floats; M]; R],
    ) -> [[D::Floats; M]; R] {
        let view = &self.task.job.view;
        let at = Scales { kind: view.scale_type(), scales: &lines.scales, biases: &lines.biases, left: lines.left.1 };
        // SAFETY: passed on.
        let [scale, bias] = unsafe { C::scales(d, &at, view.multiplier(), count) };
        let mut scales = [[d.no_floats(); M]; R];
        for r in 0..R {
            d.prefetch(lines.scales[r].wrapping_add(SCALES_AHEAD));
            d.prefetch(lines.biases[r].wrapping_add(SCALES_AHEAD));
            for m in 0..M {
                // SAFETY: the lists of the input are filled up to whole lanes.
                let (x_scales, x_sums) = unsafe { (d.floats(x[m].scales.add(first)), d.floats(x[m].sums.add(first))) };
                scales[r][m] = d.mul(scale[r], x_scales);
                tile[r][m] = d.fma(bias[r], x_sums, tile[r][m]);
            }
        }
        scales
    }

    /// The digits of an input row that a vector of codes meets: the high ones, then the low ones.
    ///
    /// # Safety
    /// The row is readable for the digits of the vector.
    #[inline(always)]
    unsafe fn digits<D: Dots>(d: D, row: *const i8, vector: usize) -> [Planes<D>; 2] {
        let mut digits = [[d.no_bytes(); MOST_PLANES]; 2];
        for digit in 0..2 {
            for plane in 0..C::PLANES {
                let at = (2 * vector + digit) * C::CODES + plane * BYTES;
                // SAFETY: passed on.
                digits[digit][plane] = unsafe { d.load(row.wrapping_add(at).cast(), BYTES) };
            }
        }
        digits
    }

    /// The integer sums of a vector of each of some weight rows.
    #[inline(always)]
    fn dot<D: Dots, const R: usize>(d: D, codes: &[Planes<D>; R], digits: &[Planes<D>; 2]) -> [D::Ints; R] {
        if C::WIDE {
            d.two_digits::<true, R>(codes, digits, C::PLANES)
        } else {
            d.two_digits::<false, R>(codes, digits, C::PLANES)
        }
    }

    /// Of a block's sixteen groups those from `first` on that a vector has, in its lanes.
    #[inline(always)]
    fn spread<D: Dots>(d: D, v: &D::Floats, first: usize) -> D::Floats {
        match Self::GROUPS {
            1 => d.spread::<1>(v, first),
            2 => d.spread::<2>(v, first),
            4 => d.spread::<4>(v, first),
            _ => d.spread::<8>(v, first),
        }
    }
}
