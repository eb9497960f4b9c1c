//! Weights as MLX lays them out: plain, or codes with their scales.

use mlxengine_tensor::{Dtype, QuantFormat, QuantMode, QuantizedTensor, Shape, Tensor, Weight};

use super::Scope;
use crate::{Error, ErrorKind, Result};

impl Scope<'_> {
    /// The weight of this module, in the form that its tensors show.
    pub(super) fn weight(&self, shape: &[usize]) -> Result<Weight> {
        match self.stack_weight(shape)? {
            (weight, None) => Ok(weight),
            (_, Some(_)) => Err(Error::new(
                ErrorKind::UnsupportedQuantization,
                format!("`{}` has a scale over all weights of each expert, which is not supported here", self.path),
            )),
        }
    }

    /// The same of a stack, and what multiplies each one's weights, if that differs.
    pub(super) fn stack_weight(&self, shape: &[usize]) -> Result<(Weight, Option<Tensor>)> {
        let (weight, factors) = match self.of_quantizer(shape)? {
            Some(weight) => (weight, None),
            None => self.plain_or_packed(shape)?,
        };
        self.weights.note(&self.path, &weight);
        Ok((weight, factors))
    }

    fn plain_or_packed(&self, shape: &[usize]) -> Result<(Weight, Option<Tensor>)> {
        let name = self.at("weight").path;
        let tensor = self.weights.take(&name).ok_or_else(|| self.weights.missing(&name))?;
        if !self.has("scales") {
            self.at("weight").expect(&tensor, shape)?;
            return Ok((Weight::Dense(tensor), None));
        }
        let packed = self.quantized(tensor, shape)?;
        if !self.has("global_scale") {
            return Ok((Weight::Quantized(packed), None));
        }
        let scales = self.global_scales()?;
        match (scales.f32s(), shape) {
            ([scale], _) => Ok((Weight::Quantized(QuantizedTensor { multiplier: *scale, ..packed }), None)),
            (each, [count, _, _]) if each.len() == *count => {
                Ok((Weight::Quantized(packed), Some(scales.clone().reshape([*count, 1]))))
            }
            _ => Err(Error::new(
                ErrorKind::UnsupportedQuantization,
                format!("`{name}` has global scales {}, one or one an expert is supported", scales.spec()),
            )),
        }
    }

    /// Reads the layout off the shapes, as the reference does: what the configuration says of bits and groups may be old.
    fn quantized(&self, codes: Tensor, shape: &[usize]) -> Result<QuantizedTensor> {
        let part = |name: &str| {
            let path = self.at(name).path;
            self.weights.take(&path).ok_or_else(|| self.weights.missing(&path))
        };
        let scales = part("scales")?;
        let columns = shape[shape.len() - 1];
        let wrong = |what: &str| {
            let wanted = Shape::from(shape);
            let (codes, scales) = (codes.spec(), scales.spec());
            Error::invalid(format!(
                "`{}` holds codes {codes} and scales {scales}, {what} for weights {wanted}",
                self.path
            ))
        };
        let rows = &shape[..shape.len() - 1];
        let fits =
            |t: &Tensor| t.shape().len() == shape.len() && t.shape()[..rows.len()] == *rows && t.shape().last() > 0;
        if codes.dtype() != Dtype::U32 || !fits(&codes) || !fits(&scales) {
            return Err(wrong("which do not fit"));
        }
        let (words, groups) = (codes.shape().last(), scales.shape().last());
        if !(words * 32).is_multiple_of(columns) || !columns.is_multiple_of(groups) {
            return Err(wrong("which do not fit"));
        }
        let (bits, group) = ((words * 32 / columns) as u32, columns / groups);
        let mode = match (scales.dtype(), bits, group) {
            (Dtype::U8, 4, 32) => QuantMode::Mxfp4,
            (Dtype::U8, 8, 32) => QuantMode::Mxfp8,
            (Dtype::U8, 4, 16) => QuantMode::Nvfp4,
            (dtype, 1..=6 | 8, 32 | 64 | 128) if dtype.is_float() => QuantMode::Affine,
            _ => {
                let message = format!("a quantization of {bits} bits in groups of {group} that is not known");
                return Err(Error::new(ErrorKind::UnsupportedQuantization, wrong(&message).to_string()));
            }
        };
        let biases = if mode == QuantMode::Affine { Some(part("biases")?) } else { None };
        if biases.as_ref().is_some_and(|b| b.spec() != scales.spec()) {
            return Err(wrong("with biases of another shape"));
        }
        let format = QuantFormat { mode, bits, group };
        Ok(QuantizedTensor { format, codes, scales, biases, multiplier: 1.0 })
    }

    /// NVFP4 files may divide all weights by their largest; 2688 is the largest product of a code and a scale (6 · 448).
    fn global_scales(&self) -> Result<Tensor> {
        let path = self.at("global_scale").path;
        let tensor = self.weights.take(&path).ok_or_else(|| self.weights.missing(&path))?;
        match tensor.to_f32().filter(|_| tensor.dtype().is_float()) {
            Some(scales) => {
                let numbers: Vec<f32> = scales.f32s().iter().map(|scale| scale / 2688.0).collect();
                Ok(Tensor::from_f32(&numbers, [numbers.len()]))
            }
            None => Err(Error::new(
                ErrorKind::UnsupportedQuantization,
                format!("`{path}` is {}, and floats are needed", tensor.spec()),
            )),
        }
    }
}
