//! Few input rows: memory is the limit, so each vector of weights is decoded in registers and used at once.

#![allow(clippy::needless_range_loop, reason = "indices of register tiles are compile-time constants after unrolling")]

use std::marker::PhantomData;

use super::{Job, Tile, Unit};
use crate::Isa;
use crate::codec::{Codec, SCALES, Scales, View, Visitor};
use crate::simd::{Simd, SimdOp};

/// Most input rows of a unit.
pub(super) const MOST_ROWS: usize = 8;
/// Most input rows of a pass over the weights.
const PASS_ROWS: usize = 4;
/// Weight rows of a pass if there are several: the later passes find them in the nearest cache.
const PASS_COLUMNS: usize = 8;
/// How far ahead of those in use the next weights of a stream are asked for, in bytes: rows are short streams to the
/// processor's own prefetching.
const AHEAD: usize = 2048;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Computes a tile of at most [`MOST_ROWS`] rows.
pub(super) fn run(isa: Isa, job: &Job<'_>, tile: Tile) {
    if tile.unit.len <= PASS_ROWS {
        return pass(isa, job, tile);
    }
    for start in (tile.start..tile.end).step_by(PASS_COLUMNS) {
        for row in (0..tile.unit.len).step_by(PASS_ROWS) {
            let unit = Unit { start: tile.unit.start + row, len: PASS_ROWS.min(tile.unit.len - row), ..tile.unit };
            pass(isa, job, Tile { unit, start, end: tile.end.min(start + PASS_COLUMNS) });
        }
    }
}

fn pass(isa: Isa, job: &Job<'_>, tile: Tile) {
    struct Visit<'a>(Isa, &'a Job<'a>, Tile);
    impl Visitor for Visit<'_> {
        type Output = ();
        fn visit<C: Codec>(self, _: C) {
            let Visit(isa, job, tile) = self;
            match tile.unit.len {
                1 => isa.run(Direct::<C, 1> { job, tile, codec: PhantomData }),
                2 => isa.run(Direct::<C, 2> { job, tile, codec: PhantomData }),
                3 => isa.run(Direct::<C, 3> { job, tile, codec: PhantomData }),
                4 => isa.run(Direct::<C, 4> { job, tile, codec: PhantomData }),
                rows => unreachable!("{rows} rows"),
            }
        }
    }
    job.view.visit(Visit(isa, job, tile));
}

struct Direct<'a, C, const M: usize> {
    job: &'a Job<'a>,
    tile: Tile,
    codec: PhantomData<C>,
}

impl<C: Codec, const M: usize> SimdOp for Direct<'_, C, M> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        // The accumulators, a vector of weights and one of input stay in registers.
        if S::REGISTERS >= 4 * M + 4 { self.columns::<S, 4>(s) } else { self.columns::<S, 2>(s) }
    }
}

impl<C: Codec, const M: usize> Direct<'_, C, M> {
    /// Takes `R` weight rows at a time, so that their sums hide each other's latency.
    #[inline(always)]
    fn columns<S: Simd, const R: usize>(self, s: S) {
        let (job, tile) = (self.job, self.tile);
        assert!(tile.unit.len == M && tile.end <= job.n);
        let base = tile.unit.matrix * job.n;
        assert!(base + tile.end <= job.view.rows);
        let rows: [_; M] = std::array::from_fn(|i| job.rows(tile.unit, i));
        let x = rows.map(|(x, _)| x);
        // Each of `R` streams through memory has its own part of the columns.
        let stream = (tile.end - tile.start).div_ceil(R);
        for step in 0..stream {
            let cols: [usize; R] = std::array::from_fn(|r| tile.start + r * stream + step);
            // Beyond the end the last row is computed again and dropped.
            let w = cols.map(|col| base + col.min(tile.end - 1));
            // SAFETY: the inputs are whole rows of `x`; the weight rows lie in the matrix.
            let sums = unsafe { dots::<C, S, R, M>(s, &job.view, &x, &w) };
            for (&col, sums) in cols.iter().zip(&sums).filter(|(col, _)| **col < tile.end) {
                for (i, &sum) in sums.iter().enumerate() {
                    // SAFETY: this task alone has the tile.
                    unsafe { job.write(tile.unit, rows[i].1, col, sum) };
                }
            }
        }
    }
}

