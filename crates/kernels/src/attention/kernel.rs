//! One tile of queries against one span of keys: the inner loops of [`super::sdpa`].
//!
//! Scores and values are held in lines of whole vectors, zero beyond the head's dimension, so that the inner loops have no
//! tails.

use std::marker::PhantomData;
use std::ops::Range;

use super::Attention;
use super::products::{Lines, Stored, axpy, dots};
use crate::codec::{Codec, DenseBf16, DenseF16, DenseF32, View, Visitor};
use crate::simd::{Simd, SimdOp};
use crate::weights::{Elements, Float, Matrix};
use crate::{Isa, math, reduce};

/// Slots whose scores are weighed together: one step of the online softmax.
pub(super) const BLOCK: usize = 64;
/// Slots between merges. Part of the arithmetic: changing it changes the last bits of results.
pub(super) const SPAN: usize = 256;
/// Most rows (a query of a head) that share a block of keys while it is in cache.
pub(super) const TILE: usize = 64;

/// A call of [`super::sdpa`], checked. A *row* of a key-value head is one query of one head of its group; rows are ordered by
/// query, then head.
pub(super) struct Problem<'a> {
    pub(super) args: &'a Attention,
    pub(super) isa: Isa,
    pub(super) q: &'a [f32],
    pub(super) keys: View<'a>,
    pub(super) values: View<'a>,
    pub(super) sinks: Option<&'a [f32]>,
    /// Number of queries.
    pub(super) t: usize,
    /// Number of the first slot, as far as spans go, and the one behind the last. Slots have these numbers here.
    pub(super) first: usize,
    pub(super) end: usize,
    /// Heads that share a key-value head.
    pub(super) group: usize,
    /// Floats in a line of keys: `key_dim` rounded up to whole vectors.
    pub(super) key_line: usize,
    /// Floats in a line of values.
    pub(super) value_line: usize,
}

impl<'a> Problem<'a> {
    /// The problem of arguments that have been checked.
    pub(super) fn new(
        isa: Isa,
        args: &'a Attention,
        q: &'a [f32],
        k: &Matrix<'a>,
        v: &Matrix<'a>,
        sinks: Option<&'a [f32]>,
    ) -> Self {
        let Attention { heads, kv_heads, key_dim, value_dim, first, .. } = *args;
        let (lanes, first) = (isa.lanes(), first % SPAN);
        Self {
            args,
            isa,
            q,
            keys: View::new(k),
            values: View::new(v),
            sinks,
            t: q.len() / (heads * key_dim),
            first,
            end: first + k.rows / kv_heads,
            group: heads / kv_heads,
            key_line: key_dim.next_multiple_of(lanes),
            value_line: value_dim.next_multiple_of(lanes),
        }
    }

    /// The slots that a row sees. Both ends grow with the row.
    #[inline(always)]
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        let p = self.end - self.t + row / self.group;
        let end = if self.args.causal { p + 1 } else { self.end };
        self.args.window.map_or(0, |w| (p + 1).saturating_sub(w)).max(self.first)..end
    }

    /// The slots that any of some rows sees.
    #[inline(always)]
    pub(super) fn seen(&self, rows: Range<usize>) -> Range<usize> {
        self.visible(rows.start).start..self.visible(rows.end - 1).end
    }

    /// Index of a row's query and head in `[t, heads]`.
    #[inline(always)]
    pub(super) fn position(&self, head: usize, row: usize) -> usize {
        row / self.group * self.args.heads + head * self.group + row % self.group
    }

    /// Floats of a [`Part`] of `rows`, in whole cache lines.
    pub(super) fn part_size(&self, rows: usize) -> usize {
        (rows * (self.value_line + 2)).next_multiple_of(16)
    }

    /// Floats of a [`Work`] for `rows`.
    pub(super) fn work_size(&self, rows: usize) -> usize {
        rows * (self.key_line + BLOCK) + BLOCK * (self.key_line + self.value_line)
    }
}

/// The softmax of some rows over some slots, not yet normalized.
pub(super) struct Part<'a> {
    /// `[rows, value_line]`: `Σ e^(score - max) value`.
    pub(super) sums: &'a mut [f32],
    /// Largest score of each row, -inf if it has seen nothing.
    pub(super) max: &'a mut [f32],
    /// `Σ e^(score - max)` of each row.
    pub(super) weight: &'a mut [f32],
}

