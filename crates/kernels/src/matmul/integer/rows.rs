//! Few input rows: memory is the limit, so each vector of codes is taken apart in registers and used at once.
//!
//! An element of the result is a sum in sixteen lanes: for each sixteen groups first their biases' terms, lane by lane, then
//! vector after vector of codes, lane `l` with the integers of its bytes `4 l .. 4 l + 4`.

use std::marker::PhantomData;

use super::codes::{Codes, CodesOp, Scales};
use super::input::{Row, Rows};
use super::{Kernel, Task};
use crate::codec::View;
use crate::dots::{BYTES, Dots, DotsOp, LANES};

/// Parts of a task that are read in turns, row after row: with one, a core has too few cache lines on their way (75 % of
/// what it can read, 97 % with four, on Sapphire Rapids).
const STREAMS: usize = 4;
/// How far ahead of those in use the next codes of a stream are asked for, in bytes.
const AHEAD: usize = 2048;
/// The same for scales.
const SCALES_AHEAD: usize = 256;
/// Weight rows that meet one batch of input rows before the next batch: they stay in the nearest cache.
const COLUMNS: usize = 8;
/// Steps of a row that are taken without looking for its end.
const STEPS: usize = 4;
/// Most planes whose integers are summed before they are converted.
const MOST_PLANES: usize = 4;

/// Computes a tile.
pub(super) fn multiply(kernel: Kernel, task: Task<'_, Rows<'_>>) {
    struct Visit<'a>(Kernel, Task<'a, Rows<'a>>);
    impl CodesOp for Visit<'_> {
        fn eval<C: Codes, const GROUP: usize>(self) {
            self.0.run(Multiply::<C, GROUP>(self.1, PhantomData));
        }
    }
    task.form.visit(Visit(kernel, task));
}

struct Multiply<'a, C, const GROUP: usize>(Task<'a, Rows<'a>>, PhantomData<C>);

