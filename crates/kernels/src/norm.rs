//! Normalization of rows.

use crate::simd::{Simd, SimdOp};
use crate::{Cpu, reduce, split};

/// What both norms become once a row's statistics are known: `out = ((x - mean) * factor) * weight + bias`.
struct Affine<'a> {
    mean: f32,
    factor: f32,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
}

impl Affine<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, x: S::F, weight: Option<S::F>, bias: Option<S::F>) -> S::F {
        let y = s.mul(s.sub(x, s.splat(self.mean)), s.splat(self.factor));
        match (weight, bias) {
            (None, None) => y,
            (Some(w), None) => s.mul(y, w),
            (Some(w), Some(b)) => s.fma(y, w, b),
            (None, Some(b)) => s.add(y, b),
        }
    }

    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: &[f32], out: &mut [f32]) {
        let n = out.len();
        let x = &x[..n];
        let (weight, bias) = (self.weight.map(|w| w[..n].as_ptr()), self.bias.map(|b| b[..n].as_ptr()));
        let mut at = 0;
        while at + S::LANES <= n {
            // SAFETY: `x`, `out`, weight and bias have n floats, `at + LANES <= n`.
            unsafe {
                let (w, b) = (load(s, weight, at), load(s, bias, at));
                let y = self.vector(s, s.load(x.as_ptr().add(at)), w, b);
                s.store(out.as_mut_ptr().add(at), y);
            }
            at += S::LANES;
        }
        let rest = n - at;
        if rest > 0 {
            // SAFETY: `x`, `out`, weight and bias have n floats, `at + rest == n`.
            unsafe {
                let (w, b) = (load_part(s, weight, at, rest), load_part(s, bias, at, rest));
                let y = self.vector(s, s.load_part(x.as_ptr().add(at), rest), w, b);
                s.store_part(out.as_mut_ptr().add(at), y, rest);
            }
        }
    }
}

/// # Safety
/// `p`, if any, is readable for `LANES` floats from `at` on.
#[inline(always)]
#[expect(clippy::manual_map, reason = "a closure might not be inlined into the function that has the features")]
unsafe fn load<S: Simd>(s: S, p: Option<*const f32>, at: usize) -> Option<S::F> {
    match p {
        // SAFETY: the caller's promise.
        Some(p) => Some(unsafe { s.load(p.add(at)) }),
        None => None,
    }
}

/// # Safety
/// `p`, if any, is readable for `n < LANES` floats from `at` on.
#[inline(always)]
#[expect(clippy::manual_map, reason = "a closure might not be inlined into the function that has the features")]
unsafe fn load_part<S: Simd>(s: S, p: Option<*const f32>, at: usize, n: usize) -> Option<S::F> {
    match p {
        // SAFETY: the caller's promise.
        Some(p) => Some(unsafe { s.load_part(p.add(at), n) }),
        None => None,
    }
}

/// Which statistics a norm takes.
#[derive(Clone, Copy)]
enum Kind {
    Rms,
    Layer,
}

struct NormOp<'a> {
    kind: Kind,
    x: &'a [f32],
    dim: usize,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
    out: &'a mut [f32],
}

impl SimdOp for NormOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let n = self.dim as f32;
        for (x, out) in self.x.chunks_exact(self.dim).zip(self.out.chunks_exact_mut(self.dim)) {
            let (mean, square) = match self.kind {
                Kind::Rms => (0.0, reduce::squares(s, x, 0.0)),
                Kind::Layer => {
                    let mean = reduce::sum(s, x) / n;
                    (mean, reduce::squares(s, x, mean))
                }
            };
            let factor = 1.0 / (square / n + self.eps).sqrt();
            Affine { mean, factor, weight: self.weight, bias: self.bias }.apply(s, x, out);
        }
    }
}

