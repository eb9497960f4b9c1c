//! Experts, in each of the ways in which checkpoints store them.

use mlxengine_tensor::{Dtype, QuantFormat, QuantMode, QuantizedTensor, Tensor, Weight};

use super::Scope;
use crate::linear::ExpertLinear;
use crate::mlp::ExpertsUp;
use crate::spec::{self, JoinedExperts};
use crate::{Error, Result};

impl Scope<'_> {
    /// The projections of all experts: stacked under `switch_mlp` (MLX) or `experts`, one by one under `experts.N`, or with
    /// gate and up joined in `experts.gate_up_proj`.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub(crate) fn experts(&self, spec: &spec::Experts, dim: usize) -> Result<(ExpertsUp, ExpertLinear)> {
        let (gated, hidden, bias) = match spec.unit {
            spec::Unit::Gated(unit) => (true, unit.hidden, unit.bias),
            spec::Unit::Plain(unit) => (false, unit.hidden, unit.bias),
            spec::Unit::Learned(_) => {
                return Err(Error::unsupported("experts with a learned function are not supported"));
            }
        };
        let one = |name: &str, from: usize, to: usize| self.stacked(name, [spec.count, to, from], bias);
        if !gated {
            return Ok((ExpertsUp::Plain(one("up_proj", dim, hidden)?), one("down_proj", hidden, dim)?));
        }
        let at = self.at("experts");
        if ["gate_up_proj", "gate_up_proj.weight", "gate_up_proj_blocks"].iter().any(|name| at.has(name)) {
            let both = at.joined_experts("gate_up_proj", [spec.count, 2 * hidden, dim], spec.joined, bias)?;
            let down = at.joined_experts("down_proj", [spec.count, dim, hidden], spec.joined, bias)?;
            let turns = spec.joined == JoinedExperts::TurnsOfColumns;
            return Ok((ExpertsUp::Joined { both, turns }, down));
        }
        let up = ExpertsUp::Gated { gate: one("gate_proj", dim, hidden)?, up: one("up_proj", dim, hidden)? };
        Ok((up, one("down_proj", hidden, dim)?))
    }

    /// The same layer of each expert, `[experts, outputs, inputs]`.
    fn stacked(&self, name: &str, shape: [usize; 3], bias: bool) -> Result<ExpertLinear> {
        let [count, outputs, inputs] = shape;
        let precision = self.feed_forward;
        let one_by_one = (0..count).map(|e| self.at("experts").at(e).at(name));
        if !self.at("experts").at(0).at(name).has_weight() {
            let stacks = ["switch_mlp", "experts"].map(|part| self.at(part).at(name));
            let w = stacks.iter().find(|w| w.has_weight()).unwrap_or(&stacks[0]);
            let bias = if bias { Some(w.floats("bias", &[count, outputs])?) } else { None };
            let delta = self.expert_delta(name, shape)?;
            let (weight, factors) = w.stack_weight(&shape)?;
            return Ok(ExpertLinear { weight, factors, bias, precision, delta });
        }
        let parts: Vec<Weight> = one_by_one.clone().map(|w| w.weight(&[outputs, inputs])).collect::<Result<_>>()?;
        let (weight, factors) = stack(&parts).ok_or_else(|| {
            Error::invalid(format!("the experts of `{}` are not all stored alike", self.at("experts").at(name).path))
        })?;
        let mut biases = Vec::new();
        if bias {
            for w in one_by_one {
                biases.push(w.vector("bias", outputs)?.reshape([1, outputs]));
            }
        }
        let bias = bias.then(|| Tensor::concat(biases, 0));
        Ok(ExpertLinear { weight, factors, bias, precision, delta: self.expert_delta(name, shape)? })
    }

    /// A layer of all experts in one tensor that is no module of its own.
    fn joined_experts(&self, name: &str, shape: [usize; 3], layout: JoinedExperts, bias: bool) -> Result<ExpertLinear> {
        let [count, outputs, inputs] = shape;
        let blocks = format!("{name}_blocks");
        let weight = if self.has(&blocks) {
            Weight::Quantized(self.blocks(name, shape)?)
        } else {
            let path = if self.has(name) { name.to_owned() } else { format!("{name}.weight") };
            let columns = layout != JoinedExperts::Rows;
            let lies = if columns { [count, inputs, outputs] } else { shape };
            let tensor = self.array(&path, &lies)?;
            Weight::Dense(if columns { tensor.permute(&[0, 2, 1]) } else { tensor })
        };
        let bias = if bias { Some(self.floats(&format!("{name}_bias"), &[count, outputs])?) } else { None };
        Ok(ExpertLinear { weight, factors: None, bias, precision: self.feed_forward, delta: None })
    }

    /// MXFP4 as Hugging Face stores it: bytes `[experts, outputs, groups, 16]` and scales `[experts, outputs, groups]`.
    fn blocks(&self, name: &str, [count, outputs, inputs]: [usize; 3]) -> Result<QuantizedTensor> {
        let part = |end: &str| {
            let path = self.at(format!("{name}_{end}")).path;
            self.weights.take(&path).ok_or_else(|| self.weights.missing(&path))
        };
        let (codes, scales) = (part("blocks")?, part("scales")?);
        let groups = inputs / 32;
        let bytes = codes.dtype() == Dtype::U8 && codes.shape()[..] == [count, outputs, groups, 16];
        let words = (bytes && inputs.is_multiple_of(32)).then(|| codes.clone().read_as(Dtype::U32)).flatten();
        match words {
            Some(words) if scales.shape()[..] == [count, outputs, groups] => {
                let format = QuantFormat { mode: QuantMode::Mxfp4, bits: 4, group: 32 };
                let codes = words.reshape([count, outputs, inputs / 8]);
                let weight = QuantizedTensor { format, codes, scales, biases: None, multiplier: 1.0 };
                self.weights.note(&self.at(name).path, &Weight::Quantized(weight.clone()));
                Ok(weight)
            }
            _ => Err(Error::invalid(format!(
                "`{}` holds blocks {} and scales {}, which do not fit weights [{count}, {outputs}, {inputs}]",
                self.at(name).path,
                codes.spec(),
                scales.spec()
            ))),
        }
    }
}