/// The products of `R` weight rows with `M` input rows.
///
/// # Safety
/// `C` is the view's storage form, `x` are readable for its columns, `w` are below its rows.
#[inline(always)]
unsafe fn dots<C: Codec, S: Simd, const R: usize, const M: usize>(
    s: S,
    view: &View<'_>,
    x: &[*const f32; M],
    w: &[usize; R],
) -> [[f32; M]; R] {
    let mut acc = [[s.splat(0.0); M]; R];
    let codes = w.map(|row| view.row(row));
    if C::GROUPED {
        let group_bytes = view.group * C::BITS as usize / 8;
        let mut scales = [const { Scales { scale: [0.0; SCALES], bias: [0.0; SCALES] } }; R];
        for first in (0..view.groups).step_by(SCALES) {
            let end = view.groups.min(first + SCALES);
            for r in 0..R {
                view.scales(s, w[r], first..end, &mut scales[r]);
                view.prefetch_scales(s, w[r] + 1, first..end);
            }
            for g in first..end {
                for codes in &codes {
                    s.prefetch(codes.wrapping_add(g * group_bytes + AHEAD));
                }
                let mut groups = [C::group(s, scales[0].scale[g - first], scales[0].bias[g - first]); R];
                for r in 1..R {
                    groups[r] = C::group(s, scales[r].scale[g - first], scales[r].bias[g - first]);
                }
                // SAFETY: the group's columns lie in the row.
                unsafe { span::<C, S, R, M>(s, &codes, x, (g * view.group, (g + 1) * view.group), &groups, &mut acc) };
            }
        }
    } else {
        let (whole, line) = (view.cols / S::LANES * S::LANES, LINE * 8 / C::BITS as usize);
        let lines = view.cols / line * line;
        let groups = [C::group(s, 1.0, 0.0); R];
        // SAFETY: the columns lie in the row; the last load takes what is left of it.
        unsafe {
            for k in (0..lines).step_by(line) {
                for codes in &codes {
                    s.prefetch(codes.wrapping_add(k * C::BITS as usize / 8 + AHEAD));
                }
                span::<C, S, R, M>(s, &codes, x, (k, k + line), &groups, &mut acc);
            }
            span::<C, S, R, M>(s, &codes, x, (lines, whole), &groups, &mut acc);
            if whole < view.cols {
                for r in 0..R {
                    let weights = C::load_part(s, codes[r].add(whole * C::BITS as usize / 8), view.cols - whole);
                    for i in 0..M {
                        acc[r][i] = s.fma(s.load_part(x[i].add(whole), view.cols - whole), weights, acc[r][i]);
                    }
                }
            }
        }
    }
    let mut sums = [[0.0; M]; R];
    for r in 0..R {
        for i in 0..M {
            sums[r][i] = s.sum(acc[r][i]);
        }
    }
    sums
}

/// Adds the products of columns `cols.0..cols.1`, whole vectors of one group.
///
/// # Safety
/// `codes` are rows of the form `C` that have these columns, and so do the rows `x`.
#[inline(always)]
unsafe fn span<C: Codec, S: Simd, const R: usize, const M: usize>(
    s: S,
    codes: &[*const u8; R],
    x: &[*const f32; M],
    cols: (usize, usize),
    groups: &[C::Group<S>; R],
    acc: &mut [[S::F; M]; R],
) {
    for k in (cols.0..cols.1).step_by(S::LANES) {
        for r in 0..R {
            // SAFETY: the vector at `k` lies in the columns.
            unsafe {
                let weights = C::load(s, codes[r].add(k * C::BITS as usize / 8), &groups[r]);
                for i in 0..M {
                    acc[r][i] = s.fma(s.load(x[i].add(k)), weights, acc[r][i]);
                }
            }
        }
    }
}
