//! Softmax attention over keys and values of every position.

use mlxengine_tensor::{Sdpa, Tensor, Tensors, Unary};

use super::{Pass, Plan};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec::{self, HeadGate, Projection, QkNorm, QkSpan, Temperature};
use crate::state::{KvShape, SlotSpec, View};
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct Attention {
    input: Input,
    o: Linear,
    qk_norm: Option<(QkNorm, [Norm; 2])>,
    sinks: Option<Tensor>,
    gate: Option<Linear>,
    /// Index of the rotation in the model's list.
    rotation: Option<usize>,
    /// Where its keys and values lie in a state.
    slot: usize,
    spec: spec::Attention,
}

/// What makes queries, keys and values.
#[derive(Debug)]
enum Input {
    Each(Box<[Linear; 3]>),
    Grouped(Box<Linear>),
}

impl Attention {
    pub(crate) fn load(spec: &spec::Attention, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let (heads, kv_heads) = (spec.heads, spec.kv_heads);
        let sizes @ [queries, keys, values] =
            [heads * spec.head_dim, kv_heads * spec.head_dim, kv_heads * spec.value_dim];
        let input = match spec.projection {
            Projection::Separate => Input::Each(Box::new([
                w.linear("q_proj", [dim, queries], spec.qkv_bias)?,
                w.linear("k_proj", [dim, keys], spec.qkv_bias)?,
                w.linear("v_proj", [dim, values], spec.qkv_bias)?,
            ])),
            Projection::Joined => Input::Each(Box::new(w.joined("qkv_proj", dim, sizes, spec.qkv_bias)?)),
            Projection::Grouped => {
                let all = queries + keys + values;
                Input::Grouped(Box::new(w.linear("qkv_proj", [dim, all], spec.qkv_bias)?))
            }
        };
        let norm = |n: QkNorm, name: &str, heads: usize| match n.span {
            QkSpan::Head => Norm::load(n.norm, w, name, spec.head_dim),
            QkSpan::EachHead => Norm::load_of(n.norm, &w.at(name), &[heads, spec.head_dim]),
            QkSpan::Projection => Norm::load(n.norm, w, name, heads * spec.head_dim),
        };
        let qk_norm = match spec.qk_norm {
            Some(n) => Some((n, [norm(n, "q_norm", heads)?, norm(n, "k_norm", kv_heads)?])),
            None => None,
        };
        let gate = match spec.gate {
            Some(HeadGate::Head) => Some(w.linear("g_proj", [dim, heads], false)?),
            Some(HeadGate::Each) => Some(w.linear("gate_proj", [dim, heads * spec.value_dim], false)?),
            None => None,
        };
        let shape = KvShape { heads: kv_heads, key_dim: spec.head_dim, value_dim: Some(spec.value_dim) };
        Ok(Self {
            input,
            o: w.linear("o_proj", [heads * spec.value_dim, dim], spec.out_bias)?,
            qk_norm,
            sinks: if spec.sinks { Some(w.vector("sinks", heads)?) } else { None },
            gate,
            rotation: spec.rope.as_ref().map(|rope| plan.rotation(rope)),
            slot: plan.slot(SlotSpec::Kv { shape, window: spec.window }),
            spec: spec.clone(),
        })
    }