fn norm(cpu: &Cpu, op: NormOp<'_>) {
    let NormOp { kind, x, dim, weight, bias, eps, out } = op;
    assert_eq!(x.len(), out.len(), "input and output of a norm");
    if x.is_empty() {
        return;
    }
    assert!(dim > 0 && x.len().is_multiple_of(dim), "{} is no number of rows of {dim}", x.len());
    assert!(weight.is_none_or(|w| w.len() == dim), "a weight for each of {dim} columns");
    assert!(bias.is_none_or(|b| b.len() == dim), "a bias for each of {dim} columns");
    split::chunks(cpu, out, split::row_chunk(dim), |at, out| {
        let x = &x[at..at + out.len()];
        cpu.isa.run(NormOp { kind, x, dim, weight, bias, eps, out });
    });
}

/// `out = x / √(mean(x²) + eps) * weight` for each row of `dim`, rel 1e-6.
pub fn rms_norm(cpu: &Cpu, x: &[f32], dim: usize, weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    norm(cpu, NormOp { kind: Kind::Rms, x, dim, weight, bias: None, eps, out });
}

/// `out = (x - mean(x)) / √(var(x) + eps) * weight + bias` for each row of `dim`: the variance of the population, from the
/// deviations themselves; 2e-6 of the largest normalized number, for rows whose mean is not large against their spread.
pub fn layer_norm(
    cpu: &Cpu,
    x: &[f32],
    dim: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    norm(cpu, NormOp { kind: Kind::Layer, x, dim, weight, bias, eps, out });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Random};

    fn norm64(x: &[f32], center: bool, weight: Option<&[f32]>, bias: Option<&[f32]>, eps: f32) -> Vec<f64> {
        let n = x.len() as f64;
        let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let mean = if center { x.iter().sum::<f64>() / n } else { 0.0 };
        let var = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let one = |(i, x): (usize, &f64)| {
            let y = (x - mean) / (var + f64::from(eps)).sqrt();
            y * weight.map_or(1.0, |w| f64::from(w[i])) + bias.map_or(0.0, |b| f64::from(b[i]))
        };
        x.iter().enumerate().map(one).collect()
    }

    #[test]
    fn norms_agree_with_f64_at_all_lengths() {
        let mut random = Random::new(12);
        for cpu in check::cpus() {
            for dim in (1..=67).chain([80, 1024, 5120]) {
                let x = random.floats(3 * dim + 1, -2.0, 3.0);
                let (w, b) = (random.floats(dim + 1, 0.5, 2.0), random.floats(dim + 1, -1.0, 1.0));
                let (x, w, b) = (&x[1..], &w[1..], &b[1..]);
                let mut out = vec![0.0; x.len() + 1];
                for (weight, bias) in [(None, None), (Some(w), None), (None, Some(b)), (Some(w), Some(b))] {
                    let want = |center| -> Vec<f64> {
                        x.chunks(dim).flat_map(|x| norm64(x, center, weight, bias, 1e-5)).collect()
                    };
                    layer_norm(&cpu, x, dim, weight, bias, 1e-5, &mut out[1..]);
                    // A row of one has nothing but rounding to normalize, and a row of two can be nearly equal.
                    let bound = if dim < 3 { 1e-3 } else { 2e-6 };
                    check::close(&out[1..], &want(true), bound, format_args!("layer {dim}"));
                    if bias.is_none() {
                        rms_norm(&cpu, x, dim, weight, 1e-5, &mut out[1..]);
                        check::close(&out[1..], &want(false), 1e-6, format_args!("rms {dim}"));
                    }
                }
            }
        }
    }

    #[test]
    fn rows_are_alike_on_any_number_of_threads_and_alone() {
        let dim = 1536;
        let x = Random::new(13).floats(dim * 64, -1.0, 1.0);
        for isa in crate::Isa::available() {
            let run = |threads, rows: usize| {
                let mut out = vec![0.0; rows * dim];
                rms_norm(&Cpu::new(isa, threads), &x[..rows * dim], dim, None, 1e-6, &mut out);
                check::bits(&out)
            };
            assert_eq!(run(1, 64), run(2, 64));
            assert_eq!(run(1, 1), run(2, 64)[..dim]);
        }
    }
}
