//! A causal convolution of each channel alone, over the last few positions.

use mlxengine_tensor::Tensor;

use crate::Result;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct Conv {
    /// `[kernel, channels]`: the oldest position first.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Conv {
    pub(crate) fn load(w: &Scope<'_>, [channels, kernel]: [usize; 2], bias: bool) -> Result<Self> {
        let bias = if bias { Some(w.vector("bias", channels)?) } else { None };
        Ok(Self { bias, ..Self::new(w.kernels("weight", [channels, kernel])?) })
    }

    /// Without a bias, of kernels `[channels, kernel]`.
    pub(crate) fn new(kernels: Tensor) -> Self {
        Self { weight: kernels.permute(&[1, 0]), bias: None }
    }

    /// `x [T, channels] -> [T, channels]`, after the inputs in `tail`, which it moves on.
    pub(crate) fn forward(&self, x: &Tensor, tail: &mut Tensor) -> Tensor {
        x.causal_conv(tail, &self.weight, self.bias.as_ref())
    }
}
