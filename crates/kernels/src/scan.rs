//! Recurrences over positions with a matrix as their state: delta rules and selective state spaces.
//!
//! Every row of a state goes its own way through all positions, so rows are divided among threads, and the bits of a row
//! depend neither on their number nor on how a sequence is cut into passes. A task keeps a block of rows in the first-level
//! cache while the positions go by; four rows at a time share what is read of a position.

use std::ops::Range;

use crate::Cpu;
use crate::conv::{load, store};
use crate::math;
use crate::simd::{Simd, SimdOp};
use crate::split::Shared;

/// Floats of a state that one task works on at most: a quarter of a small first-level cache.
const BLOCK: usize = 2048;

/// The gated delta rule (Yang et al. 2024). For each head, with a state `S [value_dim, key_dim]`:
/// `S ← S·decay; S ← S + beta (v - S k) kᵀ; y = S q`.
#[derive(Clone, Copy, Debug)]
pub struct DeltaScan<'a> {
    /// Heads of queries and keys; value head `h` uses `h / (heads / key_heads)`.
    pub key_heads: usize,
    /// Heads of values.
    pub heads: usize,
    /// Numbers in a query and in a key.
    pub key_dim: usize,
    /// Numbers in a value.
    pub value_dim: usize,
    /// `[T, key_heads, key_dim]`.
    pub q: &'a [f32],
    /// As `q`.
    pub k: &'a [f32],
    /// `[T, heads, value_dim]`.
    pub v: &'a [f32],
    /// `[T, heads]`, or `[T, heads, key_dim]`: then each column of the state has a factor of its own.
    pub decay: &'a [f32],
    /// `[T, heads]`.
    pub beta: &'a [f32],
}

/// Runs a [`DeltaScan`]: moves `state [heads, value_dim, key_dim]` on and writes `out [T, heads, value_dim]`.
pub fn delta_scan(cpu: &Cpu, scan: DeltaScan<'_>, state: &mut [f32], out: &mut [f32]) {
    let DeltaScan { key_heads, heads, key_dim, value_dim, .. } = scan;
    assert!(key_heads > 0 && heads.is_multiple_of(key_heads), "{heads} heads share {key_heads}");
    assert!(key_dim > 0 && value_dim > 0, "heads of {key_dim} and {value_dim} numbers");
    let tokens = out.len() / (heads * value_dim).max(1);
    assert!(out.len() == tokens * heads * value_dim && scan.v.len() == out.len(), "values and results are alike");
    let keys = tokens * key_heads * key_dim;
    assert!(scan.q.len() == keys && scan.k.len() == keys, "queries and keys are [{tokens}, {key_heads}, {key_dim}]");
    assert!(scan.beta.len() == tokens * heads, "a beta for each of {heads} heads");
    assert!([1, key_dim].contains(&(scan.decay.len() / (tokens * heads).max(1))), "a decay for each head or column");
    assert_eq!(state.len(), heads * value_dim * key_dim, "a state for each head");
    let rows = Rows { heads, count: value_dim, width: key_dim, out: Shared::new(out) };
    rows.run(cpu, state, &|block| cpu.isa.run(Steps { scan, tokens, block }));
}

/// The delta rule of RWKV-7 (Peng et al. 2025), whose corrections have keys of their own. For each head, with a state
/// `S [value_dim, key_dim]`: `S ← S·decay + (S a) bᵀ + v kᵀ; y = S r`, where each column of the state has its own decay.
#[derive(Clone, Copy, Debug)]
pub struct WkvScan<'a> {
    /// Heads.
    pub heads: usize,
    /// Numbers in a key.
    pub key_dim: usize,
    /// Numbers in a value.
    pub value_dim: usize,
    /// `[T, heads, key_dim]`.
    pub r: &'a [f32],
    /// As `r`.
    pub decay: &'a [f32],
    /// As `r`.
    pub k: &'a [f32],
    /// `[T, heads, value_dim]`.
    pub v: &'a [f32],
    /// As `r`.
    pub a: &'a [f32],
    /// As `r`.
    pub b: &'a [f32],
}

