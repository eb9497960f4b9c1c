//! Many queries on units that multiply tiles of bf16: AMX, or vectors of bf16 where there is no AMX.
//!
//! Queries and weights are left operands, as rows of tiles; keys and values are right ones, laid out once for all rows of a
//! task: keys by columns, values as pairs of slots. Scores of a strip of rows against a block of slots stay in the first cache
//! until they are weighed and have met the values.
//!
//! Blocks are counted from slot 0, so a query's bits depend on what it sees alone. Queries, keys, values and weights keep 8
//! bits: a score errs by at most `(2⁻⁷ + 2⁻¹⁶ + (key_dim + 2) · 2⁻²⁴) · scale · Σ |q| |k|`, each weight by this and by a factor of
//! `1 ± 2⁻⁸`, each value by `2⁻⁸` of itself.

use std::ops::Range;

use super::kernel::{FinishOp, Gather, Problem};
use super::spans_of;
use crate::arch::tiles::{Block, DEPTH, Inputs, SIDE, SUMS, Softmax, TILE, TileOps};
use crate::codec::View;
use crate::matmul::TileUnit;
use crate::scratch;
use crate::split::Shared;
use crate::weights::Precision;
use crate::{Cpu, Isa};

/// Slots whose scores are weighed together. Part of the arithmetic.
const BLOCK: usize = 128;
/// Most rows (a query of a head) of a task: enough of them to make nothing of the layout of a block.
const MOST_ROWS: usize = 512;
/// Fewest rows of a task that are worth the layout.
const LEAST_ROWS: usize = 64;
/// Fewest queries that are computed so.
const LEAST_QUERIES: usize = 16;
const _: () = assert!(LEAST_QUERIES > crate::matmul::FEW_ROWS, "few queries are computed as one is");

/// The unit for so many queries, if the precision allows one and the processor has one that is faster than single precision.
pub(super) fn unit_for(isa: Isa, precision: Precision, queries: usize) -> Option<TileUnit> {
    if precision == Precision::Exact || queries < LEAST_QUERIES { None } else { TileUnit::best(isa) }
}

/// Solves a problem of any number of queries on a unit of choice.
pub(super) fn sdpa_on(unit: TileUnit, cpu: &Cpu, problem: Problem<'_>, out: &mut [f32]) {
    let job = Job { problem, out: Shared::new(out) };
    match unit {
        TileUnit::Scalar(unit) => job.run(unit, cpu),
        #[cfg(target_arch = "x86_64")]
        TileUnit::Bf16(unit) => job.run(unit, cpu),
        #[cfg(target_arch = "x86_64")]
        TileUnit::Amx(unit) => job.run(unit, cpu),
    }
}

struct Job<'a> {
    problem: Problem<'a>,
    out: Shared<'a>,
}

/// Sizes in tiles, and so of a task's memory.
#[derive(Clone, Copy)]
struct Sizes {
    /// Strips of 16 rows.
    strips: usize,
    /// Steps of 32 columns of a key, and strips of 16 columns of a value.
    key_steps: usize,
    value_strips: usize,
    /// Floats of a decoded key or value.
    line: usize,
}

/// Strips of slots in a block, and the steps of its weights.
const SLOT_STRIPS: usize = BLOCK / SIDE;
const SLOT_STEPS: usize = BLOCK / DEPTH;

/// A task's memory; tiles of bf16 are counted in floats, two elements each.
struct Memory<'a> {
    /// `[strips][key_steps]` tiles of queries.
    queries: &'a mut [f32],
    /// `[SLOT_STRIPS][key_steps]` tiles of keys, `[value_strips][SLOT_STEPS]` of values.
    keys: &'a mut [f32],
    values: &'a mut [f32],
    /// `[BLOCK, line]` decoded keys or values.
    lines: &'a mut [f32],
    /// `[T::ROWS][SLOT_STRIPS]` tiles of scores, `[T::ROWS][SLOT_STEPS]` of weights.
    scores: &'a mut [f32],
    weights: &'a mut [f32],
    /// `[strips][value_strips]` tiles, and the totals and maxima that [`Softmax`] has.
    sums: &'a mut [f32],
    totals: &'a mut [f32],
    max: &'a mut [f32],
}

