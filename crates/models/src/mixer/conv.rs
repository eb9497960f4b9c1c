//! A causal convolution of each channel alone, over the last few positions.

use mlxengine_tensor::{Shape, Tensor};

use crate::Result;
use crate::weights::Scope;

#[derive(Debug)]
pub(super) struct Conv {
    /// `[kernel, channels]`: the oldest position first.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Conv {
    pub(super) fn load(w: &Scope<'_>, [channels, kernel]: [usize; 2], bias: bool) -> Result<Self> {
        let weight = w.kernels("weight", [channels, kernel])?.permute(&[1, 0]);
        let bias = if bias { Some(w.vector("bias", channels)?) } else { None };
        Ok(Self { weight, bias })
    }

    /// Shape of the inputs that a sequence carries from one pass to the next.
    pub(super) fn tail(&self) -> Shape {
        [self.weight.shape()[0] - 1, self.weight.shape()[1]].into()
    }

    /// `x [T, channels] -> [T, channels]`, after the inputs in `tail`, which it moves on.
    pub(super) fn forward(&self, x: &Tensor, tail: &mut Tensor) -> Tensor {
        let [kernel, count] = [self.weight.shape()[0], x.shape()[0]];
        let all = Tensor::concat([tail.clone(), x.clone()], 0);
        // A copy: a slice would keep the whole pass alive.
        let rest = all.clone().slice(0, count, kernel - 1);
        *tail = Tensor::zeros(rest.dtype(), *rest.shape()).add(&rest);
        let tap = |k: usize| all.clone().slice(0, k, count).mul(&self.weight.clone().slice(0, k, 1));
        let y = (1..kernel).fold(tap(0), |sum, k| sum.add(&tap(k)));
        match &self.bias {
            Some(bias) => y.add(bias),
            None => y,
        }
    }
}
