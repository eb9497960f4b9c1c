//! Exponentials and sums over a whole vocabulary, in loops that the compiler turns into vector code.

/// Entries summed in single precision before the sum moves to double.
const BLOCK: usize = 256;
const LANES: usize = 8;

/// `e^x` to about one unit in the last place; 0 below -87 (subnormal results are flushed), for `x` ≤ 88.
///
/// `f32::exp` is a call per entry, and a vocabulary has 150,000 of them.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let tail = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0));
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * tail)));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let value = p * f32::from_bits(exponent);
    if x < -87.0 { 0.0 } else { value }
}

/// The largest entry, or -inf. There must be no NaN.
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    let rest = chunks.remainder().iter().copied();
    lanes.into_iter().chain(rest).fold(f32::NEG_INFINITY, |m, v| if v > m { v } else { m })
}

/// The sum of `e^((v - max) * scale)`, block sums in single precision, their sum in double.
pub(super) fn sum_exp(values: &[f32], max: f32, scale: f32) -> f64 {
    values.chunks(BLOCK).map(|block| f64::from(block_sum_exp(block, max, scale))).sum()
}

/// The same over one block.
pub(super) fn block_sum_exp(block: &[f32], max: f32, scale: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = block.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += exp((*v - max) * scale);
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|v| exp((*v - max) * scale)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// `ln Σ e^v`, or -inf if nothing is finite.
pub(crate) fn log_sum_exp(values: &[f32]) -> f32 {
    let max = max(values);
    if max == f32::NEG_INFINITY {
        return max;
    }
    (f64::from(max) + sum_exp(values, max, 1.0).ln()) as f32
}

/// Replaces what no model should give: NaN by -inf, +inf by the largest number.
pub(super) fn sanitize(values: &mut [f32]) {
    for v in values {
        *v = if v.is_nan() { f32::NEG_INFINITY } else { v.min(f32::MAX) };
    }
}

/// The index of the first largest entry.
pub(crate) fn argmax(values: &[f32]) -> usize {
    let max = max(values);
    values.iter().position(|v| *v == max).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0f64;
        for i in 0..=200_000 {
            let x = -87.0 + i as f32 * (175.0 / 200_000.0);
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - want) / want).abs());
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(-200.0)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn sums_agree_for_all_lengths() {
        for n in 0..=67 {
            let values: Vec<f32> = (0..n).map(|i| (i as f32 * 1.7).sin() * 9.0).collect();
            let want = values.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
            let got = f64::from(log_sum_exp(&values));
            assert!(n == 0 && got == f64::NEG_INFINITY || (got - want).abs() < 1e-6, "{n}: {got} {want}");
            let first = values.iter().position(|v| *v == max(&values)).unwrap_or(0);
            assert_eq!(argmax(&values), first);
        }
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        let mut odd = [f32::NAN, f32::INFINITY, 1.0];
        sanitize(&mut odd);
        assert_eq!(odd, [f32::NEG_INFINITY, f32::MAX, 1.0]);
    }
}