impl Sizes {
    /// Lends the memory.
    fn lend<T: TileOps>(self, work: impl FnOnce(Memory<'_>)) {
        let Sizes { strips, key_steps, value_strips, line } = self;
        let sizes = [
            strips * key_steps * TILE / 2,
            SLOT_STRIPS * key_steps * TILE / 2,
            value_strips * SLOT_STEPS * TILE / 2,
            BLOCK * line,
            T::ROWS * SLOT_STRIPS * SUMS,
            T::ROWS * SLOT_STEPS * TILE / 2,
            strips * value_strips * SUMS,
            strips * SUMS,
            strips * SIDE,
        ];
        scratch::floats(sizes.iter().sum(), |mut rest| {
            let [queries, keys, values, lines, scores, weights, sums, totals, max] = sizes.map(|size| {
                let (part, more) = std::mem::take(&mut rest).split_at_mut(size);
                rest = more;
                part
            });
            work(Memory { queries, keys, values, lines, scores, weights, sums, totals, max });
        });
    }
}

impl Job<'_> {
    fn run<T: TileOps>(&self, unit: T, cpu: &Cpu) {
        let (all, kv_heads) = (self.problem.t * self.problem.group, self.problem.args.kv_heads);
        // Some tasks a thread, so that all end together.
        let even = (all * kv_heads).div_ceil(4 * cpu.pool.threads());
        let rows = even.clamp(LEAST_ROWS, MOST_ROWS).next_multiple_of(T::ROWS * SIDE);
        let tasks = all.div_ceil(rows) * kv_heads;
        // The last rows see the most under a causal mask: first the long tasks, then the short ones to fill the gaps.
        cpu.pool.run(tasks, &|i| {
            let start = (tasks - 1 - i) / kv_heads * rows;
            self.task(unit, i % kv_heads, start..all.min(start + rows));
        });
    }

    /// Computes some rows of a key-value head.
    fn task<T: TileOps>(&self, unit: T, head: usize, rows: Range<usize>) {
        let problem = &self.problem;
        let args = problem.args;
        let sizes = Sizes {
            strips: rows.len().div_ceil(SIDE),
            key_steps: args.key_dim.div_ceil(DEPTH),
            value_strips: args.value_dim.div_ceil(SIDE),
            line: args.key_dim.next_multiple_of(DEPTH).max(args.value_dim.next_multiple_of(SIDE)),
        };
        sizes.lend::<T>(|mut memory| {
            memory.sums.fill(0.0);
            memory.totals.fill(0.0);
            memory.max.fill(f32::NEG_INFINITY);
            let task = Task { job: self, unit, head, rows: rows.clone(), sizes };
            task.lay_queries(memory.queries);
            let mut session = unit.begin();
            let seen = problem.seen(rows);
            for block in spans_of(BLOCK, seen.clone()) {
                let start = block * BLOCK;
                let slots = seen.start.max(start)..seen.end.min(start + BLOCK);
                task.lay_block(start, slots, &mut memory);
                for strip in (0..sizes.strips).step_by(T::ROWS) {
                    task.step(&mut session, start, strip, &mut memory);
                }
            }
            drop(session);
            task.finish(&mut memory);
        });
    }
}

/// Rows of one key-value head that share blocks as they are laid out.
struct Task<'a, T> {
    job: &'a Job<'a>,
    unit: T,
    head: usize,
    rows: Range<usize>,
    sizes: Sizes,
}