impl<'a> Part<'a> {
    /// Takes [`Problem::part_size`] floats.
    pub(super) fn new(memory: &'a mut [f32], rows: usize, value_line: usize) -> Self {
        let (sums, rest) = memory.split_at_mut(rows * value_line);
        let (max, rest) = rest.split_at_mut(rows);
        Self { sums, max, weight: &mut rest[..rows] }
    }

    pub(super) fn clear(&mut self) {
        self.sums.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.weight.fill(0.0);
    }
}

/// Memory for one tile.
pub(super) struct Work<'a> {
    /// `[rows, key_line]`: queries times the scale.
    q: &'a mut [f32],
    /// `[rows, BLOCK]`.
    scores: &'a mut [f32],
    /// `[BLOCK, key_line]`.
    keys: &'a mut [f32],
    /// `[BLOCK, value_line]`.
    values: &'a mut [f32],
}

impl<'a> Work<'a> {
    /// Takes [`Problem::work_size`] floats and copies the queries of `rows` into them.
    pub(super) fn new(problem: &Problem<'_>, head: usize, rows: Range<usize>, memory: &'a mut [f32]) -> Self {
        let n = rows.len();
        let (q, rest) = memory.split_at_mut(n * problem.key_line);
        let (scores, rest) = rest.split_at_mut(n * BLOCK);
        let (keys, values) = rest.split_at_mut(BLOCK * problem.key_line);
        let dim = problem.args.key_dim;
        for (line, row) in q.chunks_exact_mut(problem.key_line).zip(rows) {
            let at = problem.position(head, row) * dim;
            for (q, x) in line.iter_mut().zip(&problem.q[at..at + dim]) {
                *q = x * problem.args.scale;
            }
            line[dim..].fill(0.0);
        }
        Self { q, scores, keys, values: &mut values[..BLOCK * problem.value_line] }
    }
}

/// Decodes the lines of some slots of one key-value head.
pub(super) struct Gather<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) heads: usize,
    pub(super) head: usize,
    /// Numbers of the matrix' own, from 0.
    pub(super) slots: Range<usize>,
    pub(super) out: &'a mut [f32],
    /// Floats of a line: the columns rounded up to whole vectors, or more, which are left as they are.
    pub(super) line: usize,
}

impl Gather<'_> {
    pub(super) fn run(self, isa: Isa) {
        let view = self.view;
        view.visit(GatherOn(self, isa));
    }
}

struct GatherOn<'a>(Gather<'a>, Isa);

impl Visitor for GatherOn<'_> {
    type Output = ();
    fn visit<C: Codec>(self, _: C) {
        self.1.run(GatherOp::<C>(self.0, PhantomData));
    }
}

struct GatherOp<'a, C>(Gather<'a>, PhantomData<C>);

impl<C: Codec> SimdOp for GatherOp<'_, C> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        /// Slots ahead: lines of one head are too far apart for the processor to guess, and the next block's come while this
        /// one is worked on.
        const AHEAD: usize = BLOCK;
        let Gather { view, heads, head, slots, out, line } = self.0;
        assert!(view.cols.next_multiple_of(S::LANES) <= line);
        for (slot, out) in slots.zip(out.chunks_exact_mut(line)) {
            let row = slot * heads + head;
            let next = row + AHEAD * heads;
            if next < view.rows {
                for at in (0..view.row_bytes).step_by(64) {
                    s.prefetch(view.row(next).wrapping_add(at));
                }
            }
            // SAFETY: `visit` gave the view's own form; a line holds the columns rounded up to whole vectors.
            unsafe { view.decode::<C, S>(s, row, 0..view.cols, out.as_mut_ptr()) };
        }
    }
}

/// One tile against one span: what [`SpanOp`] adds up.
pub(super) struct SpanOp<'a, 'b> {
    pub(super) problem: &'a Problem<'a>,
    /// The key-value head.
    pub(super) head: usize,
    pub(super) rows: Range<usize>,
    /// Slots `span * SPAN` and following.
    pub(super) span: usize,
    pub(super) work: &'a mut Work<'b>,
    pub(super) part: &'a mut Part<'b>,
}

