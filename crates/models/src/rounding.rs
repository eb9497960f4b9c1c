//! Numbers rounded as if they had been stored in few bits: blocks of a row share a scale. A model that was trained with a cache
//! of such numbers needs them rounded whatever its cache holds.

use mlxengine_tensor::Tensor;

/// Codes and scales of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Blocks {
    /// E4M3 codes of 32 numbers behind a power of two.
    Fp8,
    /// E2M1 codes of 32 numbers behind a power of two.
    Fp4,
    /// E2M1 codes of 16 numbers behind an E4M3 scale.
    NvFp4,
}

impl Blocks {
    /// `x` rounded along its last axis; as it is where the axis does not divide into blocks.
    pub(crate) fn round(self, x: &Tensor) -> Tensor {
        let size = if self == Blocks::NvFp4 { 16 } else { 32 };
        if !x.shape().last().is_multiple_of(size) {
            return x.clone();
        }
        let mut numbers = x.f32s().to_vec();
        numbers.chunks_exact_mut(size).for_each(|block| self.round_block(block));
        Tensor::from_f32(&numbers, *x.shape())
    }

    fn round_block(self, block: &mut [f32]) {
        let largest = block.iter().fold(0f32, |most, x| most.max(x.abs()));
        let power = |largest: f32, code: f32| (largest / code).log2().ceil().exp2();
        let scale = match self {
            Blocks::Fp8 => power(largest.max(1e-4), 448.0),
            Blocks::Fp4 => power(largest.max(6.0 * f32::MIN_POSITIVE), 6.0),
            Blocks::NvFp4 => e4m3(largest.max(6.0 / 512.0) / 6.0),
        };
        for x in block {
            let code = *x / scale;
            *x = scale * if self == Blocks::Fp8 { e4m3(code) } else { e2m1(code) };
        }
    }
}

/// `x` rounded to 8-bit multiples of `step`, of two the even one.
pub(crate) fn to_steps(x: &Tensor, step: f32) -> Tensor {
    let numbers: Vec<f32> = x.f32s().iter().map(|x| (x / step).round_ties_even().clamp(-128.0, 127.0) * step).collect();
    Tensor::from_f32(&numbers, *x.shape())
}

/// The nearest number of 4 bits exponent and 3 bits mantissa, the even one of two; at most 448.
fn e4m3(x: f32) -> f32 {
    let exponent = (x.abs().to_bits() >> 23) as i32 - 127;
    let step = f32::exp2((exponent.max(-6) - 3) as f32);
    ((x / step).round_ties_even() * step).clamp(-448.0, 448.0)
}

/// The nearest number of 2 bits exponent and 1 bit mantissa, the even one of two; at most 6.
fn e2m1(x: f32) -> f32 {
    let step = match x.abs() {
        x if x < 2.0 => 0.5,
        x if x < 4.0 => 1.0,
        _ => 2.0,
    };
    ((x / step).round_ties_even() * step).clamp(-6.0, 6.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_nearest() {
        let ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 9.0].map(e2m1);
        assert_eq!(ties, [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]);
        let numbers = [0.3, -17.1, 500.0, 0.001, 1.0625, 1.1875].map(e4m3);
        assert_eq!(numbers, [0.3125, -18.0, 448.0, 0.001_953_125, 1.0, 1.25]);
    }

    #[test]
    fn steps_end_where_8_bits_do() {
        let rounded = to_steps(&Tensor::from_f32(&[0.24, 0.25, 0.75, -70.0, 70.0], [5]), 0.5);
        assert_eq!(rounded.f32s(), [0.0, 0.0, 1.0, -64.0, 63.5]);
    }

    #[test]
    fn blocks_have_scales_of_their_own() {
        let x: Vec<f32> = (0..64).map(|i| if i < 32 { 0.01 } else { 3.3 }).collect();
        let rounded = Blocks::Fp4.round(&Tensor::from_f32(&x, [1, 64]));
        assert_eq!(rounded.f32s()[0], 6.0 / 512.0);
        assert_eq!(rounded.f32s()[63], 3.0);
        let odd = Tensor::from_f32(&[0.123; 5], [1, 5]);
        assert_eq!(Blocks::Fp8.round(&odd).f32s(), odd.f32s());
    }
}
