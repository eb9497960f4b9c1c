//! What works on each position alone: gated units, one or a routed few of many.

use mlxengine_tensor::{Tensor, Unary};

use crate::Result;
use crate::linear::{ExpertLinear, Linear};
use crate::spec::{self, Projection, Router};
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) enum Mlp {
    Gated(Gated),
    Experts(Experts),
}

impl Mlp {
    pub(crate) fn load(spec: &spec::Mlp, w: &Scope<'_>, dim: usize) -> Result<Self> {
        Ok(match spec {
            spec::Mlp::Gated(spec) => Mlp::Gated(Gated::load(spec, w, dim)?),
            spec::Mlp::Experts(spec) => Mlp::Experts(Experts::load(spec, w, dim)?),
        })
    }

    /// `x [N, dim] -> [N, dim]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Mlp::Gated(mlp) => mlp.forward(x),
            Mlp::Experts(mlp) => mlp.forward(x),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Gated {
    gate: Linear,
    up: Linear,
    down: Linear,
    act: Unary,
}

impl Gated {
    fn load(spec: &spec::Gated, w: &Scope<'_>, dim: usize) -> Result<Self> {
        let [gate, up] = match spec.projection {
            Projection::Separate => [
                w.linear("gate_proj", [dim, spec.hidden], spec.bias)?,
                w.linear("up_proj", [dim, spec.hidden], spec.bias)?,
            ],
            Projection::Joined => w.joined("gate_up_proj", dim, [spec.hidden; 2], spec.bias)?,
        };
        Ok(Self { gate, up, down: w.linear("down_proj", [spec.hidden, dim], spec.bias)?, act: spec.act })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.down.forward(&self.gate.forward(x).glu(self.act, &self.up.forward(x)))
    }
}

#[derive(Debug)]
pub(crate) struct Experts {
    router: Linear,
    gate: ExpertLinear,
    up: ExpertLinear,
    down: ExpertLinear,
    spec: spec::Experts,
}

impl Experts {
    fn load(spec: &spec::Experts, w: &Scope<'_>, dim: usize) -> Result<Self> {
        Ok(Self {
            router: w.linear("gate", [dim, spec.count], false)?,
            gate: w.experts("gate_proj", spec.count, [dim, spec.hidden])?,
            up: w.experts("up_proj", spec.count, [dim, spec.hidden])?,
            down: w.experts("down_proj", spec.count, [spec.hidden, dim])?,
            spec: *spec,
        })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let scores = self.router.forward(x);
        let ids = scores.top_k(self.spec.active);
        let shares = match self.spec.router {
            Router::SoftmaxOfChosen => scores.take_along(&ids).softmax(),
            Router::SoftmaxOfAll => scores.softmax().take_along(&ids),
        };
        let hidden = self.gate.forward(x, &ids).glu(self.spec.act, &self.up.forward(x, &ids));
        let parts = self.down.forward(&hidden, &ids);
        let [tokens, slots, dim] = [parts.shape()[0], parts.shape()[1], parts.shape()[2]];
        shares.reshape([tokens, 1, slots]).matmul(&parts, false).reshape([tokens, dim])
    }
}
