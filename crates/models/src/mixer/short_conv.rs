//! A short convolution between two gates: `out(c * conv(b * x))`.

use mlxengine_tensor::Tensor;

use super::conv::Conv;
use super::{Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::spec;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct ShortConv {
    input: Linear,
    conv: Conv,
    output: Linear,
    /// Where the last inputs of the convolution lie in a state.
    slot: usize,
}

impl ShortConv {
    pub(crate) fn load(spec: &spec::ShortConv, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let conv = Conv::load(&w.at("conv"), [dim, spec.kernel], spec.bias)?;
        Ok(Self {
            input: w.linear("in_proj", [dim, 3 * dim], spec.bias)?,
            output: w.linear("out_proj", [dim, dim], spec.bias)?,
            slot: plan.slot(spec.slot(dim)),
            conv,
        })
    }

    /// `x [N, dim] -> [N, dim]`, where the rows are those of the spans one after another.
    pub(crate) fn forward(&self, x: &Tensor, spans: &mut [Span<'_>]) -> Tensor {
        let dim = x.shape()[1];
        let all = self.input.forward(x);
        let [b, c, x] = [0, 1, 2].map(|part| all.clone().slice(1, part * dim, dim));
        let gated = b.mul(&x);
        let convolved =
            each_span(spans, [gated], |[x], span| self.conv.forward(&x, &mut span.state.recurrent(self.slot)[0]));
        self.output.forward(&c.mul(&convolved))
    }
}