impl<T: TileOps> Task<'_, T> {
    /// Rounds the queries, times the scale. Rows beyond the last are zero.
    fn lay_queries(&self, to: &mut [f32]) {
        let (problem, steps) = (&self.job.problem, self.sizes.key_steps);
        let dim = problem.args.key_dim;
        for i in 0..self.sizes.strips * SIDE {
            let row = self.rows.start + i;
            let query =
                if row < self.rows.end { &problem.q[problem.position(self.head, row) * dim..][..dim] } else { &[] };
            for step in 0..steps {
                let part = &query[(step * DEPTH).min(query.len())..];
                let line = &mut to[(i / SIDE * steps + step) * TILE / 2 + i % SIDE * DEPTH / 2..][..DEPTH / 2];
                // SAFETY: the columns lie in the query, the line in the tile.
                unsafe {
                    self.unit.line(part.as_ptr(), part.len().min(DEPTH), problem.args.scale, line.as_mut_ptr().cast())
                };
            }
        }
    }

    /// Lays out the keys and values of the block from `start` on, zero outside of `slots`.
    fn lay_block(&self, start: usize, slots: Range<usize>, memory: &mut Memory<'_>) {
        let (problem, sizes) = (&self.job.problem, self.sizes);
        let used = (slots.end - start).next_multiple_of(DEPTH);
        self.decode(&problem.keys, start, slots.clone(), memory.lines);
        for (strip, slot) in (0..used).step_by(SIDE).enumerate() {
            for step in 0..sizes.key_steps {
                let x = memory.lines[slot * sizes.line + step * DEPTH..].as_ptr();
                let cols = DEPTH.min(problem.args.key_dim - step * DEPTH);
                let from = Inputs { x, stride: sizes.line, rows: SIDE, cols };
                let to = memory.keys[(strip * sizes.key_steps + step) * TILE / 2..][..TILE / 2].as_mut_ptr();
                // SAFETY: the lines of a strip lie in the memory, and so does the tile.
                unsafe { self.unit.pack(from, to.cast()) };
            }
        }
        self.decode(&problem.values, start, slots, memory.lines);
        for strip in 0..sizes.value_strips {
            for (step, slot) in (0..used).step_by(DEPTH).enumerate() {
                let x = memory.lines[slot * sizes.line + strip * SIDE..].as_ptr();
                let from = Inputs { x, stride: sizes.line, rows: DEPTH, cols: SIDE };
                let to = memory.values[(strip * SLOT_STEPS + step) * TILE / 2..][..TILE / 2].as_mut_ptr();
                // SAFETY: as above; a line is whole strips of columns.
                unsafe { self.unit.pair(from, to.cast()) };
            }
        }
    }

    /// Decodes lines of floats, zero outside of `slots` and behind the last column.
    fn decode(&self, view: &View<'_>, start: usize, slots: Range<usize>, to: &mut [f32]) {
        let (problem, line) = (&self.job.problem, self.sizes.line);
        let end = (slots.end - start).next_multiple_of(DEPTH);
        to[..(slots.start - start) * line].fill(0.0);
        to[(slots.end - start) * line..end * line].fill(0.0);
        let out = &mut to[(slots.start - start) * line..(slots.end - start) * line];
        let whole = view.cols.next_multiple_of(problem.isa.lanes());
        out.chunks_exact_mut(line).for_each(|line| line[whole..].fill(0.0));
        let slots = slots.start - problem.first..slots.end - problem.first;
        let gather = Gather { view, heads: problem.args.kv_heads, head: self.head, slots, out, line };
        gather.run(problem.isa);
    }

    /// Scores, weights and weighted values of a block from `start` on for some strips.
    fn step(&self, session: &mut T::Session, start: usize, strip: usize, memory: &mut Memory<'_>) {
        let Sizes { strips, key_steps, value_strips, .. } = self.sizes;
        let count = T::ROWS.min(strips - strip);
        let seen: [[Range<usize>; SIDE]; 2] = std::array::from_fn(|i| self.seen(start, strip + i));
        const { assert!(T::ROWS <= 2, "as many strips have their slots here") };
        let Some(end) = seen[..count].iter().flatten().map(|seen| seen.end).max().filter(|end| *end > 0) else {
            return;
        };
        let steps = end.div_ceil(DEPTH);
        let scores = Block {
            weights: memory.queries[strip * key_steps * TILE / 2..].as_ptr().cast(),
            weights_stride: key_steps * TILE,
            inputs: memory.keys.as_ptr().cast(),
            inputs_stride: key_steps * TILE,
            sums: memory.scores.as_mut_ptr(),
            sums_stride: SLOT_STRIPS * SUMS,
            rows: count,
            cols: 2 * steps,
            steps: key_steps,
            first: true,
        };
        let values = Block {
            weights: memory.weights.as_ptr().cast(),
            weights_stride: SLOT_STEPS * TILE,
            inputs: memory.values.as_ptr().cast(),
            inputs_stride: SLOT_STEPS * TILE,
            sums: memory.sums[strip * value_strips * SUMS..].as_mut_ptr(),
            sums_stride: value_strips * SUMS,
            rows: count,
            cols: value_strips,
            steps,
            first: false,
        };
        // SAFETY: the tiles of the strips and of the block lie in the memory, whose sizes are counted in them.
        unsafe {
            self.multiply(session, scores);
            for (i, seen) in seen[..count].iter().enumerate() {
                self.unit.weigh(&Softmax {
                    scores: scores.sums.add(i * scores.sums_stride),
                    weights: memory.weights.as_mut_ptr().cast::<u16>().add(i * values.weights_stride),
                    steps,
                    seen,
                    softcap: self.job.problem.args.softcap,
                    max: memory.max[(strip + i) * SIDE..].as_mut_ptr(),
                    totals: memory.totals[(strip + i) * SUMS..].as_mut_ptr(),
                    sums: values.sums.add(i * values.sums_stride),
                    strips: value_strips,
                });
            }
            self.multiply(session, values);
        }
    }

    /// The slots of a block that the rows of a strip see, counted from its start.
    fn seen(&self, start: usize, strip: usize) -> [Range<usize>; SIDE] {
        std::array::from_fn(|i| {
            let row = self.rows.start + strip * SIDE + i;
            if row >= self.rows.end {
                return 0..0;
            }
            let seen = self.job.problem.visible(row);
            let within = |slot: usize| slot.clamp(start, start + BLOCK) - start;
            let seen = within(seen.start)..within(seen.end);
            if seen.is_empty() { 0..0 } else { seen }
        })
    }

    /// Multiplies any number of strips of inputs.
    ///
    /// # Safety
    /// As [`TileOps::multiply`].
    unsafe fn multiply(&self, session: &mut T::Session, mut block: Block) {
        let all = block.cols;
        // Of as equal parts as can be: a lone strip keeps a unit less busy.
        let most = all.div_ceil(all.div_ceil(T::COLS));
        for at in (0..all).step_by(most) {
            block.cols = most.min(all - at);
            // SAFETY: passed on.
            unsafe {
                self.unit.multiply(session, &block);
                block.inputs = block.inputs.wrapping_add(block.cols * block.inputs_stride);
                block.sums = block.sums.wrapping_add(block.cols * SUMS);
            }
        }
    }

    /// Writes the rows' results.
    fn finish(&self, memory: &mut Memory<'_>) {
        let (problem, strips) = (&self.job.problem, self.sizes.value_strips);
        let dim = problem.args.value_dim;
        let line = &mut memory.lines[..strips * SIDE];
        for (i, row) in self.rows.clone().enumerate() {
            let position = problem.position(self.head, row);
            for (strip, part) in line.chunks_exact_mut(SIDE).enumerate() {
                let at = (i / SIDE * strips + strip) * SUMS + i % SIDE * SIDE;
                part.copy_from_slice(&memory.sums[at..at + SIDE]);
            }
            let weight = memory.totals[i * SIDE..(i + 1) * SIDE].iter().sum();
            let sink = problem.sinks.map(|sinks| sinks[position % problem.args.heads]);
            // SAFETY: each position belongs to one row of one task.
            let out = unsafe { self.job.out.range(position * dim, (position + 1) * dim) };
            problem.isa.run(FinishOp { sums: &line[..dim], max: memory.max[i], weight, sink, out });
        }
    }
}
