//! What compressed-tensors and ModelOpt pack, and 8-bit floats and integers: `weight` or `weight_packed` beside `weight_scale`.

use mlxengine_tensor::{Bytes, Dtype, Spec, Tensor, Weight};

use super::integers::Integers;
use super::settings::Told;
use super::{Blocks, Quantizer, repack};
use crate::Result;
use crate::weights::Scope;

impl Scope<'_> {
    pub(super) fn compressed(&self, shape: [usize; 2], quantizer: &Quantizer) -> Result<Weight> {
        let name = if self.has("weight_packed") { "weight_packed" } else { "weight" };
        let codes = self.part(name)?;
        let file = self.weights.source_of(&self.at(name).path).unwrap_or_default();
        let module = file.strip_suffix(name).unwrap_or(file).trim_end_matches('.');
        let told = quantizer.told(module)?;
        let halves = codes.shape().last() * 2 == shape[1];
        let weight = match (name, codes.dtype()) {
            ("weight_packed", Dtype::I32 | Dtype::U32) => self.packed_integers(codes, shape, told)?,
            (_, Dtype::U8) if halves => self.fours(codes, shape)?,
            ("weight", Dtype::I8) => self.bytes_of_integers(&codes, shape, told)?,
            ("weight", Dtype::F8E4m3 | Dtype::U8) => self.eights(codes, shape, told)?,
            _ => {
                let what = format!("has `{name}` as {}: no quantization that is known", codes.spec());
                return Err(self.unsupported(what));
            }
        };
        let stored = match &weight {
            Weight::Quantized(q) => q.format.bits,
            Weight::Dense(_) => told.bits.unwrap_or(0),
        };
        match told.bits {
            Some(bits) if bits != stored => Err(self.misfit(format!(
                "holds codes of {stored} bits, and config.json says {bits}: they do not belong together"
            ))),
            _ => Ok(weight),
        }
    }

    /// Whole codes to a word, the middle one for 0: `weight_packed [outputs, inputs * bits / 32]`.
    fn packed_integers(&self, codes: Tensor, shape: [usize; 2], told: Told) -> Result<Weight> {
        let [outputs, inputs] = shape;
        let words = codes.shape().last();
        let bits = (words * 32).checked_div(inputs).unwrap_or(0);
        if codes.shape()[..] != [outputs, words] || bits * inputs != words * 32 {
            return Err(self.other_shape("weight_packed", &codes, shape));
        }
        if !matches!(bits, 2 | 4 | 8) {
            return Err(self.unsupported(format!("packs {bits} bits a weight; 2, 4 and 8 are supported")));
        }
        self.shape_told(shape)?;
        let (scales, dtype) = self.over_blocks("weight_scale", shape, told.block)?;
        let zeros = match self.optional("weight_zero_point") {
            Some(packed) => Some(self.packed_zeros(&packed, bits, outputs, &scales)?),
            None => None,
        };
        let codes = codes.read_as(Dtype::U32).expect("words are words");
        self.integers(Integers { bits: bits as u32, codes, scales, dtype, zeros, groups: None }, shape, told)
    }

    /// The shape that the file says the weights have.
    fn shape_told(&self, shape: [usize; 2]) -> Result<()> {
        let Some(told) = self.optional("weight_shape") else { return Ok(()) };
        let told = super::numbers(&told).unwrap_or_default();
        if told == shape.map(|size| size as f32) {
            return Ok(());
        }
        Err(self.misfit(format!("is of shape {told:?} by its own account, and the model asks for {shape:?}")))
    }

    /// Zeros that are packed down the outputs: `[outputs * bits / 32, groups]`, the last word perhaps in part.
    fn packed_zeros(&self, packed: &Tensor, bits: usize, outputs: usize, scales: &Blocks) -> Result<Blocks> {
        let (each, groups) = (32 / bits, scales.columns);
        let fits = matches!(packed.dtype(), Dtype::I32 | Dtype::U32)
            && packed.shape()[..] == [outputs.div_ceil(each), groups]
            && scales.block[0] == 1;
        if !fits {
            return Err(self.misfit(format!("has zeros {}, which do not fit its scales", packed.spec())));
        }
        let words = repack::words(packed.bytes());
        let zero = |row: usize, group: usize| {
            let word = words[row / each * groups + group];
            (word >> (row % each * bits) & ((1 << bits) - 1)) as f32
        };
        let numbers = (0..outputs).flat_map(|row| (0..groups).map(move |group| zero(row, group)));
        Ok(Blocks { numbers: numbers.collect(), ..scales.clone() })
    }

    /// Signed bytes `[outputs, inputs]`: with their first bits turned, they count from 128.
    fn bytes_of_integers(&self, codes: &Tensor, shape: [usize; 2], told: Told) -> Result<Weight> {
        let [outputs, inputs] = shape;
        if codes.shape()[..] != shape || !inputs.is_multiple_of(4) {
            return Err(self.other_shape("weight", codes, shape));
        }
        let (scales, dtype) = self.over_blocks("weight_scale", shape, told.block)?;
        let zeros =
            match self.has("weight_zero_point").then(|| self.over_blocks("weight_zero_point", shape, told.block)) {
                Some(zeros) => {
                    let (mut zeros, kind) = zeros?;
                    if kind != Dtype::I8 {
                        return Err(self.misfit(format!("has zeros of type {kind} for signed bytes")));
                    }
                    zeros.numbers.iter_mut().for_each(|zero| *zero += 128.0);
                    Some(zeros)
                }
                None => None,
            };
        let turned: Vec<u8> = codes.bytes().iter().map(|code| code ^ 0x80).collect();
        let codes = Tensor::lying(Bytes::from(turned), Spec::new(Dtype::U32, [outputs, inputs / 4]));
        self.integers(Integers { bits: 8, codes, scales, dtype, zeros, groups: None }, shape, told)
    }

    /// Integers with the order of their groups, if they have one.
    fn integers(&self, integers: Integers, shape: [usize; 2], told: Told) -> Result<Weight> {
        if !integers.dtype.is_float() {
            return Err(self.misfit(format!("has scales of type {}, which are no floats", integers.dtype)));
        }
        if told.zeros && integers.zeros.is_none() {
            return Err(self.misfit("has no `weight_zero_point`, and config.json says that its codes count from one"));
        }
        let groups = match self.optional("weight_g_idx") {
            Some(order) => self.order(&order, shape[1], integers.scales.block[1], integers.scales.columns)?,
            None => None,
        };
        Ok(Integers { groups, ..integers }.into_weight(shape))
    }
}
