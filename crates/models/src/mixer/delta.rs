//! The delta rule: each position forgets a little, then corrects what its key recalls towards its value.

use mlxengine_tensor::{Tensor, Unary};

use super::conv::Conv;
use super::{Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec::{self, DeltaProjection, KeyedDecay};
use crate::weights::Scope;

/// Added to the square of a query's or key's length.
const LENGTH_EPS: f32 = 1e-6;

/// Queries and keys of length 1; queries are also scaled as scores are.
fn unit_lengths(q: &Tensor, k: &Tensor) -> [Tensor; 2] {
    let scale = 1.0 / q.shape().last() as f32;
    // A norm divides by the mean of the squares, a length is their sum.
    let [q, k] = [q, k].map(|t| t.rms_norm(None, LENGTH_EPS * scale));
    [q.scale(scale), k.scale(scale.sqrt())]
}

/// `exp(-exp(a_log) * softplus(x + bias))`, where `rate` is `-exp(a_log)`.
fn decay(x: Tensor, bias: &Tensor, rate: &Tensor) -> Tensor {
    x.add(bias).unary(Unary::Softplus).mul(rate).unary(Unary::Exp)
}

/// With one decay a head.
#[derive(Debug)]
pub(crate) struct GatedDelta {
    input: Input,
    conv: Conv,
    dt_bias: Tensor,
    rate: Tensor,
    norm: Norm,
    output: Linear,
    slot: usize,
    spec: spec::GatedDelta,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer has one, and a box would cost a look-up a product")]
enum Input {
    ByHead {
        qkvz: Linear,
        ba: Linear,
    },
    /// Queries, keys and values, the gate, and the logits of beta and of the decay.
    Separate {
        qkv: Linear,
        z: Linear,
        b: Linear,
        a: Linear,
    },
    /// The same, with maps of their own for the first three.
    Each {
        qkv: [Linear; 3],
        rest: [Linear; 3],
    },
}

impl GatedDelta {
    pub(crate) fn load(spec: &spec::GatedDelta, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let spec::GatedDelta { heads, .. } = *spec;
        let (keys, values) = (spec.key_heads * spec.key_dim, heads * spec.value_dim);
        let linear = |name, outputs| w.linear(name, [dim, outputs], false);
        let kernels = |name, channels| w.at(name).kernels("weight", [channels, spec.kernel]);
        let each = spec.projection == DeltaProjection::Each;
        let conv = Conv::new(if each {
            let [q, k] = [kernels("q_conv1d", keys)?, kernels("k_conv1d", keys)?];
            Tensor::concat([q, k, kernels("v_conv1d", values)?], 0)
        } else {
            kernels("conv1d", 2 * keys + values)?
        });
        let (norm, output) = if each { ("o_norm", "o_proj") } else { ("norm", "out_proj") };
        let input = match spec.projection {
            DeltaProjection::ByHead => Input::ByHead {
                qkvz: linear("in_proj_qkvz", 2 * (keys + values))?,
                ba: linear("in_proj_ba", 2 * heads)?,
            },
            DeltaProjection::Separate => Input::Separate {
                qkv: linear("in_proj_qkv", 2 * keys + values)?,
                z: linear("in_proj_z", values)?,
                b: linear("in_proj_b", heads)?,
                a: linear("in_proj_a", heads)?,
            },
            DeltaProjection::Each => Input::Each {
                qkv: [linear("q_proj", keys)?, linear("k_proj", keys)?, linear("v_proj", values)?],
                rest: [linear("g_proj", values)?, linear("b_proj", heads)?, linear("a_proj", heads)?],
            },
        };
        Ok(Self {
            input,
            dt_bias: w.vector("dt_bias", heads)?,
            rate: w.vector("A_log", heads)?.unary(Unary::Exp).scale(-1.0),
            norm: Norm::load(spec.norm, w, norm, spec.value_dim)?,
            output: w.linear(output, [values, dim], false)?,
            slot: plan.slot(spec.slot()),
            conv,
            spec: *spec,
        })
    }

    /// Queries, keys and values side by side, the gate, and the logits of beta and of the decay.
    fn project(&self, x: &Tensor) -> [Tensor; 4] {
        let spec::GatedDelta { key_heads, heads, key_dim, value_dim, .. } = self.spec;
        let (rows, each) = (x.shape()[0], heads / key_heads);
        match &self.input {
            Input::Separate { qkv, z, b, a } => [qkv, z, b, a].map(|linear| linear.forward(x)),
            Input::Each { qkv, rest } => {
                let [gate, beta, a] = rest.each_ref().map(|linear| linear.forward(x));
                [Tensor::concat(qkv.each_ref().map(|linear| linear.forward(x)), 1), gate, beta, a]
            }
            Input::ByHead { qkvz, ba } => {
                let part = |all: &Tensor, start: usize, count: usize| {
                    let size = all.shape()[1] / key_heads;
                    let by_head = all.clone().reshape([rows, key_heads, size]);
                    by_head.slice(2, start, count).reshape([rows, key_heads * count])
                };
                let (qkvz, ba, values) = (qkvz.forward(x), ba.forward(x), each * value_dim);
                let qkv = [(0, key_dim), (key_dim, key_dim), (2 * key_dim, values)];
                [
                    Tensor::concat(qkv.map(|(start, count)| part(&qkvz, start, count)), 1),
                    part(&qkvz, 2 * key_dim + values, values),
                    part(&ba, 0, each),
                    part(&ba, each, each),
                ]
            }
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, spans: &mut [Span<'_>]) -> Tensor {
        let spec::GatedDelta { key_heads, heads, key_dim, value_dim, .. } = self.spec;
        let (rows, keys) = (x.shape()[0], key_heads * key_dim);
        let [qkv, gate, beta, a] = self.project(x);
        let beta = beta.unary(Unary::Sigmoid);
        let beta = if self.spec.strength == 1.0 { beta } else { beta.scale(self.spec.strength) };
        let decay = decay(a, &self.dt_bias, &self.rate);
        let y = each_span(spans, [qkv, decay, beta], |[qkv, decay, beta], span| {
            let carried = span.state.recurrent(self.slot);
            let count = qkv.shape()[0];
            let qkv = self.conv.forward(&qkv, &mut carried[0]).unary(Unary::Silu);
            let [q, k] = [0, keys].map(|at| qkv.clone().slice(1, at, keys).reshape([count, key_heads, key_dim]));
            let v = qkv.slice(1, 2 * keys, heads * value_dim).reshape([count, heads, value_dim]);
            let [q, k] = unit_lengths(&q, &k);
            Tensor::delta_scan([q, k, v, decay, beta], &mut carried[1])
        });
        let normed = self.norm.forward(&y).reshape([rows, heads * value_dim]);
        self.output.forward(&gate.glu(Unary::Silu, &normed))
    }
}

/// With a decay for each number of a key.
#[derive(Debug)]
pub(crate) struct KeyedDelta {
    /// Queries, keys and values: one map each, or one for all.
    qkv: Vec<Linear>,
    conv: Conv,
    /// Through a low rank, or at once.
    decay: Vec<Linear>,
    /// Likewise.
    gate: Vec<Linear>,
    beta: Linear,
    dt_bias: Tensor,
    /// `exp(A_log)` of each head, for each number of its keys.
    rate: Tensor,
    norm: Norm,
    output: Linear,
    slot: usize,
    spec: spec::KeyedDelta,
}

impl KeyedDelta {
    pub(crate) fn load(spec: &spec::KeyedDelta, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let spec::KeyedDelta { heads, head_dim, kernel, norm, full_gate, .. } = *spec;
        let inner = heads * head_dim;
        let linear = |name: &str, shape| w.linear(name, shape, false);
        // Some conversions join the three.
        let joined = w.at("qkv_proj").has_weight();
        let (names, size): (&[&str], _) = if joined { (&["qkv"], 3 * inner) } else { (&["q", "k", "v"], inner) };
        let qkv = names.iter().map(|name| linear(&format!("{name}_proj"), [dim, size]));
        let kernels = names.iter().map(|name| {
            let w = w.first(&[&format!("{name}_conv.conv"), &format!("{name}_conv1d")]);
            w.kernels("weight", [size, kernel])
        });
        let (qkv, kernels): (Vec<_>, Vec<_>) = (qkv.collect::<Result<_>>()?, kernels.collect::<Result<_>>()?);
        let conv = Conv::new(Tensor::concat(kernels, 0));
        let low_rank = |first, second| {
            Ok::<_, crate::Error>([linear(first, [dim, head_dim])?, linear(second, [head_dim, inner])?])
        };
        let rate = w.floats("A_log", &[1, 1, heads, 1]).or_else(|_| w.vector("A_log", heads))?.reshape([heads, 1]);
        Ok(Self {
            qkv,
            decay: if w.at("f_proj").has_weight() {
                vec![linear("f_proj", [dim, inner])?]
            } else {
                low_rank("f_a_proj", "f_b_proj")?.into()
            },
            gate: if full_gate {
                vec![linear("g_proj", [dim, inner])?]
            } else {
                low_rank("g_a_proj", "g_b_proj")?.into()
            },
            beta: linear("b_proj", [dim, heads])?,
            dt_bias: w.vector("dt_bias", inner)?,
            rate: Tensor::zeros(rate.dtype(), [heads, head_dim]).add(&rate.unary(Unary::Exp)).reshape([inner]),
            norm: Norm::load(norm, w, "o_norm", head_dim)?,
            output: linear("o_proj", [inner, dim])?,
            slot: plan.slot(spec.slot()),
            conv,
            spec: *spec,
        })
    }

    /// What each number of a state is multiplied by.
    fn decay(&self, x: &Tensor) -> Tensor {
        let logits = self.decay.iter().fold(x.clone(), |y, linear| linear.forward(&y));
        match self.spec.decay {
            KeyedDecay::Softplus => decay(logits, &self.dt_bias, &self.rate.clone().scale(-1.0)),
            KeyedDecay::Bounded { bound } => {
                let share = logits.add(&self.dt_bias).mul(&self.rate).unary(Unary::Sigmoid);
                share.scale(bound).unary(Unary::Exp)
            }
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, spans: &mut [Span<'_>]) -> Tensor {
        let spec::KeyedDelta { heads, head_dim, .. } = self.spec;
        let (rows, inner) = (x.shape()[0], heads * head_dim);
        let beta = self.beta.forward(x).unary(Unary::Sigmoid);
        let qkv = Tensor::concat(self.qkv.iter().map(|linear| linear.forward(x)), 1);
        let y = each_span(spans, [qkv, self.decay(x), beta], |[qkv, decay, beta], span| {
            let carried = span.state.recurrent(self.slot);
            let shape = [qkv.shape()[0], heads, head_dim];
            let qkv = self.conv.forward(&qkv, &mut carried[0]).unary(Unary::Silu);
            let [q, k, v] = [0, 1, 2].map(|part| qkv.clone().slice(1, part * inner, inner).reshape(shape));
            let [q, k] = unit_lengths(&q, &k);
            Tensor::delta_scan([q, k, v, decay.reshape(shape), beta], &mut carried[1])
        });
        let normed = self.norm.forward(&y).reshape([rows, inner]);
        let gate = self.gate.iter().fold(x.clone(), |y, linear| linear.forward(&y));
        self.output.forward(&gate.glu(Unary::Sigmoid, &normed))
    }
}
