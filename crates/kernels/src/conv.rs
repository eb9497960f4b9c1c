//! The causal convolution of each channel alone that state-space and gated layers run before they mix.

use crate::simd::{Simd, SimdOp};
use crate::{Cpu, split};

/// `out[t, c] = bias[c] + Σ_k weight[k, c] * input[t + k - (K - 1), c]`, where the inputs before the first are the rows of
/// `tail`.
///
/// - `x` and `out` are `[T, channels]`, `tail` `[K - 1, channels]`, `weight` `[K, channels]`, `bias` `[channels]`.
///
/// The error is that of a sum of `K + 1` terms, in the order given.
#[derive(Clone, Copy, Debug)]
pub struct CausalConv<'a> {
    /// Inputs of this pass.
    pub x: &'a [f32],
    /// Inputs before them.
    pub tail: &'a [f32],
    /// The oldest position first.
    pub weight: &'a [f32],
    /// Added to each sum.
    pub bias: Option<&'a [f32]>,
    /// Channels.
    pub channels: usize,
}

/// Computes a [`CausalConv`].
pub fn causal_conv(cpu: &Cpu, conv: CausalConv<'_>, out: &mut [f32]) {
    let CausalConv { x, tail, weight, bias, channels } = conv;
    assert_eq!(x.len(), out.len(), "input and output of a convolution");
    if x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(channels), "{} is no number of rows of {channels}", x.len());
    assert!(!weight.is_empty() && weight.len() == tail.len() + channels, "a tail of one position less than the kernel");
    assert!(bias.is_none_or(|b| b.len() == channels), "a bias for each of {channels} channels");
    split::chunks(cpu, out, split::row_chunk(channels), |at, out| {
        cpu.isa.run(ConvOp { conv, first: at / channels, out });
    });
}

/// Whole rows of the result, from `first` on.
struct ConvOp<'a> {
    conv: CausalConv<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl ConvOp<'_> {
    /// The input `k` positions after the start of the kernel at row `t`.
    #[inline(always)]
    fn input(&self, t: usize, k: usize) -> &[f32] {
        let CausalConv { x, tail, channels, .. } = self.conv;
        let row = (t + k) * channels;
        if row < tail.len() { &tail[row..][..channels] } else { &x[row - tail.len()..][..channels] }
    }
}

impl SimdOp for ConvOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let CausalConv { weight, bias, channels, .. } = self.conv;
        let rows = self.out.len() / channels;
        let out = self.out.as_ptr().cast_mut();
        for row in 0..rows {
            for (k, weight) in weight.chunks_exact(channels).enumerate() {
                let input = self.input(self.first + row, k);
                let mut at = 0;
                while at < channels {
                    let n = S::LANES.min(channels - at);
                    // SAFETY: the weights, the input, the bias and each row of `out`, which this task alone writes, have
                    // `channels` floats, and `at + n <= channels`.
                    unsafe {
                        let y = out.add(row * channels + at);
                        let sum = match (k, bias) {
                            (0, None) => s.splat(0.0),
                            (0, Some(bias)) => load(s, bias.as_ptr().add(at), n),
                            _ => load(s, y, n),
                        };
                        let (w, x) = (load(s, weight.as_ptr().add(at), n), load(s, input.as_ptr().add(at), n));
                        store(s, y, s.fma(w, x, sum), n);
                    }
                    at += n;
                }
            }
        }
    }
}

/// # Safety
/// `p` is readable for `n <= LANES` floats.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
    // SAFETY: as the caller promises.
    unsafe { if n == S::LANES { s.load(p) } else { s.load_part(p, n) } }
}

/// # Safety
/// `p` is writable for `n <= LANES` floats.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F, n: usize) {
    // SAFETY: as the caller promises.
    unsafe { if n == S::LANES { s.store(p, v) } else { s.store_part(p, v, n) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Random};

    #[test]
    fn agrees_with_f64_for_all_lengths_and_in_pieces() {
        let mut random = Random::new(41);
        for cpu in check::cpus() {
            for channels in check::lengths().skip(1) {
                for kernel in [1, 2, 4, 5] {
                    let rows = 6;
                    let x = random.floats(rows * channels + 1, -1.0, 1.0);
                    let tail = random.floats((kernel - 1) * channels + 1, -1.0, 1.0);
                    let weight = random.floats(kernel * channels + 1, -1.0, 1.0);
                    let bias = random.floats(channels + 1, -1.0, 1.0);
                    let (x, tail, weight) = (&x[1..], &tail[1..], &weight[1..]);
                    for bias in [None, Some(&bias[1..])] {
                        let all: Vec<f32> = tail.iter().chain(x).copied().collect();
                        let one = |i: usize| {
                            let (t, c) = (i / channels, i % channels);
                            let tap = |k| f64::from(weight[k * channels + c]) * f64::from(all[(t + k) * channels + c]);
                            (0..kernel).map(tap).sum::<f64>() + bias.map_or(0.0, |b| f64::from(b[c]))
                        };
                        let want: Vec<f64> = (0..rows * channels).map(one).collect();
                        let mut out = vec![0.0; rows * channels + 1];
                        let conv = CausalConv { x, tail, weight, bias, channels };
                        causal_conv(&cpu, conv, &mut out[1..]);
                        check::close(&out[1..], &want, 1e-6, format_args!("{channels} channels, kernel {kernel}"));
                        let mut pieces = vec![0.0; rows * channels];
                        for t in 0..rows {
                            let piece = t * channels..(t + 1) * channels;
                            let tail = &all[piece.start..][..(kernel - 1) * channels];
                            causal_conv(&cpu, CausalConv { x: &x[piece.clone()], tail, ..conv }, &mut pieces[piece]);
                        }
                        assert_eq!(check::bits(&pieces), check::bits(&out[1..]), "a row alone has the same bits");
                    }
                }
            }
        }
    }
}