impl<C: Codes, const GROUP: usize> DotsOp for Multiply<'_, C, GROUP> {
    #[inline(always)]
    fn eval<D: Dots>(self, d: D) {
        let Task { job, tile, .. } = self.0;
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
                        self.columns::<D, 1>(d, cols, row, left);
                    } else if const { D::MOST_ROWS > 1 } {
                        if left == 2 {
                            self.columns::<D, 2>(d, cols, row, left);
                        } else {
                            self.columns::<D, 4>(d, cols, row, left);
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
    /// Vectors whose integers are summed before they are converted: those of one group.
    const VECTORS: usize = if GROUP > C::CODES { GROUP / C::CODES } else { 1 };
    /// Groups in that many vectors.
    const GROUPS: usize = Self::VECTORS * C::CODES / GROUP;

    /// The products of some weight rows with the `count` input rows from position `first` on; the last is repeated up to
    /// `M`.
    ///
    /// # Safety
    /// The columns lie in the tile, the positions in its unit; this task alone writes them.
    #[inline(always)]
    unsafe fn columns<D: Dots, const M: usize>(&self, d: D, cols: (usize, usize), first: usize, count: usize) {
        let Task { job, input, tile, .. } = self.0;
        let rows: [_; M] = std::array::from_fn(|i| job.positions(tile.unit, first + i.min(count - 1)));
        let x = rows.map(|(x_row, _)| input.row(x_row));
        let stream = (cols.1 - cols.0).div_ceil(STREAMS);
        for col in (cols.0..cols.1).step_by(stream.max(1)) {
            let codes = job.view.row(tile.unit.matrix * job.n + col);
            for at in (0..AHEAD).step_by(64) {
                d.prefetch(codes.wrapping_add(at));
            }
        }
        for step in 0..stream {
            let starts = (cols.0 + step..cols.1).step_by(stream);
            let mut lines =
                [Line { codes: std::ptr::null(), scales: std::ptr::null(), biases: std::ptr::null(), left: 0 };
                    STREAMS];
            for (line, col) in lines.iter_mut().zip(starts.clone()) {
                *line = Line::new(&job.view, tile.unit.matrix * job.n + col);
            }
            let mut acc = [[d.no_floats(); M]; STREAMS];
            for group in (0..job.view.groups).step_by(LANES) {
                for (line, acc) in lines.iter().zip(&mut acc).take(starts.len()) {
                    // SAFETY: the line lies in the matrix, the input rows were quantized for it.
                    unsafe { self.block::<D, M>(d, line, group, &x, acc) };
                }
            }
            for (acc, col) in acc.iter().zip(starts) {
                let sums = sums::<D, M>(d, acc);
                for (&sum, &(_, row)) in sums.iter().zip(&rows).take(count) {
                    // SAFETY: passed on.
                    unsafe { job.write(tile.unit, row, col, sum) };
                }
            }
        }
    }

    /// Adds the products of sixteen groups of a weight row, or as many as are left, from `first` on.
    ///
    /// # Safety
    /// `line` is a row of the matrix, `first` a multiple of 16 below its groups; the input rows have the layout of its
    /// columns.
    #[inline(always)]
    unsafe fn block<D: Dots, const M: usize>(
        &self,
        d: D,
        line: &Line,
        first: usize,
        x: &[Row; M],
        acc: &mut [D::Floats; M],
    ) {
        let view = &self.0.job.view;
        let kind = view.scale_type();
        let count = (view.groups - first).min(LANES);
        let offset = first * kind.size();
        let at = Scales {
            kind,
            scales: line.scales.wrapping_add(offset),
            biases: line.biases.wrapping_add(offset),
            left: line.left - offset,
        };
        let mut parts = [d.parts(d.no_floats()); M];
        let mut sums = *acc;
        // SAFETY: the row has `count` more groups; the lists of the input are filled up to whole lanes.
        unsafe {
            d.prefetch(at.scales.wrapping_add(SCALES_AHEAD));
            d.prefetch(at.biases.wrapping_add(SCALES_AHEAD));
            let (scale, bias) = C::scales(d, &at, view.multiplier(), count);
            for i in 0..M {
                parts[i] = d.parts(d.mul(scale, d.floats(x[i].scales.add(first))));
                sums[i] = d.fma(bias, d.floats(x[i].sums.add(first)), sums[i]);
            }
        }
        let vectors = first * GROUP / C::CODES;
        let (mut codes, mut x, mut group) = (line.codes.wrapping_add(vectors * C::CODE_BYTES), *x, 0);
        for x in &mut x {
            x.digits = x.digits.wrapping_add(2 * vectors * C::CODES);
        }
        // SAFETY: the vectors begin in the row; the digits of the input are filled up to whole vectors with zeros.
        unsafe {
            while group + STEPS * Self::GROUPS <= count {
                self.steps::<D, M, STEPS>(d, (&mut codes, &mut x, &mut group), &parts, &mut sums);
            }
            while group < count {
                self.steps::<D, M, 1>(d, (&mut codes, &mut x, &mut group), &parts, &mut sums);
            }
        }
        *acc = sums;
    }

    /// Adds the products of `N` times as many groups as are converted together, and moves on.
    ///
    /// # Safety
    /// The codes begin in the row, and what it lacks of the last vector is read up to the matrix's end at most; the digits
    /// go on for whole vectors.
    #[inline(always)]
    unsafe fn steps<D: Dots, const M: usize, const N: usize>(
        &self,
        d: D,
        (codes, x, group): (&mut *const u8, &mut [Row; M], &mut usize),
        parts: &[D::Parts; M],
        sums: &mut [D::Floats; M],
    ) {
        let left = self.0.job.view.code_end() as usize - *codes as usize;
        // One comparison for all vectors, and reads that need no mask.
        let whole = left >= (N * Self::VECTORS - 1) * C::CODE_BYTES + BYTES;
        for _ in 0..N {
            let mut planes = [d.no_bytes(); MOST_PLANES];
            for (i, planes) in planes.chunks_exact_mut(C::PLANES).take(Self::VECTORS).enumerate() {
                let offset = i * C::CODE_BYTES;
                d.prefetch(codes.wrapping_add(offset + AHEAD));
                let left = if whole { BYTES } else { self.0.job.view.code_end() as usize - *codes as usize - offset };
                // SAFETY: passed on.
                let raw = unsafe { C::load(d, codes.wrapping_add(offset), left) };
                for (plane, codes) in planes.iter_mut().enumerate() {
                    *codes = C::plane(d, raw, plane);
                }
            }
            for i in 0..M {
                let mut ints = d.no_ints();
                for digit in 0..2 {
                    for (plane, &codes) in planes.iter().enumerate().take(Self::VECTORS * C::PLANES) {
                        let (vector, plane) = (plane / C::PLANES, plane % C::PLANES);
                        let offset = (2 * vector + digit) * C::CODES + plane * BYTES;
                        // SAFETY: passed on.
                        let digits = unsafe { d.load(x[i].digits.wrapping_add(offset).cast(), BYTES) };
                        ints = if C::WIDE {
                            d.dot::<true>(ints, codes, digits)
                        } else {
                            d.dot::<false>(ints, codes, digits)
                        };
                    }
                    if digit == 0 {
                        ints = d.times_256(ints);
                    }
                }
                let scale = match Self::GROUPS {
                    1 => d.spread::<16>(&parts[i], *group),
                    2 => d.spread::<8>(&parts[i], *group),
                    4 => d.spread::<4>(&parts[i], *group),
                    _ => d.spread::<2>(&parts[i], *group),
                };
                sums[i] = d.fma(d.convert(ints), scale, sums[i]);
                x[i].digits = x[i].digits.wrapping_add(2 * Self::VECTORS * C::CODES);
            }
            *codes = codes.wrapping_add(Self::VECTORS * C::CODE_BYTES);
            *group += Self::GROUPS;
        }
    }
}

/// [`Dots::sum`] of each. A loop, not `map`: closures do not inherit the instructions of the function around them.
#[inline(always)]
fn sums<D: Dots, const M: usize>(d: D, acc: &[D::Floats; M]) -> [f32; M] {
    let mut sums = [0.0; M];
    for i in (0..M).step_by(4) {
        if i + 4 <= M {
            sums[i..i + 4].copy_from_slice(&d.sum4([acc[i], acc[i + 1], acc[i + 2], acc[i + 3]]));
        } else {
            for i in i..M {
                sums[i] = d.sum(acc[i]);
            }
        }
    }
    sums
}
