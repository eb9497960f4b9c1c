//! AWQ and GPTQ: `qweight`, `qzeros` and `scales`, with the outputs along the rows. BitNet: `weight` and `weight_scale`.

use mlxengine_tensor::{Dtype, Tensor, Weight};

use super::integers::{self, Integers};
use super::{Blocks, numbers, repack};
use crate::Result;
use crate::weights::Scope;

impl Scope<'_> {
    /// `qweight [inputs, outputs / 8]` and `qzeros [groups, outputs / 8]` of nibbles that are out of order (Lin et al. 2023).
    pub(super) fn awq(&self, [outputs, inputs]: [usize; 2]) -> Result<Weight> {
        let packed = self.words("qweight")?;
        if !outputs.is_multiple_of(8) || !inputs.is_multiple_of(8) || packed.shape()[..] != [inputs, outputs / 8] {
            return Err(self.other_shape("qweight", &packed, [outputs, inputs]));
        }
        let (scales, dtype) = self.groups_of_rows([outputs, inputs])?;
        let groups = scales.columns;
        let zeros = match self.has("qzeros").then(|| self.words("qzeros")).transpose()? {
            Some(zeros) if zeros.shape()[..] == [groups, outputs / 8] => {
                let codes = repack::awq_codes(&repack::words(zeros.bytes()));
                Some(Blocks { numbers: repack::turned(&codes, groups, outputs), ..scales.clone() })
            }
            Some(zeros) => return Err(self.other_shape("qzeros", &zeros, [outputs, inputs])),
            None => None,
        };
        if let Some(order) = self.optional("g_idx") {
            let what = format!("has a `g_idx` {}, which AWQ has not: it is no AWQ file", order.spec());
            return Err(self.unsupported(what));
        }
        let words = repack::awq(&repack::words(packed.bytes()), inputs, outputs);
        let codes = integers::codes(&words, outputs);
        Ok(Integers { bits: 4, codes, scales, dtype, zeros, groups: None }.into_weight([outputs, inputs]))
    }

    /// `qweight [inputs * bits / 32, outputs]`, a bit stream down each column, and `qzeros [groups, outputs * bits / 32]`,
    /// along each row (Frantar et al. 2022). The first version of the format stores zeros less one.
    pub(super) fn gptq(&self, [outputs, inputs]: [usize; 2], one_less: bool) -> Result<Weight> {
        let packed = self.words("qweight")?;
        let [down, across] = [packed.shape()[0], packed.shape()[1]];
        let bits = (down * 32).checked_div(inputs).unwrap_or(0);
        if across != outputs || bits * inputs != down * 32 {
            return Err(self.other_shape("qweight", &packed, [outputs, inputs]));
        }
        if !matches!(bits, 2 | 3 | 4 | 8) {
            return Err(self.unsupported(format!("has codes of {bits} bits; GPTQ with 2, 3, 4 and 8 is supported")));
        }
        let (scales, dtype) = self.groups_of_rows([outputs, inputs])?;
        let groups = scales.columns;
        let packed_zeros = self.words("qzeros")?;
        if packed_zeros.shape()[..] != [groups, (outputs * bits).div_ceil(32)] || !(outputs * bits).is_multiple_of(32) {
            return Err(self.other_shape("qzeros", &packed_zeros, [outputs, inputs]));
        }
        let stream = repack::words(packed_zeros.bytes());
        let most = (1 << bits) - 1;
        let codes = (0..groups * outputs).map(|i| repack::code(&stream, bits as u32, i));
        let codes: Vec<f32> = codes.map(|zero| ((zero + u32::from(one_less)) & most) as f32).collect();
        let zeros = Blocks { numbers: repack::turned(&codes, groups, outputs), ..scales.clone() };
        let middle = f32::from(1u8 << (bits - 1));
        let zeros = zeros.numbers.iter().any(|zero| *zero != middle).then_some(zeros);
        let order = match self.optional("g_idx") {
            Some(order) => self.order(&order, inputs, scales.block[1], groups)?,
            None => None,
        };
        let words = repack::turned(&repack::words(packed.bytes()), down, outputs);
        let codes = integers::codes(&words, outputs);
        Ok(Integers { bits: bits as u32, codes, scales, dtype, zeros, groups: order }.into_weight([outputs, inputs]))
    }

    /// `weight U8 [outputs / 4, inputs]`, of four rows a quarter of the outputs apart, whose codes count from 1, and one
    /// `weight_scale` for all, which multiplies or divides.
    pub(super) fn ternary(&self, [outputs, inputs]: [usize; 2], divides: bool) -> Result<Weight> {
        let packed = self.part("weight")?;
        if packed.dtype() != Dtype::U8 || packed.shape()[..] != [outputs / 4, inputs] || !outputs.is_multiple_of(4) {
            return Err(self.other_shape("weight", &packed, [outputs, inputs]));
        }
        let (mut scales, mut dtype) = self.over_blocks("weight_scale", [outputs, inputs], None)?;
        if scales.numbers.len() != 1 || !dtype.is_float() {
            return Err(
                self.misfit(format!("has {} scales of type {dtype}, and one float is needed", scales.numbers.len()))
            );
        }
        if divides {
            (scales.numbers[0], dtype) = (1.0 / scales.numbers[0], Dtype::F32);
        }
        let codes = integers::codes(&repack::quarters(packed.bytes(), outputs, inputs), outputs);
        let zeros = Some(Blocks { numbers: vec![1.0], ..scales.clone() });
        Ok(Integers { bits: 2, codes, scales, dtype, zeros, groups: None }.into_weight([outputs, inputs]))
    }

    /// `scales [groups, outputs]`, a row for each group of inputs.
    fn groups_of_rows(&self, [outputs, inputs]: [usize; 2]) -> Result<(Blocks, Dtype)> {
        let scales = self.part("scales")?;
        let plain = scales.dtype().is_float().then(|| numbers(&scales)).flatten();
        match (&scales.shape()[..], plain) {
            (&[groups, across], Some(plain)) if across == outputs && groups > 0 && inputs.is_multiple_of(groups) => {
                let numbers = repack::turned(&plain, groups, outputs);
                Ok((Blocks { numbers, columns: groups, block: [1, inputs / groups] }, scales.dtype()))
            }
            _ => Err(self.other_shape("scales", &scales, [outputs, inputs])),
        }
    }

    /// The group of each input, if groups do not lie one after another.
    pub(super) fn order(
        &self,
        order: &Tensor,
        inputs: usize,
        group: usize,
        groups: usize,
    ) -> Result<Option<Vec<usize>>> {
        let listed = matches!(order.dtype(), Dtype::I32 | Dtype::I64) && order.shape()[..] == [inputs];
        let plain = listed.then(|| numbers(order)).flatten().unwrap_or_default();
        let fits = plain.len() == inputs && plain.iter().all(|g| *g >= 0.0 && (*g as usize) < groups);
        if !fits {
            let what = format!("has an order of groups {} that does not fit {inputs} inputs", order.spec());
            return Err(self.misfit(what));
        }
        let plain: Vec<usize> = plain.into_iter().map(|g| g as usize).collect();
        Ok(if plain.iter().enumerate().all(|(input, g)| *g == input / group) { None } else { Some(plain) })
    }

    pub(super) fn other_shape(&self, name: &str, tensor: &Tensor, [outputs, inputs]: [usize; 2]) -> crate::Error {
        let spec = tensor.spec();
        self.misfit(format!("has `{name}` as {spec}, which does not fit weights [{outputs}, {inputs}]"))
    }
}
