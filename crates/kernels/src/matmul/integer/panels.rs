//! Many input rows: arithmetic is the limit, so a panel of codes is put in order once and used by all rows.
//!
//! A panel has some columns of the result as lanes: four consecutive bytes of a lane are four codes of its weight row, as a
//! dot product takes them, and every input row meets them with four of its digits in all lanes. So the sums of a group are
//! whole in their lanes, and the result comes out as it is stored.
//!
//! An element of the result is a sum over groups in order, for each first the integers' term and then the bias's.

#![allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]

use std::marker::PhantomData;

use super::codes::{Codes, CodesOp, Scales};
use super::input::Tiles;
use super::{Kernel, Task};
use crate::dots::{BYTES, Dots, DotsOp, LANES, QUAD, WIDTH, short_run};
use crate::scratch;

/// Most panels of a strip.
const PANELS: usize = 4;
/// Columns of the widest strip.
pub(super) const STRIP: usize = PANELS * WIDTH;
/// Input rows from which on a strip has so many; fewer are limited by reading weights, which then stay in the nearest cache.
pub(super) const MANY_ROWS: usize = 64;
/// Most codes of a weight row in a panel: a strip stays in the second cache, which delivers codes as fast as they are used.
const DEPTH: usize = 2048;
/// Most input rows of a register tile: lists of rows are filled up to it.
pub(super) const MOST_ROWS: usize = 8;

/// Computes a tile.
pub(super) fn multiply(kernel: Kernel, task: Task<'_, Tiles<'_>>) {
    struct Visit<'a>(Kernel, Task<'a, Tiles<'a>>);
    impl CodesOp for Visit<'_> {
        fn eval<C: Codes, const GROUP: usize>(self) {
            let Visit(kernel, task) = self;
            let (rows, all) = (task.tile.unit.len, task.job.view.groups);
            let panels = if rows < MANY_ROWS { 1 } else { PANELS };
            // Parts of about equal size, each in whole vectors of codes.
            let parts = all.div_ceil(DEPTH / GROUP).max(1);
            let depth = all.div_ceil(parts).next_multiple_of((C::CODES / GROUP).max(1)).max(1);
            // Of each panel the codes of a part, then of each group the lanes' scales and biases, then of each row the sums.
            let codes = (depth * GROUP).next_multiple_of(C::CODES) * WIDTH / 4;
            let scales = all.next_multiple_of(LANES) * 2 * WIDTH;
            let sums = if all > depth { rows.next_multiple_of(MOST_ROWS) * WIDTH } else { 0 };
            scratch::floats(panels * (codes + scales + sums), |memory| {
                let (codes, rest) = memory.split_at_mut(panels * codes);
                let (scales, sums) = rest.split_at_mut(panels * scales);
                for start in (task.tile.start..task.tile.end).step_by(panels * WIDTH) {
                    let cols = (start, task.tile.end.min(start + panels * WIDTH));
                    // A matrix without columns has one empty part: its product is zero.
                    for first in (0..all.max(1)).step_by(depth) {
                        let part = Part { task, panels, cols, depth, groups: (first, all.min(first + depth)) };
                        kernel.run(Unpack::<C, GROUP> { part, codes, scales, form: PhantomData });
                        kernel.run(Multiply { part, group: GROUP, most: C::MOST, codes, scales, sums });
                    }
                }
            });
        }
    }
    task.form.visit(Visit(kernel, task));
}

/// A part of a task: a strip of panels, which some input rows meet in turn, so that they are read and the result is written
/// in longer runs.
#[derive(Clone, Copy)]
struct Part<'a> {
    task: Task<'a, Tiles<'a>>,
    /// Panels of a whole strip.
    panels: usize,
    /// Columns of the result.
    cols: (usize, usize),
    /// Groups of each weight row, of which the last part may have fewer.
    depth: usize,
    /// Those of this part.
    groups: (usize, usize),
}