    /// `x [N, dim] -> [N, dim]`, where the rows are those of the spans one after another.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let rows = x.shape()[0];
        let [q, k, v] = self.inputs(x, pass);
        let mut start = 0;
        let attended: Tensors = spans
            .iter_mut()
            .map(|span| {
                let count = span.tokens.len();
                let [q, k, v] = [&q, &k, &v].map(|t| t.clone().slice(0, start, count));
                start += count;
                let first = span.state.offset();
                let view = span.state.kv(self.slot).extend(&k, &v);
                self.attend(&q, view, first)
            })
            .collect();
        let mut y = Tensor::concat(attended, 0);
        if let Some(gate) = &self.gate {
            let gate = gate.forward(x).unary(Unary::Sigmoid);
            let each = gate.shape().last() / self.spec.heads;
            y = y.mul(&gate.reshape([rows, self.spec.heads, each]));
        }
        self.o.forward(&y.reshape([rows, self.spec.heads * self.spec.value_dim]))
    }

    /// Queries, keys and values `[N, heads, size]`, normed and turned.
    fn inputs(&self, x: &Tensor, pass: &Pass<'_>) -> [Tensor; 3] {
        let spec = &self.spec;
        let rows = x.shape()[0];
        let [q, k, v] = match &self.input {
            Input::Each(linears) => linears.each_ref().map(|linear| linear.forward(x)),
            Input::Grouped(linear) => {
                let group = spec.heads / spec.kv_heads;
                let all = linear.forward(x).reshape([rows, spec.kv_heads, group + 2, spec.head_dim]);
                [(0, group), (group, 1), (group + 1, 1)].map(|(start, count)| all.clone().slice(2, start, count))
            }
        };
        let [mut q, mut k] = [(q, spec.heads, 0), (k, spec.kv_heads, 1)].map(|(y, count, which)| {
            let y = match &self.qk_norm {
                Some((n, norms)) if n.span == QkSpan::Projection => {
                    norms[which].forward(&y.reshape([rows, count * spec.head_dim]))
                }
                _ => y,
            };
            y.reshape([rows, count, spec.head_dim])
        });
        let normed = |after: bool, [q, k]: [Tensor; 2]| match &self.qk_norm {
            Some((n, [q_norm, k_norm])) if n.turned == after && n.span != QkSpan::Projection => {
                [q_norm.forward(&q), k_norm.forward(&k)]
            }
            _ => [q, k],
        };
        [q, k] = normed(false, [q, k]);
        if let Some(rotation) = self.rotation {
            let (cos, sin) = &pass.tables[rotation];
            let traditional = spec.rope.as_ref().is_some_and(|r| r.traditional);
            (q, k) = (q.rope(cos, sin, traditional), k.rope(cos, sin, traditional));
        }
        [q, k] = normed(true, [q, k]);
        if let Some(temperature) = spec.temperature {
            q = q.mul(&factors(temperature, pass.positions, rows));
        }
        [q, k, v.reshape([rows, spec.kv_heads, spec.value_dim])]
    }

    /// Attention of a span whose first position is `first`.
    fn attend(&self, q: &Tensor, view: View, first: usize) -> Tensor {
        let sdpa = Sdpa {
            scale: self.spec.scale,
            causal: true,
            window: view.window,
            softcap: self.spec.softcap,
            format: view.format,
            sinks: false,
        };
        let sinks = self.sinks.as_ref();
        let Some(chunk) = self.spec.window.filter(|w| self.spec.chunked && view.window == Some(*w)) else {
            return q.sdpa(sdpa, view.keys, view.values, sinks);
        };
        // A span is cut where chunks meet; each piece sees the rows of its own chunk.
        let (end, mut at) = (first + q.shape()[0], first);
        let base = end - view.keys[0].shape()[0];
        let mut pieces = Tensors::new();
        while at < end {
            let from = (at / chunk * chunk).max(base);
            let to = end.min((at / chunk + 1) * chunk);
            let rows = |parts: &Tensors| parts.iter().map(|t| t.clone().slice(0, from - base, to - from)).collect();
            let q = q.clone().slice(0, at - first, to - at);
            pieces.push(q.sdpa(Sdpa { window: None, ..sdpa }, rows(&view.keys), rows(&view.values), sinks));
            at = to;
        }
        Tensor::concat(pieces, 0)
    }
}

/// What each row's queries are multiplied by, `[rows, 1, 1]`.
fn factors(t: Temperature, positions: &[(usize, usize)], rows: usize) -> Tensor {
    let each = positions.iter().flat_map(|(first, count)| *first..first + count);
    let factor = |position: usize| 1.0 + t.slope * (1.0 + ((position as f32 + t.shift) / t.length).floor()).ln();
    let factors: Vec<f32> = each.map(factor).collect();
    Tensor::from_f32(&factors, [rows, 1, 1])
}