/// Runs a [`WkvScan`]: moves `state [heads, value_dim, key_dim]` on and writes `out [T, heads, value_dim]`.
pub fn wkv_scan(cpu: &Cpu, scan: WkvScan<'_>, state: &mut [f32], out: &mut [f32]) {
    let WkvScan { heads, key_dim, value_dim, .. } = scan;
    assert!(heads > 0 && key_dim > 0 && value_dim > 0, "{heads} heads of {key_dim} and {value_dim} numbers");
    let tokens = out.len() / (heads * value_dim);
    assert!(out.len() == tokens * heads * value_dim && scan.v.len() == out.len(), "values and results are alike");
    let keys = tokens * heads * key_dim;
    let alike = [scan.r, scan.decay, scan.k, scan.a, scan.b].iter().all(|part| part.len() == keys);
    assert!(alike, "all but values are [{tokens}, {heads}, {key_dim}]");
    assert_eq!(state.len(), heads * value_dim * key_dim, "a state for each head");
    let rows = Rows { heads, count: value_dim, width: key_dim, out: Shared::new(out) };
    rows.run(cpu, state, &|block| cpu.isa.run(Steps { scan, tokens, block }));
}

/// A selective state space (Gu & Dao 2023; Dao & Gu 2024). For each head, with a state `S [dim, state_dim]`:
/// `S ← S exp(dt a) + dt x bᵀ; y = S c + d x`.
#[derive(Clone, Copy, Debug)]
pub struct SsmScan<'a> {
    /// Heads.
    pub heads: usize,
    /// Groups of heads that share `b` and `c`; head `h` uses `h / (heads / groups)`.
    pub groups: usize,
    /// Numbers in a head.
    pub dim: usize,
    /// Numbers in a row of a state.
    pub state_dim: usize,
    /// `[T, heads, dim]`.
    pub x: &'a [f32],
    /// `[T, heads]`.
    pub dt: &'a [f32],
    /// `[heads]`, or `[heads, state_dim]`: then each column of the state has a factor of its own.
    pub a: &'a [f32],
    /// `[T, groups, state_dim]`.
    pub b: &'a [f32],
    /// As `b`.
    pub c: &'a [f32],
    /// `[heads]`.
    pub d: &'a [f32],
}

/// Runs a [`SsmScan`]: moves `state [heads, dim, state_dim]` on and writes `out [T, heads, dim]`.
pub fn ssm_scan(cpu: &Cpu, scan: SsmScan<'_>, state: &mut [f32], out: &mut [f32]) {
    let SsmScan { heads, groups, dim, state_dim, .. } = scan;
    assert!(groups > 0 && heads.is_multiple_of(groups), "{heads} heads share {groups}");
    assert!(dim > 0 && state_dim > 0, "heads of {dim} numbers with {state_dim} in a row of their state");
    let tokens = out.len() / (heads * dim).max(1);
    assert!(out.len() == tokens * heads * dim && scan.x.len() == out.len(), "inputs and results are alike");
    let shared = tokens * groups * state_dim;
    assert!(scan.b.len() == shared && scan.c.len() == shared, "b and c are [{tokens}, {groups}, {state_dim}]");
    assert!(scan.dt.len() == tokens * heads && scan.d.len() == heads, "dt and d for each of {heads} heads");
    assert!([heads, heads * state_dim].contains(&scan.a.len()), "an a for each head or column");
    assert_eq!(state.len(), heads * dim * state_dim, "a state for each head");
    let rows = Rows { heads, count: dim, width: state_dim, out: Shared::new(out) };
    rows.run(cpu, state, &|block| cpu.isa.run(Steps { scan, tokens, block }));
}

/// The rows of a state: `count` a head, of `width` floats.
struct Rows<'a> {
    heads: usize,
    count: usize,
    width: usize,
    /// `[T, heads, count]`.
    out: Shared<'a>,
}

/// Some rows of consecutive heads.
struct Block<'a> {
    rows: &'a Rows<'a>,
    /// Numbered through all heads.
    range: Range<usize>,
    state: &'a mut [f32],
}

impl Block<'_> {
    /// The runs of rows of one head each: the head, and the rows numbered through all heads.
    #[inline(always)]
    fn run_at(&self, start: usize) -> (usize, Range<usize>) {
        let head = start / self.rows.count;
        (head, start..self.range.end.min((head + 1) * self.rows.count))
    }

    /// Where row `row` of the state begins.
    #[inline(always)]
    fn row(&mut self, row: usize) -> *mut f32 {
        let at = (row - self.range.start) * self.rows.width;
        self.state[at..].as_mut_ptr()
    }

    /// Where the results of rows `row..row + R` at position `t` go.
    #[inline(always)]
    fn write<const R: usize>(&self, t: usize, row: usize, sums: [f32; R]) {
        let at = t * self.rows.heads * self.rows.count + row;
        // SAFETY: the rows of this block belong to its task alone, and so do their results.
        unsafe { self.rows.out.range(at, at + R) }.copy_from_slice(&sums);
    }
}