impl SimdOp for SpanOp<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(mut self, s: S) {
        let problem = self.problem;
        self.part.clear();
        let seen = problem.seen(self.rows.clone());
        let (start, end) = (seen.start.max(self.span * SPAN), seen.end.min((self.span + 1) * SPAN));
        let mut block = start / BLOCK * BLOCK;
        while block < end {
            let slots = start.max(block)..end.min(block + BLOCK);
            let part = (self.head, self.rows.len());
            let (keys, form) = lines::<S>(problem, &problem.keys, part, slots.clone(), self.work.keys);
            match form {
                Float::F32 => self.score::<S, DenseF32>(s, keys, block, slots.clone()),
                Float::F16 => self.score::<S, DenseF16>(s, keys, block, slots.clone()),
                Float::Bf16 => self.score::<S, DenseBf16>(s, keys, block, slots.clone()),
            }
            for i in 0..self.rows.len() {
                self.weigh(s, i, block);
            }
            let (values, form) = lines::<S>(problem, &problem.values, part, slots.clone(), self.work.values);
            match form {
                Float::F32 => self.accumulate::<S, DenseF32>(s, values, block, slots),
                Float::F16 => self.accumulate::<S, DenseF16>(s, values, block, slots),
                Float::Bf16 => self.accumulate::<S, DenseBf16>(s, values, block, slots),
            }
            block += BLOCK;
        }
    }
}

/// Most rows that read keys and values where they lie. More read a line several times: then a copy is worth its cost, because
/// lines at a distance of a power of two fall into few sets of the cache.
pub(super) const ROWS_IN_PLACE: usize = 8;

/// Slots ahead of the one in use that memory is asked for, so that the lines of one head, too far apart for the processor to
/// guess, are there in time.
const AHEAD: usize = 32;

/// The lines of `slots` and what they are made of: where they lie, or decoded into `memory`.
#[inline(always)]
fn lines<S: Simd>(
    problem: &Problem<'_>,
    view: &View<'_>,
    (head, rows): (usize, usize),
    slots: Range<usize>,
    memory: &mut [f32],
) -> (Stored, Float) {
    let heads = problem.args.kv_heads;
    let slots = slots.start - problem.first..slots.end - problem.first;
    match view.elements {
        Elements::Dense(form, _) if rows <= ROWS_IN_PLACE && view.cols.is_multiple_of(S::LANES) => {
            let stride = heads * view.row_bytes;
            (Stored { first: view.row(slots.start * heads + head), stride, ahead: AHEAD * stride }, form)
        }
        _ => {
            let line = memory.len() / BLOCK;
            Gather { view, heads, head, slots, out: memory, line }.run(problem.isa);
            (Stored { first: memory.as_ptr().cast(), stride: 4 * line, ahead: 0 }, Float::F32)
        }
    }
}

impl SpanOp<'_, '_> {
    /// Rows of a register block, of those that are left; with as many columns and their operands they fill the register file.
    #[inline(always)]
    fn rows_at_once<S: Simd>(left: usize) -> usize {
        match left {
            7.. if S::REGISTERS >= 32 => 7,
            4.. if S::REGISTERS >= 32 => 4,
            3 if S::REGISTERS >= 32 => 3,
            _ => left.min(2),
        }
    }

