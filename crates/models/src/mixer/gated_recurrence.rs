//! A recurrence of each number alone behind a convolution, whose gates say how much stays and how much comes in: the real-gated
//! linear recurrent unit of Griffin (De et al. 2024).

use mlxengine_tensor::{Binary, Tensor, Tensors, Unary, Weight};

use super::conv::Conv;
use super::{Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::{ExpertLinear, Linear};
use crate::spec;
use crate::weights::Scope;

/// What multiplies the logarithm of a decay.
const SHARPNESS: f32 = -8.0;

#[derive(Debug)]
pub(crate) struct GatedRecurrence {
    gate: Linear,
    input: Linear,
    conv: Conv,
    /// How much comes in, and how much is forgotten: maps of each head.
    gates: [ExpertLinear; 2],
    /// Logarithm of each number's decay where all is forgotten that can be.
    rate: Tensor,
    output: Linear,
    slot: usize,
    spec: spec::GatedRecurrence,
}

impl GatedRecurrence {
    pub(crate) fn load(spec: &spec::GatedRecurrence, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let spec::GatedRecurrence { heads, width, .. } = *spec;
        let input = w.linear("linear_x", [dim, width], true)?;
        let (unit, size, precision) = (w.at("rg_lru"), width / heads, input.precision);
        let gate = |name: &str| {
            // Their rows lie along the inputs.
            let maps = unit.floats(&format!("{name}_weight"), &[heads, size, size])?.permute(&[0, 2, 1]);
            let bias = Some(unit.floats(&format!("{name}_bias"), &[heads, size])?);
            Ok::<_, crate::Error>(ExpertLinear {
                weight: Weight::Dense(maps),
                factors: None,
                bias,
                precision,
                delta: None,
            })
        };
        Ok(Self {
            gate: w.linear("linear_y", [dim, width], true)?,
            input,
            conv: Conv::load(&w.at("conv_1d"), [width, spec.kernel], true)?,
            gates: [gate("input_gate")?, gate("recurrent_gate")?],
            rate: unit.vector("recurrent_param", width)?.unary(Unary::Softplus).scale(SHARPNESS),
            output: w.linear("linear_out", [width, dim], true)?,
            slot: plan.slot(spec.slot()),
            spec: *spec,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, spans: &mut [Span<'_>]) -> Tensor {
        let spec::GatedRecurrence { heads, width, .. } = self.spec;
        let (rows, gate) = (x.shape()[0], self.gate.forward(x));
        let x = each_span(spans, [self.input.forward(x)], |[x], span| {
            self.conv.forward(&x, &mut span.state.recurrent(self.slot)[0])
        });
        let by_head = x.clone().reshape([rows, heads, width / heads]);
        let [enters, forgets] =
            self.gates.each_ref().map(|map| map.by_slot(&by_head).reshape([rows, width]).unary(Unary::Sigmoid));
        let log = forgets.mul(&self.rate);
        let square = log.clone().scale(2.0).unary(Unary::Exp);
        // What comes in keeps the variance of what is carried.
        let share = Tensor::from_f32(&[1.0], [1]).binary(Binary::Sub, &square).unary(Unary::Sqrt);
        let parts = [x.mul(&enters), share, log.unary(Unary::Exp)];
        let y = each_span(spans, parts, |[x, share, decay], span| {
            // Before the first position nothing is carried.
            let first = span.state.offset() == 0;
            let share = if first { share.update(0, &Tensor::from_f32(&vec![1.0; width], [1, width])) } else { share };
            let carried = &mut span.state.recurrent(self.slot)[1];
            scan(&x.mul(&share), &decay, carried)
        });
        self.output.forward(&gate.glu(Unary::GeluTanh, &y))
    }
}

/// At each position `h ← decay h + x`, which are the rows of the result; moves `state [width]` on.
fn scan(x: &Tensor, decay: &Tensor, state: &mut Tensor) -> Tensor {
    let [count, width] = [x.shape()[0], x.shape()[1]];
    let mut carried = std::mem::take(state).reshape([1, width]);
    let step = |t| {
        let row = |all: &Tensor| all.clone().slice(0, t, 1);
        carried = row(decay).mul(&carried).add(&row(x));
        carried.clone()
    };
    let rows: Tensors = (0..count).map(step).collect();
    *state = carried.reshape([width]);
    Tensor::concat(rows, 0)
}
