//! What compressed-tensors and ModelOpt pack, and 8-bit floats and integers: `weight` or `weight_packed` beside `weight_scale`.

use mlxengine_tensor::{Bytes, Dtype, Spec, Tensor, Weight};

use super::integers::{self, Integers};
use super::settings::Told;
use super::{Blocks, Quantizer, repack};
use crate::Result;
use crate::weights::Scope;

/// How codes lie in words.
#[derive(Clone, Copy)]
enum Packing {
    /// One after another, some in two words.
    Stream,
    /// As many as fit whole into each, as older files have them where bits do not divide a word.
    Whole,
}

impl Packing {
    /// Words of `count` codes.
    fn words(self, bits: usize, count: usize) -> usize {
        match self {
            Packing::Stream => (count * bits).div_ceil(32),
            Packing::Whole => count.div_ceil(32 / bits.clamp(1, 32)),
        }
    }

    /// The first bit of a code.
    fn bit(self, bits: usize, index: usize) -> usize {
        match self {
            Packing::Stream => index * bits,
            Packing::Whole => index / (32 / bits) * 32 + index % (32 / bits) * bits,
        }
    }
}

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

    /// Codes in words, the middle one for 0: `weight_packed [outputs, words]`.
    fn packed_integers(&self, codes: Tensor, shape: [usize; 2], told: Told) -> Result<Weight> {
        let [outputs, inputs] = shape;
        let words = codes.shape().last();
        let uneven = told.bits.filter(|bits| matches!(bits, 3 | 5 | 6)).map(|bits| bits as usize);
        let bits = uneven.unwrap_or((words * 32).checked_div(inputs).unwrap_or(0));
        let ways = [Packing::Stream, Packing::Whole].map(|way| (way, way.words(bits, inputs) == words));
        let packing = match ways {
            _ if codes.shape()[..] != [outputs, words] => None,
            [(way, fits), _] if uneven.is_none() => Some(way).filter(|_| fits && bits * inputs == words * 32),
            [(_, true), (_, true)] if inputs > 32 / bits => {
                let what = format!("packs {inputs} weights of {bits} bits into {words} words, which two layouts do");
                return Err(self.unsupported(what));
            }
            ways => ways.into_iter().find_map(|(way, fits)| fits.then_some(way)),
        };
        let Some(packing) = packing else { return Err(self.other_shape("weight_packed", &codes, shape)) };
        if !matches!(bits, 2..=6 | 8) {
            return Err(self.unsupported(format!("packs {bits} bits a weight; 2 to 6 and 8 are supported")));
        }
        self.shape_told(shape)?;
        let (scales, dtype) = self.over_blocks("weight_scale", shape, told.block)?;
        let zeros = match self.optional("weight_zero_point") {
            Some(packed) => Some(self.packed_zeros(&packed, (packing, bits), outputs, &scales)?),
            None => None,
        };
        let codes = match packing {
            Packing::Stream => codes.read_as(Dtype::U32).expect("words are words"),
            Packing::Whole => {
                integers::codes(&repack::stream(&repack::words(codes.bytes()), bits as u32, [words, inputs]), outputs)
            }
        };
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

    /// Zeros that are packed down the outputs as codes are along the inputs: `[words, groups]`.
    fn packed_zeros(
        &self,
        packed: &Tensor,
        (packing, bits): (Packing, usize),
        outputs: usize,
        scales: &Blocks,
    ) -> Result<Blocks> {
        let (down, groups) = (packing.words(bits, outputs), scales.columns);
        let fits = matches!(packed.dtype(), Dtype::I32 | Dtype::U32)
            && packed.shape()[..] == [down, groups]
            && scales.block[0] == 1;
        if !fits {
            return Err(self.misfit(format!("has zeros {}, which do not fit its scales", packed.spec())));
        }
        let columns = repack::turned(&repack::words(packed.bytes()), down, groups);
        let zero = |row: usize, group: usize| {
            repack::bits(&columns[group * down..(group + 1) * down], bits as u32, packing.bit(bits, row)) as f32
        };
        let numbers = (0..outputs).flat_map(|row| (0..groups).map(move |group| (row, group)));
        Ok(Blocks { numbers: numbers.map(|(row, group)| zero(row, group)).collect(), ..scales.clone() })
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