    /// Scores of all rows for the slots that they see, and of some that they do not.
    #[inline(always)]
    fn score<S: Simd, C: Codec>(&mut self, s: S, keys: Stored, block: usize, slots: Range<usize>) {
        let (n, line) = (self.rows.len(), self.problem.key_line);
        let mut i = 0;
        while i < n {
            let mut count = Self::rows_at_once::<S>(n - i);
            let seen = self.problem.seen(self.rows.start + i..self.rows.start + i + count);
            let (first, end) = (seen.start.max(slots.start), seen.end.min(slots.end));
            let few = end < first + 4;
            if few {
                count = 1;
            }
            let q = Lines { first: self.work.q[i * line..].as_ptr(), stride: line };
            let mut slot = first;
            while slot < end {
                // The last block of columns may overlap the one before: the same numbers are computed again.
                let at = if few { slot } else { slot.min(end - 4) };
                let out = self.work.scores[i * BLOCK + at - block..].as_mut_ptr();
                // SAFETY: `count` lines of queries and of scores from row `i` on, 4 (or 1) lines of keys and columns of
                // scores from `at` on exist; lines hold `key_line` floats.
                unsafe {
                    let keys = keys.from(at - slots.start);
                    match count {
                        1 if few => dots::<S, C, 1, 1>(s, q, keys, line, out),
                        7 if S::REGISTERS >= 32 => dots::<S, C, 7, 4>(s, q, keys, line, out),
                        4 if S::REGISTERS >= 32 => dots::<S, C, 4, 4>(s, q, keys, line, out),
                        3 if S::REGISTERS >= 32 => dots::<S, C, 3, 4>(s, q, keys, line, out),
                        2 => dots::<S, C, 2, 4>(s, q, keys, line, out),
                        _ => dots::<S, C, 1, 4>(s, q, keys, line, out),
                    }
                }
                slot += if few { 1 } else { 4 };
            }
            i += count;
        }
    }

    /// Turns a row's scores into `e^(score - max)`, 0 for slots that it does not see, and brings its sums to the new maximum.
    ///
    /// A whole block is added up whatever is visible of it, so that a row's bits do not depend on where `slots` ends.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, i: usize, block: usize) {
        let seen = self.problem.visible(self.rows.start + i);
        let first = seen.start.clamp(block, block + BLOCK) - block;
        let end = seen.end.clamp(block, block + BLOCK) - block;
        let scores = &mut self.work.scores[i * BLOCK..(i + 1) * BLOCK];
        if first >= end {
            scores.fill(0.0);
            return;
        }
        scores[..first].fill(f32::NEG_INFINITY);
        scores[end..].fill(f32::NEG_INFINITY);
        if let Some(cap) = self.problem.args.softcap {
            cap_scores(s, &mut scores[first..end], cap);
        }
        let old = self.part.max[i];
        let new = old.max(reduce::max(s, scores));
        // With -inf or NaN alone there is no maximum to subtract; NaN must come out as NaN.
        let shift = if new == f32::NEG_INFINITY { 0.0 } else { new };
        let sum = exponentials(s, scores, shift);
        let line = self.problem.value_line;
        if old != new {
            let factor = exp1(s, old - shift);
            rescale(s, &mut self.part.sums[i * line..(i + 1) * line], factor);
            self.part.weight[i] *= factor;
        }
        self.part.max[i] = new;
        self.part.weight[i] += sum;
    }

    /// Adds the weighted values.
    #[inline(always)]
    fn accumulate<S: Simd, C: Codec>(&mut self, s: S, values: Stored, block: usize, slots: Range<usize>) {
        let (n, line) = (self.rows.len(), self.problem.value_line);
        let mut i = 0;
        while i < n {
            let count = Self::rows_at_once::<S>(n - i);
            let seen = self.problem.seen(self.rows.start + i..self.rows.start + i + count);
            let (first, end) = (seen.start.max(slots.start), seen.end.min(slots.end));
            if first < end {
                let weights = Lines { first: self.work.scores[i * BLOCK + first - block..].as_ptr(), stride: BLOCK };
                let sums = &mut self.part.sums[i * line..(i + count) * line];
                // SAFETY: `count` lines of weights with `end - first` columns, `end - first` lines of values and `count`
                // lines of sums of `line` floats, whole vectors, exist.
                unsafe {
                    let values = values.from(first - slots.start);
                    match count {
                        7 if S::REGISTERS >= 32 => axpy::<S, C, 7>(s, weights, values, end - first, sums),
                        4 if S::REGISTERS >= 32 => axpy::<S, C, 4>(s, weights, values, end - first, sums),
                        3 if S::REGISTERS >= 32 => axpy::<S, C, 3>(s, weights, values, end - first, sums),
                        2 => axpy::<S, C, 2>(s, weights, values, end - first, sums),
                        _ => axpy::<S, C, 1>(s, weights, values, end - first, sums),
                    }
                }
            }
            i += count;
        }
    }
}

