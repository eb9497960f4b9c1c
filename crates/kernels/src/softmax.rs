//! Softmax and the logarithm of the sum of exponentials.

use crate::simd::{Simd, SimdOp};
use crate::{Cpu, math, reduce, split};

/// Exponentials added up in single precision before they join a sum in double precision: long rows lose nothing.
const BLOCK: usize = 2048;

/// Sum of `e^(x - shift)`; `WRITE` replaces each `x` by its term. A shared slice cannot be written, hence the pointer.
///
/// # Safety
/// `x` is readable for `n` floats, and writable if `WRITE`.
#[inline(always)]
unsafe fn exp_sum<S: Simd, const WRITE: bool>(s: S, x: *mut f32, n: usize, shift: f32) -> f64 {
    let shift = s.splat(shift);
    let mut total = 0.0;
    let mut at = 0;
    while at < n {
        let end = (at + BLOCK).min(n);
        let mut sum = s.splat(0.0);
        while at + S::LANES <= end {
            // SAFETY: `at + LANES <= n`.
            unsafe {
                let e = math::exp(s, s.sub(s.load(x.add(at)), shift));
                if WRITE {
                    s.store(x.add(at), e);
                }
                sum = s.add(sum, e);
            }
            at += S::LANES;
        }
        if at < end {
            let tail = end - at;
            // SAFETY: `at + tail <= n`.
            unsafe {
                let e = math::exp(s, s.sub(s.load_part(x.add(at), tail), shift));
                if WRITE {
                    s.store_part(x.add(at), e, tail);
                }
                sum = s.add(sum, math::keep(s, e, tail, s.splat(0.0)));
            }
            at = end;
        }
        total += f64::from(s.sum(sum));
    }
    total
}

struct SoftmaxOp<'a>(&'a mut [f32], usize);

impl SimdOp for SoftmaxOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        for row in self.0.chunks_exact_mut(self.1) {
            let largest = reduce::max(s, row);
            if largest == f32::NEG_INFINITY {
                // Nothing but -inf, or NaN which no maximum shows.
                row.iter_mut().for_each(|x| *x = if x.is_nan() { f32::NAN } else { 0.0 });
                continue;
            }
            // SAFETY: the row is borrowed for writing.
            let sum = unsafe { exp_sum::<S, true>(s, row.as_mut_ptr(), row.len(), largest) };
            scale(s, row, (1.0 / sum) as f32);
        }
    }
}

#[inline(always)]
fn scale<S: Simd>(s: S, row: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    let mut vectors = row.chunks_exact_mut(S::LANES);
    for v in &mut vectors {
        // SAFETY: the part has LANES elements.
        unsafe { s.store(v.as_mut_ptr(), s.mul(s.load(v.as_ptr()), factor)) };
    }
    let tail = vectors.into_remainder();
    if !tail.is_empty() {
        let n = tail.len();
        // SAFETY: the tail has n < LANES elements.
        unsafe { s.store_part(tail.as_mut_ptr(), s.mul(s.load_part(tail.as_ptr(), n), factor), n) };
    }
}

/// Softmax of each row of `dim`, in place: `e^(x - max) / Σ e^(x - max)`, abs 4e-7, rel 4e-7 + 6e-8 `(max - x)` (the
/// rounding of the difference). A row of nothing but -inf becomes 0; NaN anywhere makes its row NaN, but that a row of NaN
/// and -inf alone keeps its NaN where they are.
pub fn softmax(cpu: &Cpu, x: &mut [f32], dim: usize) {
    if x.is_empty() {
        return;
    }
    assert!(dim > 0 && x.len().is_multiple_of(dim), "{} is no number of rows of {dim}", x.len());
    split::chunks(cpu, x, split::row_chunk(dim), |_, x| cpu.isa.run(SoftmaxOp(x, dim)));
}

struct LogSumExpOp<'a>(&'a [f32]);

