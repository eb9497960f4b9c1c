//! Reductions over the last axis, and the search for the largest.
//!
//! A row is added up in a fixed number of partial sums that depends on the instruction set alone.

use std::cmp::Ordering;

use crate::simd::{Simd, SimdOp};
use crate::{Cpu, math, split};

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduce {
    /// Sum; 0 of an empty row.
    Sum,
    /// Sum over length.
    Mean,
    /// Largest; NaN is passed over, -inf if nothing else is there.
    Max,
    /// Smallest; NaN is passed over, +inf if nothing else is there.
    Min,
}

/// One step of a reduction, as a type so that it is inlined for certain.
trait Step: Copy {
    /// What an empty row gives.
    const START: f32;
    /// Joins an element to a partial result.
    fn step<S: Simd>(self, s: S, sum: S::F, x: S::F) -> S::F;
    /// Joins two partial results.
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F;
}

#[derive(Clone, Copy)]
struct Sum;

impl Step for Sum {
    const START: f32 = 0.0;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, sum: S::F, x: S::F) -> S::F {
        s.add(sum, x)
    }
    #[inline(always)]
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        s.add(a, b)
    }
}

/// Squares of the distances from a center.
#[derive(Clone, Copy)]
struct Squares(f32);

impl Step for Squares {
    const START: f32 = 0.0;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, sum: S::F, x: S::F) -> S::F {
        let d = s.sub(x, s.splat(self.0));
        s.fma(d, d, sum)
    }
    #[inline(always)]
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        s.add(a, b)
    }
}

#[derive(Clone, Copy)]
struct Max;

impl Step for Max {
    const START: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, sum: S::F, x: S::F) -> S::F {
        s.select_lt(sum, x, x, sum)
    }
    #[inline(always)]
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        s.select_lt(a, b, b, a)
    }
}

#[derive(Clone, Copy)]
struct Min;

impl Step for Min {
    const START: f32 = f32::INFINITY;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, sum: S::F, x: S::F) -> S::F {
        s.select_lt(x, sum, x, sum)
    }
    #[inline(always)]
    fn join<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F {
        s.select_lt(b, a, b, a)
    }
}

/// Folds a row into the lanes of one vector. Four vectors in flight hide the latency of the step.
#[inline(always)]
fn fold<S: Simd, T: Step>(s: S, x: &[f32], step: T) -> S::F {
    let mut sums = [s.splat(T::START); 4];
    let mut blocks = x.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the block has 4 LANES elements.
            *sum = step.step(s, *sum, unsafe { s.load(block.as_ptr().add(i * S::LANES)) });
        }
    }
    let [mut a, mut b, c, d] = sums;
    let mut vectors = blocks.remainder().chunks_exact(S::LANES);
    for v in &mut vectors {
        // SAFETY: the part has LANES elements.
        a = step.step(s, a, unsafe { s.load(v.as_ptr()) });
    }
    let tail = vectors.remainder();
    if !tail.is_empty() {
        // SAFETY: the tail has fewer than LANES elements.
        let v = unsafe { s.load_part(tail.as_ptr(), tail.len()) };
        b = math::keep(s, step.step(s, b, v), tail.len(), b);
    }
    step.join(s, step.join(s, a, b), step.join(s, c, d))
}

/// Sum of a row.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    s.sum(fold(s, x, Sum))
}

/// Sum of the squares of the distances of a row's numbers from `center`.
#[inline(always)]
pub(crate) fn squares<S: Simd>(s: S, x: &[f32], center: f32) -> f32 {
    s.sum(fold(s, x, Squares(center)))
}

/// Largest of a row, passing over NaN; -inf of an empty row.
#[inline(always)]
pub(crate) fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    s.max_lane(fold(s, x, Max))
}

#[inline(always)]
fn min<S: Simd>(s: S, x: &[f32]) -> f32 {
    -s.max_lane(s.mul(fold(s, x, Min), s.splat(-1.0)))
}

struct ReduceOp<'a> {
    op: Reduce,
    x: &'a [f32],
    dim: usize,
    out: &'a mut [f32],
}

