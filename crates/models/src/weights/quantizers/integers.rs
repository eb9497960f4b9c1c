//! Integers with a scale and perhaps a zero a group: weights are `scale · (code - zero)`.

use mlxengine_tensor::{Bytes, Dtype, QuantFormat, QuantMode, QuantizedTensor, Spec, Tensor, Weight};

use super::{Blocks, repack};

/// Integers in MLX's order of codes.
pub(super) struct Integers {
    pub(super) bits: u32,
    /// `U32 [outputs, inputs * bits / 32]`.
    pub(super) codes: Tensor,
    pub(super) scales: Blocks,
    /// The type that the scales are stored in.
    pub(super) dtype: Dtype,
    /// The code that stands for 0, where that is not the middle one.
    pub(super) zeros: Option<Blocks>,
    /// The group of each input, where groups do not lie one after another.
    pub(super) groups: Option<Vec<usize>>,
}

impl Integers {
    /// The weights in MLX's affine layout, `scale · code + bias`, where that has such groups; otherwise plain numbers in the
    /// type of the scales.
    ///
    /// Both are exact: a bias `-scale · zero` is kept in the type of the scales if that holds it, and with them as `F32` if not.
    pub(super) fn into_weight(self, shape: [usize; 2]) -> Weight {
        let run = self.scales.block[1];
        let group = [128, 64, 32].into_iter().find(|g| run.is_multiple_of(*g) && shape[1].is_multiple_of(*g));
        match group {
            Some(group) if self.groups.is_none() => self.affine(shape, group),
            _ => Weight::Dense(self.plain(shape)),
        }
    }

    fn zero(&self, row: usize, column: usize) -> f32 {
        self.zeros.as_ref().map_or((1 << (self.bits - 1)) as f32, |zeros| zeros.at(row, column))
    }

    fn affine(self, [outputs, inputs]: [usize; 2], group: usize) -> Weight {
        let size = [outputs, inputs / group];
        let each = |f: &dyn Fn(usize, usize) -> f32| {
            let numbers = (0..outputs).flat_map(|row| (0..inputs).step_by(group).map(move |column| f(row, column)));
            Tensor::from_f32(&numbers.collect::<Vec<_>>(), size)
        };
        let scales = each(&|row, column| self.scales.at(row, column));
        let biases = each(&|row, column| -self.scales.at(row, column) * self.zero(row, column));
        let kept = |plain: &Tensor| plain.cast(self.dtype).to_f32().is_some_and(|back| back.f32s() == plain.f32s());
        let dtype = if kept(&scales) && kept(&biases) { self.dtype } else { Dtype::F32 };
        Weight::Quantized(QuantizedTensor {
            format: QuantFormat { mode: QuantMode::Affine, bits: self.bits, group },
            scales: scales.cast(dtype),
            biases: Some(biases.cast(dtype)),
            codes: self.codes,
            multiplier: 1.0,
        })
    }

    fn plain(&self, [outputs, inputs]: [usize; 2]) -> Tensor {
        let words = repack::words(self.codes.bytes());
        let width = self.codes.shape().last();
        let mut numbers = Vec::with_capacity(outputs * inputs);
        for row in 0..outputs {
            let codes = &words[row * width..(row + 1) * width];
            numbers.extend((0..inputs).map(|input| {
                let column = self.groups.as_ref().map_or(input, |groups| groups[input] * self.scales.block[1]);
                self.scales.at(row, column) * (repack::code(codes, self.bits, input) as f32 - self.zero(row, column))
            }));
        }
        Tensor::from_f32(&numbers, [outputs, inputs]).cast(self.dtype)
    }
}

/// Codes `[outputs, words of a row]` that were put in order.
pub(super) fn codes(words: &[u32], outputs: usize) -> Tensor {
    let width = words.len() / outputs.max(1);
    Tensor::lying(Bytes::from(repack::bytes(words)), Spec::new(Dtype::U32, [outputs, width]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(bits: u32, [outputs, inputs]: [usize; 2], group: usize, zeros: bool) -> Integers {
        let words: Vec<u32> = (0..(outputs * inputs * bits as usize / 32) as u32)
            .map(|i| i.wrapping_mul(0x9e37_79b9).rotate_left(i % 29))
            .collect();
        let columns = inputs / group;
        let count = outputs * columns;
        // Halves of all their bits.
        let scales: Vec<f32> = (0..count).map(|i| (1024 + i * 37 % 1024) as f32 / 65536.0).collect();
        let blocks = |numbers| Blocks { numbers, columns, block: [1, group] };
        let middle = (1 << bits) as f32;
        Integers {
            bits,
            codes: codes(&words, outputs),
            scales: blocks(scales),
            dtype: Dtype::F16,
            zeros: zeros.then(|| blocks((0..count).map(|i| i as f32 % middle).collect())),
            groups: None,
        }
    }

    /// The weights by their definition, in double precision.
    fn defined(q: &Integers, [outputs, inputs]: [usize; 2]) -> Vec<f64> {
        let (words, width) = (repack::words(q.codes.bytes()), q.codes.shape().last());
        let of = |row: usize, input: usize| {
            let column = q.groups.as_ref().map_or(input, |groups| groups[input] * q.scales.block[1]);
            let code = repack::code(&words[row * width..][..width], q.bits, input);
            f64::from(q.scales.at(row, column)) * (f64::from(code) - f64::from(q.zero(row, column)))
        };
        (0..outputs).flat_map(|row| (0..inputs).map(move |input| (row, input))).map(|(r, i)| of(r, i)).collect()
    }

    #[test]
    fn every_weight_is_exact() {
        let shape = [6, 256];
        for bits in [2, 3, 4, 8] {
            for (group, zeros) in [(32, true), (64, false), (128, true), (256, false), (256, true)] {
                let q = integers(bits, shape, group, zeros);
                let want = defined(&q, shape);
                let Weight::Quantized(got) = q.into_weight(shape) else { panic!("{bits} {group}") };
                assert_eq!(got.format, QuantFormat { mode: QuantMode::Affine, bits, group: group.min(128) });
                assert_eq!(got.scales.dtype(), if zeros { Dtype::F32 } else { Dtype::F16 });
                let got = got.dequantize(Dtype::F32);
                assert!(got.f32s().iter().zip(&want).all(|(got, want)| f64::from(*got) == *want), "{bits} {group}");
            }
        }
    }

    #[test]
    fn groups_that_mlx_does_not_have_become_numbers() {
        let shape = [4, 96];
        let mixed: Vec<usize> = (0..96).map(|i| i * 5 % 3).collect();
        for (group, groups) in [(16, None), (32, Some(mixed))] {
            let q = Integers { groups, ..integers(4, shape, group, true) };
            let want = defined(&q, shape);
            let Weight::Dense(got) = q.into_weight(shape) else { panic!("{group}") };
            assert_eq!(got.dtype(), Dtype::F16);
            let got = got.to_f32().unwrap();
            // Eleven bits of the scale by five of the code, rounded to eleven.
            let near = |got: f32, want: f64| (f64::from(got) - want).abs() <= want.abs() * 0.5f64.powi(11);
            assert!(got.f32s().iter().zip(&want).all(|(got, want)| near(*got, *want)), "{group}");
        }
    }
}