impl SimdOp for LogSumExpOp<'_> {
    type Output = f32;
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) -> f32 {
        let largest = reduce::max(s, self.0);
        if largest.is_infinite() {
            return if self.0.iter().any(|x| x.is_nan()) { f32::NAN } else { largest };
        }
        // SAFETY: nothing is written.
        let sum = unsafe { exp_sum::<S, false>(s, self.0.as_ptr().cast_mut(), self.0.len(), largest) };
        (f64::from(largest) + libm::log(sum)) as f32
    }
}

/// `ln Σ e^x`, abs 2e-7 `max(1, |result|)` for rows of any length; -inf of an empty row.
pub fn log_sum_exp(cpu: &Cpu, row: &[f32]) -> f32 {
    cpu.isa.run(LogSumExpOp(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Random};

    fn softmax64(x: &[f32]) -> Vec<f64> {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let e: Vec<f64> = x.iter().map(|&x| (f64::from(x) - max).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(|e| e / sum).collect()
    }

    #[test]
    fn softmax_agrees_with_f64_at_all_lengths() {
        let mut random = Random::new(9);
        for cpu in check::cpus() {
            for dim in check::lengths().chain([2047, 2048, 5000]) {
                let mut x = random.floats(3 * dim + 1, -30.0, 30.0);
                if dim > 3 {
                    x[dim / 2] = f32::NEG_INFINITY;
                }
                let want: Vec<f64> = x[1..].chunks(dim.max(1)).flat_map(softmax64).collect();
                softmax(&cpu, &mut x[1..], dim);
                check::close(&x[1..], &want, 4e-7, format_args!("{dim}"));
                for (x, w) in x[1..].iter().zip(&want) {
                    // No difference exceeds 60.
                    assert!((f64::from(*x) - w).abs() <= 4e-6 * w + 1e-37, "{dim}: {x} {w}");
                }
            }
        }
    }

    #[test]
    fn rows_without_numbers() {
        let inf = f32::INFINITY;
        for cpu in check::cpus() {
            let mut x = [-inf; 40];
            x[25] = 3.0;
            softmax(&cpu, &mut x, 20);
            assert_eq!(x[..20], [0.0; 20]);
            assert_eq!((x[25], x[24]), (1.0, 0.0));
            let mut x = [1.0, f32::NAN];
            softmax(&cpu, &mut x, 2);
            assert!(x[0].is_nan() && x[1].is_nan());
            assert_eq!(log_sum_exp(&cpu, &[-inf; 9]), -inf);
            assert_eq!(log_sum_exp(&cpu, &[]), -inf);
            assert_eq!(log_sum_exp(&cpu, &[1.0, inf]), inf);
            assert!(log_sum_exp(&cpu, &[f32::NAN, 1.0]).is_nan());
            assert!(log_sum_exp(&cpu, &[f32::NAN; 3]).is_nan());
        }
    }

    #[test]
    fn log_sum_exp_is_accurate_for_a_vocabulary() {
        let mut random = Random::new(10);
        for cpu in check::cpus() {
            for n in (1..=67).chain([151_936]) {
                for scale in [1e-3, 1.0, 20.0] {
                    let row = random.floats(n + 1, -scale, scale);
                    let row = &row[1..];
                    let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
                    let want = max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
                    check::close(&[log_sum_exp(&cpu, row)], &[want], 2e-7, format_args!("{n} {scale}"));
                }
            }
        }
    }

    #[test]
    fn rows_are_alike_on_any_number_of_threads_and_alone() {
        let x = Random::new(11).floats(300 * 301, -5.0, 5.0);
        for isa in crate::Isa::available() {
            let run = |threads, rows: usize| {
                let mut y = x[..rows * 301].to_vec();
                softmax(&Cpu::new(isa, threads), &mut y, 301);
                check::bits(&y)
            };
            assert_eq!(run(1, 300), run(2, 300));
            assert_eq!(run(1, 1), run(2, 300)[..301]);
        }
    }
}