impl Rows<'_> {
    fn run(&self, cpu: &Cpu, state: &mut [f32], work: &(dyn Fn(Block<'_>) + Sync)) {
        let (all, width) = (self.heads * self.count, self.width);
        // Whole fours but for the last, and not more than a task should hold, nor so many that threads go without.
        let share = all.div_ceil(4 * cpu.pool.threads());
        let block = (BLOCK / width).min(share).max(1).next_multiple_of(4);
        let state = Shared::new(state);
        cpu.pool.run(all.div_ceil(block), &|i| {
            let range = i * block..((i + 1) * block).min(all);
            // SAFETY: tasks have different numbers, so their rows are different.
            let state = unsafe { state.range(range.start * width, range.end * width) };
            work(Block { rows: self, range, state });
        });
    }
}

/// The sums of the lanes of `R` vectors, each in the same order whatever `R` is.
#[inline(always)]
fn sums<S: Simd, const R: usize>(s: S, v: [S::F; R]) -> [f32; R] {
    let mut out = [0.0; R];
    if R == 4 {
        out.copy_from_slice(&s.sum4([v[0], v[1 % R], v[2 % R], v[3 % R]]));
    } else {
        let mut i = 0;
        while i < R {
            out[i] = s.sum(v[i]);
            i += 1;
        }
    }
    out
}

/// A recurrence over some rows of the state.
struct Steps<'a, Scan> {
    scan: Scan,
    tokens: usize,
    block: Block<'a>,
}

/// What a recurrence does at one position.
trait Step {
    /// Moves rows `row..row + R` of a head over position `t`. Implementations must be `#[inline(always)]`.
    fn step<S: Simd, const R: usize>(&mut self, s: S, at: (usize, usize), row: usize);
}

impl<Scan> SimdOp for Steps<'_, Scan>
where
    Self: Step,
{
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(mut self, s: S) {
        let mut start = self.block.range.start;
        while start < self.block.range.end {
            let (head, rows) = self.block.run_at(start);
            start = rows.end;
            for t in 0..self.tokens {
                let mut row = rows.start;
                while row + 4 <= rows.end {
                    self.step::<S, 4>(s, (t, head), row);
                    row += 4;
                }
                while row < rows.end {
                    self.step::<S, 1>(s, (t, head), row);
                    row += 1;
                }
            }
        }
    }
}

impl Step for Steps<'_, DeltaScan<'_>> {
    #[inline(always)]
    fn step<S: Simd, const R: usize>(&mut self, s: S, (t, head): (usize, usize), row: usize) {
        let DeltaScan { key_heads, heads, key_dim, value_dim, .. } = self.scan;
        let at = (t * key_heads + head / (heads / key_heads)) * key_dim;
        let (q, k) = (self.scan.q[at..][..key_dim].as_ptr(), self.scan.k[at..][..key_dim].as_ptr());
        let gate = t * heads + head;
        let vector = self.scan.decay.len() > self.scan.beta.len();
        let decay = &self.scan.decay[if vector { gate * key_dim } else { gate }..];
        let state = self.block.row(row);
        let mut memory = [s.splat(0.0); R];
        let mut i = 0;
        while i < key_dim {
            let n = S::LANES.min(key_dim - i);
            // SAFETY: `k`, a vector of decays and each of the `R` rows have `key_dim` floats, and `i + n <= key_dim`; the
            // rows are this task's.
            unsafe {
                let factor = if vector { load(s, decay[i..].as_ptr(), n) } else { s.splat(decay[0]) };
                let key = load(s, k.add(i), n);
                let mut j = 0;
                while j < R {
                    let p = state.add(j * key_dim + i);
                    let x = s.mul(load(s, p, n), factor);
                    store(s, p, x, n);
                    memory[j] = s.fma(x, key, memory[j]);
                    j += 1;
                }
            }
            i += n;
        }
        let memory = sums(s, memory);
        let values = &self.scan.v[t * heads * value_dim + row..][..R];
        let mut delta = [s.splat(0.0); R];
        let mut j = 0;
        while j < R {
            delta[j] = s.splat((values[j] - memory[j]) * self.scan.beta[gate]);
            j += 1;
        }
        let mut result = [s.splat(0.0); R];
        let mut i = 0;
        while i < key_dim {
            let n = S::LANES.min(key_dim - i);
            // SAFETY: as above.
            unsafe {
                let (key, query) = (load(s, k.add(i), n), load(s, q.add(i), n));
                let mut j = 0;
                while j < R {
                    let p = state.add(j * key_dim + i);
                    let x = s.fma(key, delta[j], load(s, p, n));
                    store(s, p, x, n);
                    result[j] = s.fma(x, query, result[j]);
                    j += 1;
                }
            }
            i += n;
        }
        self.block.write(t, row, sums(s, result));
    }
}

