//! Selective state spaces: each position scales what is carried, adds itself, and reads.

use mlxengine_tensor::{Binary, Tensor, Unary};

use super::conv::Conv;
use super::{Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec::{self, GateNorm};
use crate::weights::Scope;

/// With a decay for each number that a channel carries on.
#[derive(Debug)]
pub(crate) struct StateSpace {
    input: Linear,
    conv: Conv,
    /// From a channel's input to the time step's low rank, `b` and `c`.
    select: Linear,
    norms: Option<[Norm; 3]>,
    step: Linear,
    a: Tensor,
    d: Tensor,
    output: Linear,
    slot: usize,
    spec: spec::StateSpace,
}

impl StateSpace {
    pub(crate) fn load(spec: &spec::StateSpace, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let spec::StateSpace { inner, state_dim, rank, .. } = *spec;
        let conv = Conv::load(&w.at("conv1d"), [inner, spec.kernel], spec.conv_bias)?;
        let norms = match spec.norms {
            Some(norm) => Some([
                Norm::load(norm, w, "dt_layernorm", rank)?,
                Norm::load(norm, w, "b_layernorm", state_dim)?,
                Norm::load(norm, w, "c_layernorm", state_dim)?,
            ]),
            None => None,
        };
        Ok(Self {
            input: w.linear("in_proj", [dim, 2 * inner], spec.bias)?,
            select: w.linear("x_proj", [inner, rank + 2 * state_dim], false)?,
            norms,
            step: w.linear("dt_proj", [rank, inner], true)?,
            a: w.floats("A_log", &[inner, state_dim])?.unary(Unary::Exp).scale(-1.0),
            d: w.vector("D", inner)?,
            output: w.linear("out_proj", [inner, dim], spec.bias)?,
            slot: plan.slot(spec.slot()),
            conv,
            spec: *spec,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, spans: &mut [Span<'_>]) -> Tensor {
        let spec::StateSpace { inner, state_dim, rank, .. } = self.spec;
        let both = self.input.forward(x);
        let [x, gate] = [0, 1].map(|half| both.clone().slice(1, half * inner, inner));
        let x = each_span(spans, [x], |[x], span| {
            self.conv.forward(&x, &mut span.state.recurrent(self.slot)[0]).unary(Unary::Silu)
        });
        let selected = self.select.forward(&x);
        let mut parts = [(0, rank), (rank, state_dim), (rank + state_dim, state_dim)]
            .map(|(start, count)| selected.clone().slice(1, start, count));
        if let Some(norms) = &self.norms {
            parts = [0, 1, 2].map(|i| norms[i].forward(&parts[i]));
        }
        let [step, b, c] = parts;
        let dt = self.step.forward(&step).unary(Unary::Softplus);
        let y = each_span(spans, [x, dt, b, c], |[x, dt, b, c], span| {
            let count = x.shape()[0];
            let [b, c] = [b, c].map(|t| t.reshape([count, 1, state_dim]));
            let parts = [x.reshape([count, inner, 1]), dt, self.a.clone(), b, c, self.d.clone()];
            Tensor::ssm_scan(parts, &mut span.state.recurrent(self.slot)[1]).reshape([count, inner])
        });
        self.output.forward(&gate.glu(Unary::Silu, &y))
    }
}

/// With a decay for each head.
#[derive(Debug)]
pub(crate) struct ScalarStateSpace {
    input: Linear,
    conv: Conv,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
    norm: Option<(GateNorm, Tensor)>,
    output: Linear,
    slot: usize,
    spec: spec::ScalarStateSpace,
}

impl ScalarStateSpace {
    pub(crate) fn load(spec: &spec::ScalarStateSpace, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let (inner, channels, heads) = (spec.inner(), spec.channels(), spec.heads);
        let conv = Conv::load(&w.at("conv1d"), [channels, spec.kernel], spec.conv_bias)?;
        let norm = match spec.norm {
            Some(norm) => Some((norm, w.at("norm").vector("weight", inner)?)),
            None => None,
        };
        Ok(Self {
            input: w.linear("in_proj", [dim, inner + channels + heads], spec.bias[0])?,
            dt_bias: w.vector("dt_bias", heads)?,
            a: w.vector("A_log", heads)?.unary(Unary::Exp).scale(-1.0),
            d: w.vector("D", heads)?,
            norm,
            output: w.linear("out_proj", [inner, dim], spec.bias[1])?,
            slot: plan.slot(spec.slot()),
            conv,
            spec: *spec,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, spans: &mut [Span<'_>]) -> Tensor {
        let spec::ScalarStateSpace { heads, head_dim, groups, state_dim, .. } = self.spec;
        let (inner, channels) = (self.spec.inner(), self.spec.channels());
        let all = self.input.forward(x);
        let part = |start, count| all.clone().slice(1, start, count);
        let (gate, x) = (part(0, inner), part(inner, channels));
        let dt = self.clip(part(inner + channels, heads).add(&self.dt_bias).unary(Unary::Softplus));
        let y = each_span(spans, [x, dt], |[x, dt], span| {
            let carried = span.state.recurrent(self.slot);
            let count = x.shape()[0];
            let x = self.conv.forward(&x, &mut carried[0]).unary(Unary::Silu);
            let shared = |start| x.clone().slice(1, start, groups * state_dim).reshape([count, groups, state_dim]);
            let (b, c) = (shared(inner), shared(inner + groups * state_dim));
            let x = x.slice(1, 0, inner).reshape([count, heads, head_dim]);
            let parts = [x, dt, self.a.clone(), b, c, self.d.clone()];
            Tensor::ssm_scan(parts, &mut carried[1]).reshape([count, inner])
        });
        self.output.forward(&self.gated(gate, y))
    }

    fn clip(&self, mut dt: Tensor) -> Tensor {
        let [least, most] = self.spec.time_step;
        if least > 0.0 {
            dt = dt.binary(Binary::Max, &Tensor::from_f32(&[least], [1]));
        }
        if most < f32::MAX {
            dt = dt.binary(Binary::Min, &Tensor::from_f32(&[most], [1]));
        }
        dt
    }

    fn gated(&self, gate: Tensor, y: Tensor) -> Tensor {
        let Some((norm, weight)) = &self.norm else { return gate.glu(Unary::Silu, &y) };
        let normed = |y: Tensor| {
            let [rows, inner] = [y.shape()[0], y.shape()[1]];
            let y = y.reshape([rows * norm.groups, inner / norm.groups]).rms_norm(None, norm.eps);
            y.reshape([rows, inner]).mul(weight)
        };
        if norm.before_gate { gate.glu(Unary::Silu, &normed(y)) } else { normed(gate.glu(Unary::Silu, &y)) }
    }
}
