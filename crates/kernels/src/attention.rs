//! Scaled dot-product attention over a cache of keys and values in any storage form.
//!
//! The keys are read once, in blocks, with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022). Slots are cut
//! into spans of a fixed size, counted from number 0, whatever number the first slot has; each span is summed up from nothing, and the sums are merged in order of
//! slots. So it is the same arithmetic whether one thread walks through all spans or many threads take some each, and:
//!
//! - the bits of a query's result do not depend on the number of threads;
//! - nor on the number of queries in the call, as long as the query sees the same slots, numbered alike. (Values in slots
//!   that it does not see must be finite.)

mod kernel;
mod products;
mod tiled;

use std::ops::Range;

use crate::split::Shared;
use crate::weights::{Matrix, Precision};
use crate::{Cpu, scratch};
use kernel::{FinishOp, MergeOp, Part, Problem, ROWS_IN_PLACE, SPAN, SpanOp, TILE, Work};

/// What kind of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads of the queries: a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values; query head `h` looks at `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Numbers in a query and in a key.
    pub key_dim: usize,
    /// Numbers in a value and in a result.
    pub value_dim: usize,
    /// Factor of the scores, usually `1 / √key_dim`.
    pub scale: f32,
    /// Scores become `cap tanh(score / cap)` before the mask.
    pub softcap: Option<f32>,
    /// A query at slot `p` sees only slots `i > p - window`; at least 1.
    pub window: Option<usize>,
    /// A query at slot `p` sees only slots `i <= p`.
    pub causal: bool,
    /// Number of slot 0, from which a cache that forgets goes on: the same keys under the same numbers give the same bits.
    pub first: usize,
    /// How exactly it is computed: unless [`Precision::Exact`], many queries may be rounded to bf16, with all that they meet,
    /// where the processor multiplies that faster. Up to [`Precision::rows_as_alone`] queries have the bits that each has alone.
    pub precision: Precision,
}

/// Floats that partial results of one call may take: then the spans are worked off in several waves.
const PARTS: usize = if cfg!(test) { 1 << 15 } else { 4 << 20 };

/// `out = softmax(scale q kᵀ) v` for each head.
///
/// - `q` is `[t, heads, key_dim]`, `out` `[t, heads, value_dim]`.
/// - `k` is a matrix of `s * kv_heads` rows (token, then head) of `key_dim`, `v` likewise of `value_dim`.
/// - The queries are the last `t` of the `s` slots: query `j` stands at slot `s - t + j`.
/// - `sinks` has one logit per head, which joins the denominator of the softmax and has no value.
///
/// A query that sees nothing gives 0. NaN in what it sees gives NaN. Against exact arithmetic on the same stored numbers the
/// error is within 2e-6 of the largest value seen, for scores below 10; it grows with the scores' own rounding.
pub fn sdpa(
    cpu: &Cpu,
    args: &Attention,
    q: &[f32],
    k: &Matrix<'_>,
    v: &Matrix<'_>,
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    let Attention { heads, kv_heads, key_dim, value_dim, .. } = *args;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads share {kv_heads}");
    assert!(key_dim > 0 && value_dim > 0 && args.window != Some(0), "{args:?}");
    let t = q.len() / (heads.max(1) * key_dim);
    assert_eq!(q.len(), t * heads * key_dim, "queries are [t, {heads}, {key_dim}]");
    assert_eq!(out.len(), t * heads * value_dim, "results are [{t}, {heads}, {value_dim}]");
    assert!(k.rows == v.rows && k.rows.is_multiple_of(kv_heads), "{} keys, {} values", k.rows, v.rows);
    assert!(k.cols == key_dim && v.cols == value_dim, "keys of {}, values of {}: {args:?}", k.cols, v.cols);
    assert!(sinks.is_none_or(|sinks| sinks.len() == heads), "a sink for each of {heads} heads");
    let s = k.rows / kv_heads;
    assert!(t <= s, "{t} queries at the end of {s} slots");
    if out.is_empty() {
        return;
    }
    let problem = Problem::new(cpu.isa, args, q, k, v, sinks);
    if let Some(unit) = tiled::unit_for(cpu.isa, args.precision, t) {
        return tiled::sdpa_on(unit, cpu, problem, out);
    }
    let tiles = Tiles { problem, out: Shared::new(out) };
    // With fewer tiles than this some threads would wait for others at the end, or have nothing to do at all.
    let idle = cpu.pool.threads() > 1 && tiles.count() < 4 * cpu.pool.threads();
    // Rows that read keys and values where they lie take those of all heads in turns, as they follow each other in memory.
    if (idle || tiles.rows() <= ROWS_IN_PLACE) && tiles.spans().len() > 1 {
        tiles.run_split(cpu);
    } else {
        // The last tiles see the most under a causal mask: first the long tasks, then the short ones to fill the gaps.
        cpu.pool.run(tiles.count(), &|i| tiles.run(tiles.count() - 1 - i));
    }
}