impl Part<'_> {
    /// Floats of a panel's scales and biases.
    fn scales(&self) -> usize {
        self.task.job.view.groups.next_multiple_of(LANES) * 2 * WIDTH
    }

    /// Asks for what is taken apart after this part of a panel, so that it arrives while this is multiplied: at the group `g` as much
    /// of it as the group is of this one.
    #[inline(always)]
    fn ask<D: Dots>(&self, d: D, panel: usize, g: usize) {
        let Part { task, panels, cols, depth, groups } = *self;
        let view = &task.job.view;
        let count = groups.1 - groups.0;
        // The lines that begin in the group's share of so many bytes.
        let lines = |from: usize, bytes: usize| {
            let share = |g: usize| from + g * bytes / count;
            (share(g).next_multiple_of(64)..share(g + 1)).step_by(64)
        };
        let mut row = task.tile.unit.matrix * task.job.n + cols.0 + panel * WIDTH;
        let mut first = groups.1;
        if self.is_last() {
            (row, first) = (row + panels * WIDTH, 0);
            let size = view.groups * view.scale_type().size();
            let (scales, biases, _) = view.scale_row(0);
            for line in lines(row * size, WIDTH * size) {
                d.prefetch_far(scales.wrapping_add(line));
                d.prefetch_far(biases.wrapping_add(line));
            }
        }
        let group = view.row_bytes / view.groups;
        // Rows may begin within a line, so one more.
        for line in lines(first * group, depth.min(view.groups - first) * group + 64) {
            let mut codes = view.row(0).wrapping_add(row * view.row_bytes + line);
            for _ in 0..WIDTH {
                d.prefetch_far(codes);
                codes = codes.wrapping_add(view.row_bytes);
            }
        }
    }

    /// Whether these are the first groups.
    fn is_first(&self) -> bool {
        self.groups.0 == 0
    }

    /// Whether these are the last groups.
    fn is_last(&self) -> bool {
        self.groups.1 == self.task.job.view.groups
    }
}

/// Puts panels of codes in order, group after group and plane after plane, and their scales and biases.
struct Unpack<'a, C, const GROUP: usize> {
    part: Part<'a>,
    codes: &'a mut [f32],
    scales: &'a mut [f32],
    form: PhantomData<C>,
}

impl<C: Codes, const GROUP: usize> DotsOp for Unpack<'_, C, GROUP> {
    #[inline(always)]
    fn eval<D: Dots>(mut self, d: D) {
        let Part { task, cols, groups, .. } = self.part;
        let matrix = task.tile.unit.matrix * task.job.n;
        assert!(matrix + cols.1 <= task.job.view.rows && groups.1 <= task.job.view.groups);
        assert!(
            GROUP == task.job.view.group
                && (groups.0 * GROUP).is_multiple_of(C::CODES)
                && groups.1 - groups.0 <= DEPTH / GROUP
        );
        for lanes in 0..(cols.1 - cols.0).div_ceil(WIDTH) * (WIDTH / LANES) {
            // Lanes beyond the columns repeat the last and are never stored.
            let mut rows = [0; LANES];
            for (lane, row) in rows.iter_mut().enumerate() {
                *row = matrix + (cols.0 + lanes * LANES + lane).min(cols.1 - 1);
            }
            self.codes::<D>(d, &rows, lanes);
            if groups.0 == 0 {
                for first in (0..task.job.view.groups).step_by(LANES) {
                    self.scales::<D>(d, &rows, lanes, first);
                }
            }
        }
    }
}

impl<C: Codes, const GROUP: usize> Unpack<'_, C, GROUP> {
    /// Takes over the codes of sixteen weight rows.
    #[inline(always)]
    fn codes<D: Dots>(&mut self, d: D, rows: &[usize; LANES], lanes: usize) {
        let Part { task, panels, groups, .. } = self.part;
        let view = &task.job.view;
        let from = groups.0 * GROUP / 8 * C::BITS as usize;
        let (panel, lane) = (lanes * LANES / WIDTH, lanes * LANES % WIDTH);
        let size = self.codes.len() / panels;
        let codes: *mut u8 = self.codes[panel * size..][..size].as_mut_ptr().cast();
        let from = rows.map(|row| view.row(row).wrapping_add(from));
        for vector in 0..((groups.1 - groups.0) * GROUP).div_ceil(C::CODES) {
            let mut raw = [d.no_bytes(); LANES];
            // Hidden, so that the compiler does not keep a pointer and a length for each lane, which registers are too few for.
            let at = std::hint::black_box(vector * C::CODE_BYTES);
            // The last row is the nearest to the end of the matrix.
            let there = view.code_end() as usize - from[LANES - 1] as usize - at;
            for lane in 0..LANES {
                let p = from[lane].wrapping_add(at);
                // SAFETY: the vector begins in the row and is read up to the matrix's end at most.
                raw[lane] = unsafe {
                    if there >= BYTES {
                        C::load(d, p, BYTES)
                    } else {
                        C::load(d, p, view.code_end() as usize - p as usize)
                    }
                };
            }
            // Now vector `i` has the bytes `4 i .. 4 i + 4` of each row.
            let raw = d.transpose(raw);
            // So many vectors are a group's, or all of them a part of it.
            let each = GROUP.min(C::CODES) / C::PLANES / 4;
            let mut out = codes.wrapping_add(vector * (C::CODES / 4) * QUAD + 4 * lane);
            for raw in raw.chunks_exact(each) {
                for plane in 0..C::PLANES {
                    for &raw in raw {
                        // SAFETY: a panel has room for all quads of so many groups, rounded up to vectors.
                        unsafe { d.store(out, C::plane(d, raw, plane)) };
                        out = out.wrapping_add(QUAD);
                    }
                }
            }
        }
    }

    /// Takes over the scales and biases of sixteen groups of sixteen weight rows.
    #[inline(always)]
    fn scales<D: Dots>(&mut self, d: D, rows: &[usize; LANES], lanes: usize, first: usize) {
        let view = &self.part.task.job.view;
        let (kind, count) = (view.scale_type(), view.groups - first);
        let offset = first * kind.size();
        let (mut scales_at, mut biases_at, mut left) = ([std::ptr::null(); LANES], [std::ptr::null(); LANES], 0);
        for lane in 0..LANES {
            let row = view.scale_row(rows[lane]);
            (scales_at[lane], biases_at[lane]) = (row.0.wrapping_add(offset), row.1.wrapping_add(offset));
            left = row.2 - offset;
        }
        let at = Scales { kind, scales: &scales_at, biases: &biases_at, left };
        // SAFETY: the rows have these groups.
        let [scale, bias] = unsafe { C::scales(d, &at, view.multiplier(), count) };
        let (mut scales, mut biases) = ([d.no_bytes(); LANES], [d.no_bytes(); LANES]);
        for lane in 0..LANES {
            (scales[lane], biases[lane]) = (d.bits(scale[lane]), d.bits(bias[lane]));
        }
        let (scales, biases) = (d.transpose(scales), d.transpose(biases));
        let (panel, lane) = (lanes * LANES / WIDTH, lanes * LANES % WIDTH);
        let lines = &mut self.scales[panel * self.part.scales() + first * 2 * WIDTH..][..LANES * 2 * WIDTH];
        for (line, (&scales, &biases)) in
            lines.as_chunks_mut::<{ 2 * WIDTH }>().0.iter_mut().zip(scales.iter().zip(&biases))
        {
            // SAFETY: a line has `WIDTH` scales and as many biases.
            unsafe {
                d.store(line.as_mut_ptr().add(lane).cast(), scales);
                d.store(line.as_mut_ptr().add(WIDTH + lane).cast(), biases);
            }
        }
    }
}

