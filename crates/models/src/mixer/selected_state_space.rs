//! A selective state space with a decay a head, whose time steps, `b` and `c` follow from what its convolution gives.

use mlxengine_tensor::{Binary, Tensor, Unary};

use super::conv::Conv;
use super::{Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct SelectedStateSpace {
    /// Of each head: its gate, its input.
    input: Linear,
    conv: Conv,
    /// From the convolved inputs to `b`, `c` and the time steps' low rank.
    select: Linear,
    /// On those.
    norms: [Norm; 3],
    step: Linear,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
    output: Linear,
    slot: usize,
    spec: spec::SelectedStateSpace,
}

impl SelectedStateSpace {
    pub(crate) fn load(spec: &spec::SelectedStateSpace, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let spec::SelectedStateSpace { heads, state_dim, rank, .. } = *spec;
        let inner = spec.inner();
        let norm = |name, size| Norm::load(spec.norm, w, name, size);
        Ok(Self {
            input: w.linear("in_proj", [dim, 2 * inner], false)?,
            conv: Conv::load(&w.at("conv1d"), [inner, spec.kernel], false)?,
            select: w.linear("bcdt_proj", [inner, rank + 2 * state_dim], false)?,
            norms: [norm("b_norm", state_dim)?, norm("c_norm", state_dim)?, norm("dt_norm", rank)?],
            step: w.linear("dt_proj", [rank, heads], false)?,
            dt_bias: w.vector("dt_bias", heads)?,
            a: w.vector("A_log", heads)?.unary(Unary::Exp).scale(-1.0),
            d: w.vector("D", heads)?,
            output: w.linear("out_proj", [inner, dim], false)?,
            slot: plan.slot(spec.slot()),
            spec: *spec,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, spans: &mut [Span<'_>]) -> Tensor {
        let spec::SelectedStateSpace { heads, head_dim, state_dim, rank, .. } = self.spec;
        let (rows, inner) = (x.shape()[0], self.spec.inner());
        let both = self.input.forward(x).reshape([rows, heads, 2 * head_dim]);
        let [gate, x] = [0, head_dim].map(|start| both.clone().slice(2, start, head_dim).reshape([rows, inner]));
        let x = each_span(spans, [x], |[x], span| {
            self.conv.forward(&x, &mut span.state.recurrent(self.slot)[0]).unary(Unary::Silu)
        });
        let selected = self.select.forward(&x);
        let parts = [(0, state_dim), (state_dim, state_dim), (2 * state_dim, rank)];
        let mut norms = self.norms.iter();
        let [b, c, step] = parts.map(|(start, count)| {
            norms.next().expect("a norm for each").forward(&selected.clone().slice(1, start, count))
        });
        let [least, most] = self.spec.time_step.map(|bound| Tensor::from_f32(&[bound], [1]));
        let dt = self.step.forward(&step).add(&self.dt_bias).unary(Unary::Softplus);
        let dt = dt.binary(Binary::Max, &least).binary(Binary::Min, &most);
        let y = each_span(spans, [x, dt, b, c], |[x, dt, b, c], span| {
            let count = x.shape()[0];
            let [b, c] = [b, c].map(|t| t.reshape([count, 1, state_dim]));
            let parts = [x.reshape([count, heads, head_dim]), dt, self.a.clone(), b, c, self.d.clone()];
            Tensor::ssm_scan(parts, &mut span.state.recurrent(self.slot)[1]).reshape([count, inner])
        });
        self.output.forward(&gate.glu(Unary::Silu, &y))
    }
}
