//! The affine map whose weight is whatever the checkpoint chose.

use mlxengine_tensor::{Precision, Tensor, Weight};

/// `x · Wᵀ + b`. Quantization lives here and not in models; adapters will.
#[derive(Debug)]
pub struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Tensor>,
    pub(crate) precision: Precision,
}

impl Linear {
    /// `x [.., inputs] -> [.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.shifted(x.linear(&self.weight, self.precision))
    }

    /// What each of several makes of one input, in one step where their weights lie alike.
    pub fn forward_all<const N: usize>(linears: [&Linear; N], x: &Tensor) -> [Tensor; N] {
        let products = x.linear_all(linears.map(|linear| &linear.weight), linears[0].precision);
        let mut linears = linears.iter();
        products.map(|y| linears.next().expect("a product for each").shifted(y))
    }

    fn shifted(&self, y: Tensor) -> Tensor {
        match &self.bias {
            Some(bias) => y.add(bias),
            None => y,
        }
    }
}

/// A stack of linear maps, one an expert.
#[derive(Debug)]
pub struct ExpertLinear {
    pub(crate) weight: Weight,
    /// `[experts, outputs]`.
    pub(crate) bias: Option<Tensor>,
    pub(crate) precision: Precision,
}

impl ExpertLinear {
    /// Each slot's row by its expert: `x [T, K]` or `[T, S, K]`, `ids [T, S]`, `-> [T, S, N]`.
    pub fn forward(&self, x: &Tensor, ids: &Tensor) -> Tensor {
        x.gather_linear(ids, &self.weight, self.bias.as_ref(), self.precision)
    }
}