/// A problem cut into tiles: the rows of each key-value head, [`TILE`] at a time.
struct Tiles<'a> {
    problem: Problem<'a>,
    out: Shared<'a>,
}

impl Tiles<'_> {
    fn rows(&self) -> usize {
        self.problem.t * self.problem.group
    }

    /// Tiles, ordered by rows, then heads.
    fn count(&self) -> usize {
        self.rows().div_ceil(TILE) * self.problem.args.kv_heads
    }

    /// Head and rows of a tile.
    fn tile(&self, i: usize) -> (usize, Range<usize>) {
        let kv_heads = self.problem.args.kv_heads;
        let start = i / kv_heads * TILE;
        (i % kv_heads, start..(start + TILE).min(self.rows()))
    }

    /// The spans that any query sees.
    fn spans(&self) -> Range<usize> {
        spans(self.problem.seen(0..self.rows()))
    }

    /// Computes one tile from beginning to end.
    fn run(&self, i: usize) {
        let (head, rows) = self.tile(i);
        let (problem, n) = (&self.problem, rows.len());
        let part_size = problem.part_size(n);
        scratch::floats(problem.work_size(n) + 2 * part_size, |memory| {
            let (work, parts) = memory.split_at_mut(problem.work_size(n));
            let (total, part) = parts.split_at_mut(part_size);
            let mut work = Work::new(problem, head, rows.clone(), work);
            let mut total = Part::new(total, n, problem.value_line);
            total.clear();
            let mut part = Part::new(part, n, problem.value_line);
            for span in spans(problem.seen(rows.clone())) {
                let (work, part) = (&mut work, &mut part);
                problem.isa.run(SpanOp { problem, head, rows: rows.clone(), span, work, part: &mut *part });
                problem.isa.run(MergeOp { total: &mut total, part });
            }
            self.finish(head, rows, &total);
        });
    }

    /// Computes all tiles, each span of each a task of its own.
    fn run_split(&self, cpu: &Cpu) {
        let (problem, tiles, all) = (&self.problem, self.count(), self.spans());
        let part_size = problem.part_size(TILE.min(self.rows()));
        let wave = (PARTS / (tiles * part_size)).clamp(1, all.len());
        scratch::shared_floats((wave + 1) * tiles * part_size, |memory| {
            let shared = Shared::new(memory);
            // SAFETY: at every use, a slot of memory has one user at a time: in the first loop below the task that fills it,
            // in the second the task of its tile. The total of a tile is slot `wave`.
            let slot = |tile: usize, span: usize, rows: usize| unsafe {
                let at = (tile * (wave + 1) + span) * part_size;
                Part::new(shared.range(at, at + part_size), rows, problem.value_line)
            };
            for first in all.clone().step_by(wave) {
                let count = wave.min(all.end - first);
                // Lines of all heads follow each other, and a processor that guesses fetches those of the others as well: one
                // thread had better use them all.
                let heads = if count >= 4 * cpu.pool.threads() { tiles } else { 1 };
                cpu.pool.run(tiles * count / heads, &|task| {
                    for i in task * heads..(task + 1) * heads {
                        let (tile, span) = (i % tiles, i / tiles);
                        let (head, rows) = self.tile(tile);
                        scratch::floats(problem.work_size(rows.len()), |memory| {
                            let work = &mut Work::new(problem, head, rows.clone(), memory);
                            let part = &mut slot(tile, span, rows.len());
                            problem.isa.run(SpanOp { problem, head, rows, span: first + span, work, part });
                        });
                    }
                });
                cpu.pool.run(tiles, &|tile| {
                    let (head, rows) = self.tile(tile);
                    let mut total = slot(tile, wave, rows.len());
                    if first == all.start {
                        total.clear();
                    }
                    for span in 0..count {
                        problem.isa.run(MergeOp { total: &mut total, part: &slot(tile, span, rows.len()) });
                    }
                    if first + count == all.end {
                        self.finish(head, rows, &total);
                    }
                });
            }
        });
    }

    /// Writes the results of a tile.
    fn finish(&self, head: usize, rows: Range<usize>, total: &Part<'_>) {
        let (problem, dim) = (&self.problem, self.problem.args.value_dim);
        for (i, row) in rows.enumerate() {
            let position = problem.position(head, row);
            let sums = &total.sums[i * problem.value_line..][..dim];
            let sink = problem.sinks.map(|sinks| sinks[position % problem.args.heads]);
            // SAFETY: each position belongs to one row of one tile, and each tile is finished by one task.
            let out = unsafe { self.out.range(position * dim, (position + 1) * dim) };
            problem.isa.run(FinishOp { sums, max: total.max[i], weight: total.weight[i], sink, out });
        }
    }
}

/// The spans that hold some slots.
fn spans(slots: Range<usize>) -> Range<usize> {
    spans_of(SPAN, slots)
}

/// The spans of `size` slots that hold some slots.
fn spans_of(size: usize, slots: Range<usize>) -> Range<usize> {
    slots.start / size..slots.end.div_ceil(size)
}

#[cfg(test)]
mod tests;
