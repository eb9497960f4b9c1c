//! Few input rows: memory is the limit, so each vector of codes is taken apart in registers and used at once.
//!
//! Four weight rows are read side by side: a vector's quarters have sixteen bytes of each, and meet the same digits of an input
//! row. So one vector of sums serves four elements of the result, and one input row's digits four weight rows.
//!
//! An element of the result is a sum in four lanes: for each sixteen groups first their biases' terms, lane `l` with groups
//! `l`, `l + 4`, …, then group after group the integers, lane `l` with bytes `4 l .. 4 l + 4` of each quarter vector.

use std::marker::PhantomData;

use super::codes::{Codes, CodesOp, Scales};
use super::input::{Row, Rows};
use super::{Kernel, Task};
use crate::codec::View;
use crate::dots::{BYTES, Dots, DotsOp, LANES, QUARTERS};

/// Parts of a task that are read in turns, a row of each in a quarter: with one, a core has too few cache lines on their way
/// (75 % of what it can read, 97 % with four, on Sapphire Rapids).
const STREAMS: usize = QUARTERS;
/// How far ahead of those in use the next codes of a stream are asked for, in bytes.
const AHEAD: usize = 2048;
/// The same for scales.
const SCALES_AHEAD: usize = 256;
/// Weight rows that meet one batch of input rows before the next batch: they stay in the nearest cache.
const COLUMNS: usize = 8;
/// Most vectors of a row that are converted together.
const MOST_VECTORS: usize = 2;
/// Input rows whose products are added in turns: each waits for the one before.
const INTERLEAVED: usize = 4;
/// Most planes whose integers are summed before they are converted.
const MOST_PLANES: usize = 8;

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
                    } else if const { D::MOST_ROWS == 8 } && left > 4 {
                        self.columns::<D, 8>(d, cols, row, left);
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
    /// Vectors of a row that are taken in a step: a group's at least.
    const VECTORS: usize = if GROUP > C::CODES { GROUP / C::CODES } else { 1 };
    /// Groups of a step.
    const GROUPS: usize = Self::VECTORS * C::CODES / GROUP;
    /// Quarters of those vectors, one after another, whose integers are converted together: a group's, or one that has several.
    const TOGETHER: usize = if Self::GROUPS < QUARTERS { QUARTERS * Self::VECTORS / Self::GROUPS } else { 1 };
    /// Groups in them.
    const EACH: usize = Self::GROUPS * Self::TOGETHER / (QUARTERS * Self::VECTORS);

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
            let at: [usize; STREAMS] = std::array::from_fn(|i| cols.0 + i * stream + step);
            // Beyond the end the last row is computed again and dropped.
            let lines = at.map(|col| Line::new(&job.view, tile.unit.matrix * job.n + col.min(cols.1 - 1)));
            let mut sums = [d.no_floats(); M];
            for group in (0..job.view.groups).step_by(LANES) {
                // SAFETY: the lines lie in the matrix, the input rows were quantized for it.
                unsafe { self.block::<D, M>(d, &lines, group, &x, &mut sums) };
            }
            let there = at.iter().filter(|&&col| col < cols.1).count();
            let bias = job.bias.map(|bias| at.map(|col| bias[tile.unit.matrix * job.n + col.min(cols.1 - 1)]));
            for (&sums, &(_, row)) in sums.iter().zip(&rows).take(count) {
                let mut sums = d.quarter_sums(sums);
                if let Some(bias) = bias {
                    sums = std::array::from_fn(|i| sums[i] + bias[i]);
                }
                let out = job.out.0.wrapping_add(row * job.n);
                for (&col, sum) in at.iter().zip(sums).take(there) {
                    // SAFETY: the element lies in the tile, which is this task's alone.
                    unsafe { *out.wrapping_add(col) = sum };
                }
            }
        }
    }

    /// Adds the products of sixteen groups of four weight rows, or as many as are left, from `first` on.
    ///
    /// # Safety
    /// `lines` are rows of the matrix, `first` a multiple of 16 below its groups; the input rows have the layout of its
    /// columns.
    #[inline(always)]
    unsafe fn block<D: Dots, const M: usize>(
        &self,
        d: D,
        lines: &[Line; STREAMS],
        first: usize,
        x: &[Row; M],
        sums: &mut [D::Floats; M],
    ) {
        let view = &self.0.job.view;
        let (kind, count) = (view.scale_type(), (view.groups - first).min(LANES));
        let (mut scales, mut biases) = ([d.no_bytes(); STREAMS], [d.no_bytes(); STREAMS]);
        for (i, line) in lines.iter().enumerate() {
            let offset = first * kind.size();
            let (scales_at, biases_at) = (line.scales.wrapping_add(offset), line.biases.wrapping_add(offset));
            d.prefetch(scales_at.wrapping_add(SCALES_AHEAD));
            d.prefetch(biases_at.wrapping_add(SCALES_AHEAD));
            let at = Scales { kind, scales: scales_at, biases: biases_at, left: line.left - offset };
            // SAFETY: the row has `count` more groups.
            let (scale, bias) = unsafe { C::scales(d, &at, view.multiplier(), count) };
            (scales[i], biases[i]) = (d.bits(scale), d.bits(bias));
        }
        // Now vector `i` has groups `4 i .. 4 i + 4` of each row.
        let (scales, biases) = (d.quarters(scales), d.quarters(biases));
        let mut tile = *sums;
        for (i, &biases) in biases.iter().enumerate().take(count.div_ceil(4)) {
            for (sum, x) in tile.iter_mut().zip(x) {
                // SAFETY: the lists of the input are filled up to whole lanes.
                *sum = d.fma(d.of_bits(biases), unsafe { d.four(x.sums.add(first + 4 * i)) }, *sum);
            }
        }
        let vectors = first * GROUP / C::CODES;
        let (mut codes, mut x) = (lines.map(|line| line.codes.wrapping_add(vectors * C::CODE_BYTES)), *x);
        for x in &mut x {
            x.digits = x.digits.wrapping_add(2 * vectors * C::CODES);
            x.scales = x.scales.wrapping_add(first);
        }
        for group in (0..count).step_by(Self::GROUPS) {
            // SAFETY: the vectors begin in the rows; the digits of the input are filled up to whole vectors with zeros.
            unsafe { self.step::<D, M>(d, (&codes, group), &scales, &x, &mut tile) };
            for codes in &mut codes {
                *codes = codes.wrapping_add(Self::VECTORS * C::CODE_BYTES);
            }
            for x in &mut x {
                x.digits = x.digits.wrapping_add(2 * Self::VECTORS * C::CODES);
            }
        }
        *sums = tile;
    }

    /// Adds the products of the groups of a step, which begins with a `group` of the sixteen whose scales these are.
    ///
    /// # Safety
    /// The codes begin in rows of the matrix, and what a row lacks of the last vector is read up to the matrix's end at most;
    /// the digits go on for whole vectors, the input's scales for sixteen groups.
    #[inline(always)]
    unsafe fn step<D: Dots, const M: usize>(
        &self,
        d: D,
        (codes, group): (&[*const u8; STREAMS], usize),
        scales: &[D::Bytes; QUARTERS],
        x: &[Row; M],
        sums: &mut [D::Floats; M],
    ) {
        let end = self.0.job.view.code_end() as usize;
        // The last row is the nearest to the end. One comparison for all vectors, and reads that need no mask.
        let whole = end - codes[STREAMS - 1] as usize >= (Self::VECTORS - 1) * C::CODE_BYTES + BYTES;
        let mut raw = [[d.no_bytes(); QUARTERS]; MOST_VECTORS];
        for (vector, raw) in raw.iter_mut().enumerate().take(Self::VECTORS) {
            let mut rows = [d.no_bytes(); STREAMS];
            for (row, codes) in rows.iter_mut().zip(codes) {
                let at = codes.wrapping_add(vector * C::CODE_BYTES);
                d.prefetch(at.wrapping_add(AHEAD));
                // SAFETY: passed on.
                *row = unsafe { C::load(d, at, if whole { BYTES } else { end - at as usize }) };
            }
            *raw = d.quarters(rows);
        }
        for part in 0..QUARTERS * Self::VECTORS / Self::TOGETHER {
            let mut planes = [d.no_bytes(); MOST_PLANES];
            for (i, planes) in planes.chunks_exact_mut(C::PLANES).enumerate().take(Self::TOGETHER) {
                let quarter = part * Self::TOGETHER + i;
                for (plane, codes) in planes.iter_mut().enumerate() {
                    *codes = C::plane(d, raw[quarter / QUARTERS][quarter % QUARTERS], plane);
                }
            }
            let (list, lane) = ((group + part * Self::EACH) / 4, (group + part * Self::EACH) % 4);
            let scale = Self::spread(d, d.of_bits(scales[list]), lane);
            for (sums, x) in sums.chunks_mut(INTERLEAVED).zip(x.chunks(INTERLEAVED)) {
                let mut ints = [d.no_ints(); INTERLEAVED];
                for digit in 0..2 {
                    for (i, &codes) in planes.iter().enumerate().take(Self::TOGETHER * C::PLANES) {
                        let (quarter, plane) = (part * Self::TOGETHER + i / C::PLANES, i % C::PLANES);
                        let vector = (2 * (quarter / QUARTERS) + digit) * C::CODES;
                        let offset = vector + plane * BYTES + quarter % QUARTERS * (BYTES / QUARTERS);
                        for (ints, x) in ints.iter_mut().zip(x) {
                            // SAFETY: passed on.
                            let digits = unsafe { d.sixteen(x.digits.wrapping_add(offset)) };
                            *ints = if C::WIDE {
                                d.dot::<true>(*ints, codes, digits)
                            } else {
                                d.dot::<false>(*ints, codes, digits)
                            };
                        }
                    }
                    if digit == 0 {
                        for ints in &mut ints {
                            *ints = d.times_256(*ints);
                        }
                    }
                }
                for ((sum, &ints), x) in sums.iter_mut().zip(&ints).zip(x) {
                    // SAFETY: passed on.
                    let x_scale = unsafe {
                        match Self::EACH {
                            1 => d.splat(*x.scales.add(4 * list + lane)),
                            _ => Self::spread(d, d.four(x.scales.add(4 * list)), lane),
                        }
                    };
                    *sum = d.fma(d.convert(ints), d.mul(scale, x_scale), *sum);
                }
            }
        }
    }

    /// Of each quarter's four groups those from `lane` on that are converted together, in the lanes of their integers.
    #[inline(always)]
    fn spread<D: Dots>(d: D, v: D::Floats, lane: usize) -> D::Floats {
        if Self::EACH == 1 { d.within::<4>(v, lane) } else { d.within::<2>(v, lane) }
    }
}
