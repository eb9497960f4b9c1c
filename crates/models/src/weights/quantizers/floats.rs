//! Floats of eight and of four bits.

use mlxengine_tensor::{Bytes, Dtype, QuantFormat, QuantMode, QuantizedTensor, Spec, Tensor, Weight, round_bf16};

use super::settings::Told;
use super::{Blocks, numbers};
use crate::Result;
use crate::weights::Scope;

/// Fewest elements of a block for which a table of all codes pays.
const TABLE: usize = 1024;

impl Scope<'_> {
    /// E4M3 numbers and scales of blocks. Where all scales are powers of two, MLX's mxfp8 holds the same; other products are
    /// rounded to `Bf16`, as the tools that write such files compute them.
    pub(super) fn eights(&self, codes: Tensor, shape: [usize; 2], told: Told) -> Result<Weight> {
        let [outputs, inputs] = shape;
        if codes.shape()[..] != shape {
            return Err(self.other_shape("weight", &codes, shape));
        }
        let name = if self.has("weight_scale_inv") { "weight_scale_inv" } else { "weight_scale" };
        let scale = self.part(name)?;
        let powers = matches!(scale.dtype(), Dtype::U8 | Dtype::F8E8m0);
        let scale = if powers { scale.read_as(Dtype::F8E8m0).unwrap_or_default() } else { scale };
        let fits = powers || scale.dtype().is_float();
        let Some(scales) = fits.then(|| Blocks::over(&scale, shape, told.block)).flatten() else {
            return Err(self.other_shape(name, &scale, shape));
        };
        let exponents = if powers || told.powers { exponents(&scales.numbers) } else { None };
        let whole = inputs.is_multiple_of(32) && scales.block[1].is_multiple_of(32);
        let Some(exponents) = exponents.filter(|_| whole) else {
            return Ok(Weight::Dense(rounded(&codes, &scales)));
        };
        let groups = (0..outputs).flat_map(|row| (0..inputs).step_by(32).map(move |column| [row, column]));
        let [down, across] = scales.block;
        let bytes: Vec<u8> = groups.map(|[r, c]| exponents[r / down * scales.columns + c / across]).collect();
        Ok(Weight::Quantized(QuantizedTensor {
            format: QuantFormat { mode: QuantMode::Mxfp8, bits: 8, group: 32 },
            codes: codes.read_as(Dtype::U32).expect("rows of whole words"),
            scales: Tensor::lying(Bytes::from(bytes), Spec::new(Dtype::U8, [outputs, inputs / 32])),
            biases: None,
            multiplier: 1.0,
        }))
    }

    /// E2M1 numbers, two a byte, the first in its low half: groups of 16 with E4M3 scales and perhaps one over all (NVFP4), or
    /// groups of 32 with powers of two (MXFP4). MLX has the very same.
    pub(super) fn fours(&self, codes: Tensor, shape: [usize; 2]) -> Result<Weight> {
        let [outputs, inputs] = shape;
        let scales = self.part("weight_scale")?;
        let size = scales.shape().last();
        let mode = match scales.dtype() {
            Dtype::U8 | Dtype::F8E8m0 if size * 32 == inputs => QuantMode::Mxfp4,
            Dtype::U8 | Dtype::F8E4m3 if size * 16 == inputs => QuantMode::Nvfp4,
            _ => return Err(self.other_shape("weight_scale", &scales, shape)),
        };
        let fits = codes.shape()[..] == [outputs, inputs / 2] && scales.shape()[..] == [outputs, size];
        let words = codes.clone().read_as(Dtype::U32).filter(|_| fits);
        let Some(words) = words else { return Err(self.other_shape("weight_packed", &codes, shape)) };
        let multiplier = match mode {
            QuantMode::Nvfp4 => self.over_all()?,
            _ => 1.0,
        };
        let format = QuantFormat { mode, bits: 4, group: inputs / size };
        let scales = scales.read_as(Dtype::U8).expect("bytes are bytes");
        Ok(Weight::Quantized(QuantizedTensor { format, codes: words, scales, biases: None, multiplier }))
    }

    /// The scale over all groups: ModelOpt multiplies by it, compressed-tensors divides.
    fn over_all(&self) -> Result<f32> {
        for (name, divides) in [("weight_scale_2", false), ("weight_global_scale", true)] {
            let Some(tensor) = self.optional(name) else { continue };
            let plain = tensor.dtype().is_float().then(|| numbers(&tensor)).flatten().unwrap_or_default();
            return match plain[..] {
                [scale] if scale.is_finite() && scale > 0.0 => Ok(if divides { 1.0 / scale } else { scale }),
                _ => Err(self.misfit(format!("has `{name}` as {}, and one positive number is needed", tensor.spec()))),
            };
        }
        Ok(1.0)
    }
}

