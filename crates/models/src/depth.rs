//! Attention over depth: what a half of a layer sees of the blocks of layers before it.

use mlxengine_tensor::Tensor;

use crate::Result;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec;
use crate::weights::Scope;

/// A weighted mean of the sums that blocks of layers have made.
#[derive(Debug)]
pub(crate) struct DepthMix {
    norm: Norm,
    score: Linear,
}

impl DepthMix {
    /// `NAME_norm` and `NAME_proj`.
    pub(crate) fn load(norm: spec::Norm, w: &Scope<'_>, name: &str, dim: usize) -> Result<Self> {
        Ok(Self {
            norm: Norm::load(norm, w, &format!("{name}_norm"), dim)?,
            score: w.linear(&format!("{name}_proj"), [dim, 1], false)?,
        })
    }

    /// The mean of the sums `[N, dim]` of all blocks and of the one that `x` is the sum of so far.
    pub(crate) fn forward(&self, blocks: &[Tensor], x: &Tensor) -> Tensor {
        if blocks.is_empty() {
            return x.clone();
        }
        let all = || blocks.iter().chain([x]);
        let shares = Tensor::concat(all().map(|sum| self.score.forward(&self.norm.forward(sum))), 1).softmax();
        let parts = all().enumerate().map(|(i, sum)| sum.clone().mul(&shares.clone().slice(1, i, 1)));
        parts.reduce(|mean, part| mean.add(&part)).expect("there is one")
    }
}