impl SimdOp for ReduceOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let rows = (0..self.out.len()).map(|i| &self.x[i * self.dim..(i + 1) * self.dim]);
        for (row, out) in rows.zip(self.out.iter_mut()) {
            *out = match self.op {
                Reduce::Sum => sum(s, row),
                Reduce::Mean => sum(s, row) / self.dim as f32,
                Reduce::Max => max(s, row),
                Reduce::Min => min(s, row),
            };
        }
    }
}

/// Reduces each row of `x`, which is `[out.len(), dim]`, to one number.
pub fn reduce(cpu: &Cpu, op: Reduce, x: &[f32], dim: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len() * dim, "rows of {dim} and one result for each");
    let rows = split::GRAIN.div_ceil(dim.max(1));
    split::chunks(cpu, out, rows, |at, out| {
        let x = &x[at * dim..(at + out.len()) * dim];
        cpu.isa.run(ReduceOp { op, x, dim, out });
    });
}

struct ArgmaxOp<'a>(&'a [f32]);

impl SimdOp for ArgmaxOp<'_> {
    type Output = usize;
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) -> usize {
        const BLOCK: usize = 1024;
        let (mut best, mut block) = (f32::NEG_INFINITY, None);
        for (i, part) in self.0.chunks(BLOCK).enumerate() {
            let largest = max(s, part);
            if block.is_none() || largest > best {
                // A first block of NaN alone has the maximum -inf, which it does not contain.
                block = part.contains(&largest).then_some(i);
                best = largest;
            }
        }
        let start = block.unwrap_or(0) * BLOCK;
        start + self.0[start..].iter().position(|&x| x == best).unwrap_or(0)
    }
}

/// Index of the largest number, the first of equals. NaN never wins, unless there is nothing else: then 0.
pub fn argmax(cpu: &Cpu, row: &[f32]) -> usize {
    assert!(!row.is_empty(), "argmax of nothing");
    cpu.isa.run(ArgmaxOp(row))
}

/// Writes index and value of the `k` largest numbers to `out[..k]`, largest first, ties by lower index; NaN ranks below all.
///
/// A heap of `k` with the least on top: one comparison per element of `row` where, as in logits, few are among the largest
/// so far; `O(n log k)` at worst. `k <= row.len()`, `k <= out.len()`.
pub fn top_k(row: &[f32], k: usize, out: &mut [(u32, f32)]) {
    assert!(k <= row.len() && k <= out.len(), "{k} largest of {} into {}", row.len(), out.len());
    let heap = &mut out[..k];
    if k == 0 {
        return;
    }
    for (i, slot) in heap.iter_mut().enumerate() {
        *slot = (i as u32, row[i]);
    }
    for i in (0..k / 2).rev() {
        sift(heap, i);
    }
    let mut next = k;
    for block in row[k..].chunks(64) {
        // Later elements win only if larger, so that a block without a larger one is passed over without branches.
        let floor = heap[0].1;
        if floor.is_nan() || block.iter().fold(false, |any, &x| any | (x > floor)) {
            for (i, &x) in block.iter().enumerate() {
                let candidate = ((next + i) as u32, x);
                if before(&candidate, &heap[0]) == Ordering::Less {
                    heap[0] = candidate;
                    sift(heap, 0);
                }
            }
        }
        next += block.len();
    }
    heap.sort_unstable_by(before);
}

/// `Less` if `a` ranks before `b`.
fn before(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    let by_value = b.1.partial_cmp(&a.1).unwrap_or_else(|| a.1.is_nan().cmp(&b.1.is_nan()));
    by_value.then(a.0.cmp(&b.0))
}