/// The exponents, with a bias of 127, of numbers that are powers of two; `None` if one is not.
fn exponents(numbers: &[f32]) -> Option<Vec<u8>> {
    let exponent = |number: &f32| match number.to_bits() {
        0x0040_0000 => Some(0),
        bits if bits & 0x807f_ffff == 0 && (1..255).contains(&(bits >> 23)) => Some((bits >> 23) as u8),
        _ => None,
    };
    numbers.iter().map(exponent).collect()
}

/// The products of codes and scales in `Bf16`.
fn rounded(codes: &Tensor, scales: &Blocks) -> Tensor {
    let [rows, columns] = [codes.shape()[0], codes.shape()[1]];
    let number: [f32; 256] = std::array::from_fn(|code| Dtype::F8E4m3.of_byte(code as u8).unwrap_or_default());
    let product = |number: f32, scale: f32| ((round_bf16(number * scale).to_bits() >> 16) as u16).to_le_bytes();
    let (bytes, mut out) = (codes.bytes(), vec![0u8; rows * columns * 2]);
    let [down, across] = [scales.block[0].min(rows), scales.block[1].min(columns)];
    for top in (0..rows).step_by(down.max(1)) {
        for left in (0..columns).step_by(across.max(1)) {
            let scale = scales.at(top, left);
            let table = (down * across >= TABLE).then(|| number.map(|number| product(number, scale)));
            let width = across.min(columns - left);
            for row in top..(top + down).min(rows) {
                let at = row * columns + left;
                let line = bytes[at..at + width].iter().zip(out[2 * at..2 * (at + width)].as_chunks_mut().0);
                match &table {
                    Some(table) => line.for_each(|(code, out)| *out = table[*code as usize]),
                    None => line.for_each(|(code, out)| *out = product(number[*code as usize], scale)),
                }
            }
        }
    }
    Tensor::lying(Bytes::from(out), Spec::new(Dtype::Bf16, [rows, columns]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_have_exponents() {
        let powers: Vec<f32> = (0..255).map(|byte| Dtype::F8E8m0.of_byte(byte).unwrap()).collect();
        assert_eq!(exponents(&powers), Some((0..255).collect()));
        for odd in [0.0, -1.0, 3.0, 1.5, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 4.0] {
            assert_eq!(exponents(&[1.0, odd]), None, "{odd}");
        }
    }

    #[test]
    fn blocks_may_be_cut() {
        let (rows, columns) = (70, 75);
        let codes: Vec<u8> = (0..rows * columns).map(|i| (i * 37 % 251) as u8).collect();
        let tensor = Tensor::lying(Bytes::from(codes.clone()), Spec::new(Dtype::F8E4m3, [rows, columns]));
        for block in [[32, 32], [1, 75], [70, 75], [1, 25], [128, 128]] {
            let [down, across] = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
            let grid: Vec<f32> = (0..down * across).map(|i| 0.013 + i as f32 / 977.0).collect();
            let scales = Blocks::over(&Tensor::from_f32(&grid, [down, across]), [rows, columns], Some(block)).unwrap();
            let got = rounded(&tensor, &scales).to_f32().unwrap();
            for (i, got) in got.f32s().iter().enumerate() {
                let scale = grid[i / columns / block[0] * across + i % columns / block[1]];
                let want = round_bf16(Dtype::F8E4m3.of_byte(codes[i]).unwrap() * scale);
                assert_eq!(got.to_bits(), want.to_bits(), "{block:?} {i}");
            }
        }
    }
}
