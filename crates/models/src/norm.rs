//! Norms with their weights.

use mlxengine_tensor::Tensor;

use crate::Result;
use crate::spec::{self, NormKind, NormParameters};
use crate::weights::Scope;

/// A norm of the last axis with what a checkpoint stores of it.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    kind: NormKind,
    eps: f32,
}

impl Norm {
    pub(crate) fn load(spec: spec::Norm, w: &Scope<'_>, name: &str, dim: usize) -> Result<Self> {
        Self::load_of(spec, &w.at(name), &[dim])
    }

    /// A norm whose weight has another shape: one of several rows, which may be stored one by one under `norms`.
    pub(crate) fn load_of(spec: spec::Norm, w: &Scope<'_>, shape: &[usize]) -> Result<Self> {
        let (mut weight, mut bias) = (None, None);
        if spec.parameters != NormParameters::None {
            let stored = match *shape {
                [count, dim] if w.at("norms").at(0).has("weight") => {
                    let row = |i| Ok(w.at("norms").at(i).vector("weight", dim)?.reshape([1, dim]));
                    Tensor::concat((0..count).map(row).collect::<Result<Vec<_>>>()?, 0)
                }
                _ => w.floats("weight", shape)?,
            };
            weight = Some(match if w.converted() { spec.offset } else { spec.original_offset.max(spec.offset) } {
                0.0 => stored,
                offset => stored.add(&Tensor::from_f32(&[offset], [1])),
            });
        }
        if spec.parameters == NormParameters::WeightAndBias {
            bias = Some(w.floats("bias", shape)?);
        }
        Ok(Self { weight, bias, kind: spec.kind, eps: spec.eps })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let rows = self.weight.as_ref().is_some_and(|w| w.shape().len() > 1);
        let weight = self.weight.as_ref().filter(|_| !rows);
        let bias = self.bias.as_ref().filter(|_| !rows);
        let y = match self.kind {
            NormKind::Rms => x.rms_norm(weight, self.eps),
            NormKind::Layer => x.layer_norm(weight, bias, self.eps),
        };
        if !rows {
            return y;
        }
        let y = self.weight.iter().fold(y, Tensor::mul);
        self.bias.iter().fold(y, Tensor::add)
    }
}