impl Step for Steps<'_, WkvScan<'_>> {
    #[inline(always)]
    fn step<S: Simd, const R: usize>(&mut self, s: S, (t, head): (usize, usize), row: usize) {
        let WkvScan { heads, key_dim, value_dim, .. } = self.scan;
        let at = (t * heads + head) * key_dim;
        let WkvScan { r, decay, k, a, b, .. } = self.scan;
        let [r, decay, k, a, b] = [r, decay, k, a, b].map(|part| part[at..][..key_dim].as_ptr());
        let state = self.block.row(row);
        let mut recalled = [s.splat(0.0); R];
        let mut i = 0;
        while i < key_dim {
            let n = S::LANES.min(key_dim - i);
            // SAFETY: `a` and each of the `R` rows have `key_dim` floats, and `i + n <= key_dim`; the rows are this task's.
            unsafe {
                let a = load(s, a.add(i), n);
                let mut j = 0;
                while j < R {
                    recalled[j] = s.fma(load(s, state.add(j * key_dim + i), n), a, recalled[j]);
                    j += 1;
                }
            }
            i += n;
        }
        let recalled = sums(s, recalled);
        let values = &self.scan.v[t * heads * value_dim + row..][..R];
        let mut result = [s.splat(0.0); R];
        let mut i = 0;
        while i < key_dim {
            let n = S::LANES.min(key_dim - i);
            // SAFETY: as above, and so have the others.
            unsafe {
                let [r, decay, k, b] = [r, decay, k, b].map(|part| load(s, part.add(i), n));
                let mut j = 0;
                while j < R {
                    let p = state.add(j * key_dim + i);
                    let added = s.fma(s.splat(recalled[j]), b, s.mul(s.splat(values[j]), k));
                    let x = s.fma(load(s, p, n), decay, added);
                    store(s, p, x, n);
                    result[j] = s.fma(x, r, result[j]);
                    j += 1;
                }
            }
            i += n;
        }
        self.block.write(t, row, sums(s, result));
    }
}

impl Step for Steps<'_, SsmScan<'_>> {
    #[inline(always)]
    fn step<S: Simd, const R: usize>(&mut self, s: S, (t, head): (usize, usize), row: usize) {
        let SsmScan { heads, groups, dim, state_dim, .. } = self.scan;
        let at = (t * groups + head / (heads / groups)) * state_dim;
        let (b, c) = (self.scan.b[at..][..state_dim].as_ptr(), self.scan.c[at..][..state_dim].as_ptr());
        let dt = self.scan.dt[t * heads + head];
        let vector = self.scan.a.len() > heads;
        let a = &self.scan.a[if vector { head * state_dim } else { head }..];
        let inputs = &self.scan.x[t * heads * dim + row..][..R];
        let state = self.block.row(row);
        let uniform = math::exp(s, s.splat(dt * a[0]));
        let mut scaled = [s.splat(0.0); R];
        let mut j = 0;
        while j < R {
            scaled[j] = s.splat(dt * inputs[j]);
            j += 1;
        }
        let mut result = [s.splat(0.0); R];
        let mut i = 0;
        while i < state_dim {
            let n = S::LANES.min(state_dim - i);
            // SAFETY: `b`, `c`, a vector of factors and each of the `R` rows have `state_dim` floats, and
            // `i + n <= state_dim`; the rows are this task's.
            unsafe {
                let decay =
                    if vector { math::exp(s, s.mul(s.splat(dt), load(s, a[i..].as_ptr(), n))) } else { uniform };
                let (b, c) = (load(s, b.add(i), n), load(s, c.add(i), n));
                let mut j = 0;
                while j < R {
                    let p = state.add(j * state_dim + i);
                    let x = s.fma(load(s, p, n), decay, s.mul(scaled[j], b));
                    store(s, p, x, n);
                    result[j] = s.fma(x, c, result[j]);
                    j += 1;
                }
            }
            i += n;
        }
        let mut result = sums(s, result);
        let mut j = 0;
        while j < R {
            result[j] += self.scan.d[head] * inputs[j];
            j += 1;
        }
        self.block.write(t, row, result);
    }
}

#[cfg(test)]
mod tests;
