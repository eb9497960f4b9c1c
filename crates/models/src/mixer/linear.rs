//! Attention without a softmax, whose past fades: what is carried decays at a fixed rate a head, takes in each value under its
//! key, and is read by the query (Qin et al. 2024).

use mlxengine_tensor::{Dtype, Tensor, Unary};

use super::{Pass, Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct LinearAttention {
    qkv: Linear,
    norms: Option<[Norm; 2]>,
    /// Logarithm of each head's decay.
    rates: Tensor,
    gate: Linear,
    norm: Tensor,
    output: Linear,
    rotation: usize,
    slot: usize,
    spec: spec::LinearAttention,
}

impl LinearAttention {
    pub(crate) fn load(spec: &spec::LinearAttention, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let (heads, size) = (spec.rates.len(), spec.head_dim);
        let inner = heads * size;
        let norms = match spec.qk_norm {
            Some(norm) => Some([Norm::load(norm, w, "q_norm", size)?, Norm::load(norm, w, "k_norm", size)?]),
            None => None,
        };
        Ok(Self {
            qkv: w.linear("qkv_proj", [dim, 3 * inner], spec.bias[0])?,
            norms,
            rates: Tensor::from_f32(&spec.rates, [heads]),
            gate: w.linear("g_proj", [dim, inner], false)?,
            norm: w.at("g_norm").vector("weight", inner)?,
            output: w.linear("o_proj", [inner, dim], spec.bias[1])?,
            rotation: plan.rotation(&spec.rope),
            slot: plan.slot(spec.slot()),
            spec: spec.clone(),
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let (heads, size) = (self.spec.rates.len(), self.spec.head_dim);
        let (rows, inner) = (x.shape()[0], heads * size);
        let (cos, sin) = &pass.tables[self.rotation];
        let all = self.qkv.forward(x);
        let [q, k, v] = [0, 1, 2].map(|part| all.clone().slice(1, part * inner, inner).reshape([rows, heads, size]));
        let turned = |x: Tensor, which: usize| {
            let x = self.norms.as_ref().map_or(x.clone(), |norms| norms[which].forward(&x));
            x.rope(cos, sin, self.spec.rope.traditional)
        };
        let (q, k) = (turned(q, 0).scale((size as f32).powf(-0.5)), turned(k, 1));
        let y = each_span(spans, [q, k, v], |[q, k, v], span| {
            let count = q.shape()[0];
            let step = Tensor::from_f32(&vec![1.0; count * heads], [count, heads]);
            let past = Tensor::zeros(Dtype::F32, [heads]);
            // Kept by keys, as the reference does it; the scan wants values first.
            let carried = &mut span.state.recurrent(self.slot)[0];
            let mut state = std::mem::take(carried).permute(&[0, 2, 1]);
            let y = Tensor::ssm_scan([v, step, self.rates.clone(), k, q, past], &mut state);
            *carried = state.permute(&[0, 2, 1]);
            y
        });
        let y = y.reshape([rows * self.spec.groups, inner / self.spec.groups]).rms_norm(None, self.spec.eps);
        let y = y.reshape([rows, inner]).mul(&self.norm);
        self.output.forward(&self.gate.forward(x).glu(Unary::Sigmoid, &y))
    }
}