/// Experts stored one by one, copied into one stack, and what multiplies each, if that differs; `None` if they are not stored
/// alike.
fn stack(parts: &[Weight]) -> Option<(Weight, Option<Tensor>)> {
    let join = |tensors: Vec<&Tensor>| {
        let spec = tensors[0].spec();
        let alike = tensors.iter().all(|t| t.spec() == spec);
        let row = |t: &Tensor| t.clone().reshape([1, spec.shape[0], spec.shape[1]]);
        alike.then(|| Tensor::concat(tensors.iter().map(|t| row(t)), 0))
    };
    match parts.first()? {
        Weight::Dense(_) => {
            let tensors = parts.iter().map(|p| if let Weight::Dense(t) = p { Some(t) } else { None });
            Some((Weight::Dense(join(tensors.collect::<Option<_>>()?)?), None))
        }
        Weight::Quantized(first) => {
            let all: Vec<&QuantizedTensor> = parts
                .iter()
                .map(|p| if let Weight::Quantized(q) = p { Some(q) } else { None })
                .collect::<Option<_>>()?;
            if all.iter().any(|q| q.format != first.format) {
                return None;
            }
            let differ = all.iter().any(|q| q.multiplier != first.multiplier);
            let multipliers: Vec<f32> = all.iter().map(|q| q.multiplier).collect();
            let factors = differ.then(|| Tensor::from_f32(&multipliers, [multipliers.len(), 1]));
            let multiplier = if differ { 1.0 } else { first.multiplier };
            let biases: Option<Vec<&Tensor>> = all.iter().map(|q| q.biases.as_ref()).collect();
            let stack = QuantizedTensor {
                codes: join(all.iter().map(|q| &q.codes).collect())?,
                scales: join(all.iter().map(|q| &q.scales).collect())?,
                biases: match biases {
                    Some(biases) => Some(join(biases)?),
                    None => None,
                },
                multiplier,
                format: first.format,
            };
            Some((Weight::Quantized(stack), factors))
        }
    }
}
