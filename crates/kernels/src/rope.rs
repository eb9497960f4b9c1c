//! Rotary position embedding.

use crate::simd::{Simd, SimdOp};
use crate::{Cpu, split};

/// What [`rope`] rotates: `x` is `[tokens, heads, dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeShape {
    /// Tokens, each with its own angles.
    pub tokens: usize,
    /// Heads of a token, all with the same angles.
    pub heads: usize,
    /// Numbers in a head.
    pub dim: usize,
    /// How many of them are rotated, from the start: even, at most `dim`.
    pub rotated: usize,
    /// Pairs are neighbours `(2i, 2i + 1)`; otherwise the halves of the rotated part, `(i, i + rotated / 2)`.
    pub traditional: bool,
}

struct RopeOp<'a> {
    x: &'a mut [f32],
    shape: RopeShape,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl SimdOp for RopeOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let RopeShape { heads, dim, rotated, traditional, .. } = self.shape;
        let angles = self.cos.chunks_exact(rotated / 2).zip(self.sin.chunks_exact(rotated / 2));
        for (token, (cos, sin)) in self.x.chunks_exact_mut(heads * dim).zip(angles) {
            for head in token.chunks_exact_mut(dim) {
                if traditional {
                    neighbours(&mut head[..rotated], cos, sin);
                } else {
                    let (a, b) = head[..rotated].split_at_mut(rotated / 2);
                    halves(s, a, b, cos, sin);
                }
            }
        }
    }
}

/// Plain code: the compiler interleaves and separates the pairs in registers as well as the trait could.
#[inline(always)]
fn neighbours(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, &c), &s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * c - b * s;
        pair[1] = b * c + a * s;
    }
}

#[inline(always)]
fn halves<S: Simd>(s: S, a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
    let n = a.len();
    assert!(b.len() == n && cos.len() == n && sin.len() == n);
    let mut at = 0;
    while at + S::LANES <= n {
        // SAFETY: all four slices have n elements, `at + LANES <= n`.
        unsafe {
            let (p, q) = (a.as_mut_ptr().add(at), b.as_mut_ptr().add(at));
            let (x, y) = (s.load(p), s.load(q));
            let (c, d) = (s.load(cos.as_ptr().add(at)), s.load(sin.as_ptr().add(at)));
            s.store(p, s.sub(s.mul(x, c), s.mul(y, d)));
            s.store(q, s.add(s.mul(y, c), s.mul(x, d)));
        }
        at += S::LANES;
    }
    for i in at..n {
        let (x, y) = (a[i], b[i]);
        a[i] = x * cos[i] - y * sin[i];
        b[i] = y * cos[i] + x * sin[i];
    }
}

/// Rotates each pair `(a, b)` of `x` to `(a cos - b sin, b cos + a sin)`, in place; abs 2e-7 `(|a| + |b|)`.
///
/// `cos` and `sin` are `[tokens, rotated / 2]`: whatever positions, frequencies and scaling a model has, it has put there.
pub fn rope(cpu: &Cpu, x: &mut [f32], shape: RopeShape, cos: &[f32], sin: &[f32]) {
    let RopeShape { tokens, heads, dim, rotated, .. } = shape;
    assert_eq!(x.len(), tokens * heads * dim, "[{tokens}, {heads}, {dim}]");
    assert!(rotated.is_multiple_of(2) && rotated <= dim, "{rotated} of {dim} rotated");
    assert!(cos.len() == tokens * rotated / 2 && sin.len() == cos.len(), "angles are [{tokens}, {rotated} / 2]");
    if x.is_empty() || rotated == 0 {
        return;
    }
    let token = heads * dim;
    split::chunks(cpu, x, split::row_chunk(token), |at, x| {
        let angles = at / token * rotated / 2..(at + x.len()) / token * rotated / 2;
        cpu.isa.run(RopeOp { x, shape, cos: &cos[angles.clone()], sin: &sin[angles] });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Random};

    fn rope64(x: &[f32], shape: RopeShape, cos: &[f32], sin: &[f32]) -> Vec<f64> {
        let mut y: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let half = shape.rotated / 2;
        for (h, head) in y.chunks_mut(shape.dim).enumerate() {
            for i in 0..half {
                let at = h / shape.heads * half + i;
                let (c, s) = (f64::from(cos[at]), f64::from(sin[at]));
                let (p, q) = if shape.traditional { (2 * i, 2 * i + 1) } else { (i, i + half) };
                let (a, b) = (head[p], head[q]);
                (head[p], head[q]) = (a * c - b * s, b * c + a * s);
            }
        }
        y
    }

    #[test]
    fn rotations_agree_with_f64() {
        let mut random = Random::new(14);
        for cpu in check::cpus() {
            for traditional in [false, true] {
                for (dim, rotated) in
                    (0..=67).map(|d| (d + 1, d / 2 * 2)).chain([(64, 64), (80, 32), (96, 96), (256, 64)])
                {
                    let shape = RopeShape { tokens: 3, heads: 2, dim, rotated, traditional };
                    let mut x = random.floats(6 * dim + 1, -2.0, 2.0);
                    let angles = random.floats(3 * rotated / 2 + 1, -4.0, 4.0);
                    let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
                    let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
                    let want = rope64(&x[1..], shape, &cos[1..], &sin[1..]);
                    rope(&cpu, &mut x[1..], shape, &cos[1..], &sin[1..]);
                    check::close(&x[1..], &want, 8e-7, format_args!("{shape:?}"));
                }
            }
        }
    }

    #[test]
    fn tokens_are_alike_on_any_number_of_threads_and_alone() {
        let mut random = Random::new(15);
        let shape = RopeShape { tokens: 40, heads: 9, dim: 100, rotated: 76, traditional: false };
        let x = random.floats(40 * 900, -1.0, 1.0);
        let (cos, sin) = (random.floats(40 * 38, -1.0, 1.0), random.floats(40 * 38, -1.0, 1.0));
        for isa in crate::Isa::available() {
            for traditional in [false, true] {
                let run = |threads, tokens: usize| {
                    let mut y = x[..tokens * 900].to_vec();
                    let shape = RopeShape { tokens, traditional, ..shape };
                    rope(&Cpu::new(isa, threads), &mut y, shape, &cos[..tokens * 38], &sin[..tokens * 38]);
                    check::bits(&y)
                };
                assert_eq!(run(1, 40), run(2, 40));
                assert_eq!(run(1, 1), run(2, 40)[..900]);
            }
        }
    }
}