#[inline(always)]
fn cap_scores<S: Simd>(s: S, scores: &mut [f32], cap: f32) {
    let cap = s.splat(cap);
    let mut vectors = scores.chunks_exact_mut(S::LANES);
    for v in &mut vectors {
        // SAFETY: the part has LANES elements.
        unsafe { s.store(v.as_mut_ptr(), s.mul(cap, math::tanh(s, s.div(s.load(v.as_ptr()), cap)))) };
    }
    let tail = vectors.into_remainder();
    if !tail.is_empty() {
        let n = tail.len();
        // SAFETY: the tail has n < LANES elements.
        unsafe {
            let capped = s.mul(cap, math::tanh(s, s.div(s.load_part(tail.as_ptr(), n), cap)));
            s.store_part(tail.as_mut_ptr(), capped, n);
        }
    }
}

/// Replaces each of a block's scores by `e^(score - shift)` and returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(s: S, scores: &mut [f32], shift: f32) -> f32 {
    const { assert!(BLOCK.is_multiple_of(S::LANES)) };
    let shift = s.splat(shift);
    let mut sum = s.splat(0.0);
    for v in scores.chunks_exact_mut(S::LANES) {
        // SAFETY: the part has LANES elements.
        unsafe {
            let e = math::exp(s, s.sub(s.load(v.as_ptr()), shift));
            s.store(v.as_mut_ptr(), e);
            sum = s.add(sum, e);
        }
    }
    s.sum(sum)
}

#[inline(always)]
fn exp1<S: Simd>(s: S, x: f32) -> f32 {
    s.max_lane(math::exp(s, s.splat(x)))
}

/// Multiplies a line of whole vectors.
#[inline(always)]
fn rescale<S: Simd>(s: S, line: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    for v in line.chunks_exact_mut(S::LANES) {
        // SAFETY: the part has LANES elements.
        unsafe { s.store(v.as_mut_ptr(), s.mul(s.load(v.as_ptr()), factor)) };
    }
}

/// Adds a part to the total of the parts before it.
pub(super) struct MergeOp<'a, 'b> {
    pub(super) total: &'a mut Part<'b>,
    pub(super) part: &'a Part<'b>,
}

impl SimdOp for MergeOp<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Self { total, part } = self;
        let line = total.sums.len() / total.max.len();
        for i in 0..total.max.len() {
            let (a, b) = (total.max[i], part.max[i]);
            if b == f32::NEG_INFINITY && part.weight[i] == 0.0 {
                // The row saw nothing in this span. Adding zeros would do no harm, but take time.
                continue;
            }
            let max = a.max(b);
            let (old, new) =
                (if a == max { 1.0 } else { exp1(s, a - max) }, if b == max { 1.0 } else { exp1(s, b - max) });
            total.max[i] = max;
            total.weight[i] = total.weight[i] * old + part.weight[i] * new;
            let (old, new) = (s.splat(old), s.splat(new));
            let sums = total.sums[i * line..(i + 1) * line].chunks_exact_mut(S::LANES);
            for (to, from) in sums.zip(part.sums[i * line..(i + 1) * line].chunks_exact(S::LANES)) {
                // SAFETY: the parts have LANES elements.
                unsafe {
                    let sum = s.fma(s.load(to.as_ptr()), old, s.mul(s.load(from.as_ptr()), new));
                    s.store(to.as_mut_ptr(), sum);
                }
            }
        }
    }
}

/// One row's result: the total, normalized.
pub(super) struct FinishOp<'a> {
    pub(super) sums: &'a [f32],
    pub(super) max: f32,
    pub(super) weight: f32,
    pub(super) sink: Option<f32>,
    pub(super) out: &'a mut [f32],
}

impl SimdOp for FinishOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let (mut factor, mut weight) = (1.0, self.weight);
        if let Some(sink) = self.sink {
            let max = self.max.max(sink);
            if self.max != max {
                factor = exp1(s, self.max - max);
            }
            weight = weight * factor + if sink == max { 1.0 } else { exp1(s, sink - max) };
        }
        let factor = if weight == 0.0 { 0.0 } else { factor / weight };
        for (out, sum) in self.out.iter_mut().zip(self.sums) {
            // Weights of 0 may have turned a sum of -0 to 0, depending on the tile: adding 0 makes that always so.
            *out = sum * factor + 0.0;
        }
    }
}