/// Adds the products of some panels with all input rows.
struct Multiply<'a> {
    part: Part<'a>,
    /// Codes of a group.
    group: usize,
    /// As [`Codes::MOST`].
    most: u8,
    codes: &'a [f32],
    scales: &'a [f32],
    /// For each tile of input rows, and for each panel, the sums of the parts before: of each row the panel's lanes.
    sums: &'a mut [f32],
}

impl DotsOp for Multiply<'_> {
    #[inline(always)]
    fn eval<D: Dots>(mut self, d: D) {
        let rows = self.part.task.tile.unit.len;
        for at in (0..rows).step_by(D::TILE_ROWS) {
            let count = (rows - at).min(D::TILE_ROWS);
            if const { D::TILE_ROWS == 8 } && count > 4 {
                self.row_of_tiles::<D, 8>(d, at, count);
            } else if const { D::TILE_ROWS >= 4 } {
                self.row_of_tiles::<D, 4>(d, at, count);
            } else {
                self.row_of_tiles::<D, 1>(d, at, count);
            }
        }
    }
}

/// The sums of `M` input rows with the columns of a register tile, which are a panel at most.
#[repr(align(64))]
struct Sums<const M: usize>([[f32; WIDTH]; M]);

impl Multiply<'_> {
    /// `count` input rows, from position `at` on, with all panels.
    #[inline(always)]
    fn row_of_tiles<D: Dots, const M: usize>(&mut self, d: D, at: usize, count: usize) {
        let columns = (self.part.cols.1 - self.part.cols.0).next_multiple_of(WIDTH);
        let run = short_run(self.most);
        for column in (0..columns).step_by(LANES * D::TILE_VECTORS) {
            // Conditions on constants keep tiles that an implementation does not have from being compiled.
            if const { D::TILE_VECTORS == 2 } {
                match run {
                    0 => self.tile::<D, M, 2, 0>(d, at, count, column),
                    _ => self.tile::<D, M, 2, 4>(d, at, count, column),
                }
            } else if const { D::SHORT_RUNS } {
                match run {
                    0 => self.tile::<D, M, 1, 0>(d, at, count, column),
                    2 => self.tile::<D, M, 1, 2>(d, at, count, column),
                    4 => self.tile::<D, M, 1, 4>(d, at, count, column),
                    _ => self.tile::<D, M, 1, 8>(d, at, count, column),
                }
            } else {
                match run {
                    0 => self.tile::<D, M, 1, 0>(d, at, count, column),
                    _ => self.tile::<D, M, 1, 4>(d, at, count, column),
                }
            }
        }
    }

    /// `count` of `M` input rows with `V` vectors of columns.
    #[inline(always)]
    fn tile<D: Dots, const M: usize, const V: usize, const RUN: usize>(
        &mut self,
        d: D,
        at: usize,
        count: usize,
        column: usize,
    ) {
        let Part { task: Task { input, tile, .. }, panels, groups, .. } = self.part;
        let (panel, lane) = (column / WIDTH, column % WIDTH);
        let mut sums = Sums([[0.0; WIDTH]; M]);
        let before = (at * panels + panel * D::TILE_ROWS) * WIDTH + lane;
        if !self.part.is_first() {
            for (sums, before) in sums.0.iter_mut().zip(self.sums[before..].chunks(WIDTH)) {
                sums[..V * LANES].copy_from_slice(&before[..V * LANES]);
            }
        }
        let block = input.block;
        let mut x = input.tile(tile.unit, at).wrapping_add(groups.0 * block.len);
        let size = self.codes.len() / panels;
        let mut codes = self.codes[panel * size..][..size].as_ptr().cast::<u8>().wrapping_add(4 * lane);
        let scales = &self.scales[panel * self.part.scales()..][groups.0 * 2 * WIDTH..groups.1 * 2 * WIDTH];
        for (g, scales) in scales.as_chunks::<{ 2 * WIDTH }>().0.iter().enumerate() {
            if at == 0 && lane == 0 {
                self.part.ask(d, panel, g);
            }
            if self.part.is_last() {
                // A store waits for its line, so the lines of the result are asked for, a few with each group.
                for i in (g..count).step_by(groups.1 - groups.0) {
                    for v in 0..V {
                        d.prefetch(self.result(at + i, column + v * LANES).cast());
                    }
                }
            }
            // SAFETY: the panel has the codes of its groups, and the tile of the input their blocks.
            unsafe {
                let mut ints = [[d.no_ints(); V]; M];
                let quads = self.group / 4;
                match block.large {
                    Some(fours) => {
                        let high = (x.cast(), x.add(block.places).cast());
                        d.fours::<M, V, RUN>(&mut ints, codes, high, fours);
                    }
                    None => d.quads::<M, V, RUN, true>(&mut ints, codes, x.cast(), quads),
                }
                d.quads::<M, V, RUN, false>(&mut ints, codes, x.add(block.low).cast(), quads);
                let (x_scales, x_sums) = (x.add(block.scales), x.add(block.sums));
                for v in 0..V {
                    let lane = lane + v * LANES;
                    let (scale, bias) = (d.floats(scales[lane..].as_ptr()), d.floats(scales[WIDTH + lane..].as_ptr()));
                    for i in 0..M {
                        let sum = sums.0[i][v * LANES..].as_mut_ptr();
                        let product = d.mul(scale, d.splat(*x_scales.add(i)));
                        let with = d.fma(d.convert(ints[i][v]), product, d.floats(sum));
                        d.store_floats(sum, d.fma(bias, d.splat(*x_sums.add(i)), with));
                    }
                }
            }
            codes = codes.wrapping_add(self.group / 4 * QUAD);
            x = x.wrapping_add(block.len);
        }
        if self.part.is_last() {
            for (i, sums) in sums.0.iter().enumerate().take(count) {
                for v in 0..V {
                    self.write(d, at + i, column + v * LANES, &sums[v * LANES..][..LANES]);
                }
            }
        } else {
            for (sums, after) in sums.0.iter().zip(self.sums[before..].chunks_mut(WIDTH)) {
                after[..V * LANES].copy_from_slice(&sums[..V * LANES]);
            }
        }
    }

    /// Where the element of a column of the strip goes, of the row at a position of the unit.
    #[inline(always)]
    fn result(&self, at: usize, column: usize) -> *mut f32 {
        let Part { task: Task { job, tile, .. }, cols, .. } = self.part;
        let (_, row) = job.positions(tile.unit, at);
        job.out.0.wrapping_add(row * job.n + cols.0 + column)
    }

    /// Adds the bias and writes sixteen elements of a row, or those that the strip has.
    #[inline(always)]
    fn write<D: Dots>(&self, d: D, at: usize, column: usize, sums: &[f32]) {
        let Part { task: Task { job, tile, .. }, cols, .. } = self.part;
        let count = (cols.1 - cols.0).saturating_sub(column).min(LANES);
        if count == 0 {
            return;
        }
        let bias = job.bias.map(|bias| &bias[tile.unit.matrix * job.n + cols.0 + column..][..count]);
        let out = self.result(at, column);
        // SAFETY: the elements lie in the tile, which is this task's alone.
        unsafe {
            if count == LANES {
                let sum = d.floats(sums.as_ptr());
                d.store_floats(out, bias.map_or(sum, |bias| d.add(sum, d.floats(bias.as_ptr()))));
            } else {
                for (i, sum) in sums.iter().enumerate().take(count) {
                    *out.add(i) = bias.map_or(*sum, |bias| sum + bias[i]);
                }
            }
        }
    }
}