/// Restores the heap (each entry ranks after its children) below position `at`.
fn sift(heap: &mut [(u32, f32)], mut at: usize) {
    loop {
        let mut last = at;
        for child in [2 * at + 1, 2 * at + 2] {
            if child < heap.len() && before(&heap[child], &heap[last]) == Ordering::Greater {
                last = child;
            }
        }
        if last == at {
            return;
        }
        heap.swap(at, last);
        at = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Random};

    #[test]
    fn reductions_agree_with_f64_at_all_lengths() {
        let mut random = Random::new(5);
        for cpu in check::cpus() {
            for dim in check::lengths() {
                let rows = 5;
                let x = random.floats(rows * dim + 1, -1.0, 1.0);
                let x = &x[1..];
                let row = |i: usize| x[i * dim..(i + 1) * dim].iter().map(|&x| f64::from(x));
                let run = |op, want: &dyn Fn(usize) -> f64| {
                    let mut out = vec![7.0; rows + 1];
                    reduce(&cpu, op, x, dim, &mut out[1..]);
                    let want: Vec<f64> = (0..rows).map(want).collect();
                    check::close(&out[1..], &want, 1e-6, format_args!("{op:?} {dim}"));
                };
                run(Reduce::Sum, &|i| row(i).sum());
                run(Reduce::Mean, &|i| row(i).sum::<f64>() / dim as f64);
                run(Reduce::Max, &|i| row(i).fold(f64::NEG_INFINITY, f64::max));
                run(Reduce::Min, &|i| row(i).fold(f64::INFINITY, f64::min));
            }
        }
    }

    #[test]
    fn rows_are_alike_on_any_number_of_threads() {
        let dim = 1000;
        let x = Random::new(6).floats(dim * 100, -1.0, 1.0);
        for isa in crate::Isa::available() {
            let run = |threads| {
                let mut out = vec![0.0; 100];
                reduce(&Cpu::new(isa, threads), Reduce::Sum, &x, dim, &mut out);
                check::bits(&out)
            };
            assert_eq!(run(1), run(2));
            assert_eq!(run(1), run(3));
        }
    }

    #[test]
    fn extrema_pass_over_nan() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for cpu in check::cpus() {
            let one = |op, x: &[f32]| {
                let mut out = [0.0];
                reduce(&cpu, op, x, x.len(), &mut out);
                out[0]
            };
            assert_eq!(one(Reduce::Max, &[nan, -3.0, nan]), -3.0);
            assert_eq!(one(Reduce::Min, &[nan, -3.0, nan, 4.0]), -3.0);
            assert_eq!(one(Reduce::Max, &[nan; 40]), -inf);
            assert!(one(Reduce::Sum, &[1.0, nan]).is_nan());
        }
    }

    #[test]
    fn argmax_finds_the_first_of_the_largest() {
        let mut random = Random::new(7);
        for cpu in check::cpus() {
            for n in (1..=67).chain([1023, 1024, 1025, 4000, 151_936]) {
                let mut x = random.floats(n + 1, -9.0, 9.0);
                x[0] = 100.0;
                let i = (random.bits() as usize) % n;
                let x = &mut x[1..];
                x[i] = 9.5;
                if n > 2 {
                    x[n - 1] = 9.5;
                    x[(i + 1) % n] = f32::NAN;
                    x[i] = 9.5;
                }
                let want = x.iter().position(|&x| x == 9.5).unwrap();
                assert_eq!(argmax(&cpu, x), want, "{n}");
            }
            assert_eq!(argmax(&cpu, &[f32::NAN; 3000]), 0);
            assert_eq!(argmax(&cpu, &[f32::NEG_INFINITY; 3000]), 0);
            let mut late = vec![f32::NAN; 3000];
            late[2500] = f32::NEG_INFINITY;
            assert_eq!(argmax(&cpu, &late), 2500);
        }
    }

    #[test]
    fn top_k_is_the_head_of_the_sorted_row() {
        let mut random = Random::new(8);
        for n in (1..=67).chain([500, 10_000]) {
            // Few distinct values: ties everywhere.
            let mut row: Vec<f32> = random.floats(n, -20.0, 20.0).into_iter().map(f32::round).collect();
            if n > 10 {
                row[3] = f32::NAN;
                row[7] = f32::NEG_INFINITY;
            }
            for ascending in [false, true] {
                if ascending {
                    row.sort_by(f32::total_cmp);
                }
                let mut sorted: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
                sorted.sort_by(before);
                for k in [0, 1, 2.min(n), n / 3, n - 1, n] {
                    let mut out = vec![(0, 0.0); k];
                    top_k(&row, k, &mut out);
                    let key = |x: &[(u32, f32)]| x.iter().map(|e| (e.0, e.1.to_bits())).collect::<Vec<_>>();
                    assert_eq!(key(&out), key(&sorted[..k]), "{k} of {n}");
                }
            }
        }
    }
}
