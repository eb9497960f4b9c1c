//! Softmax attention over keys and values of every position.

use mlxengine_tensor::{Binary, Precision, Sdpa, Tensor, Tensors, Unary};

use super::{Pass, Plan};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec::{self, HeadGate, Projection, QkNorm, QkSpan, Temperature};
use crate::state::View;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct Attention {
    input: Input,
    o: Linear,
    qk_norm: Option<(QkNorm, [Option<Norm>; 2])>,
    v_norm: Option<Norm>,
    sinks: Option<Tensor>,
    gate: Option<Linear>,
    /// Index of the rotation in the model's list.
    rotation: Option<usize>,
    /// Where its keys and values lie in a state.
    pub(crate) slot: usize,
    spec: spec::Attention,
}

/// What makes queries, keys and values.
#[derive(Debug)]
enum Input {
    Each(Box<[Linear; 3]>),
    /// Queries, and what is both keys and values.
    Two(Box<[Linear; 2]>),
    Grouped(Box<Linear>),
    /// Queries alone.
    Queries(Box<Linear>),
}

/// What attention computes on, each `[N, heads, size]`, or as it is projected `[N, heads * size]`.
pub(crate) struct Inputs {
    pub(crate) q: Tensor,
    /// Keys and values, unless those of an earlier layer serve.
    pub(crate) kv: Option<[Tensor; 2]>,
    /// What multiplies the result, before its function.
    gate: Option<Tensor>,
}

impl Attention {
    pub(crate) fn load(spec: &spec::Attention, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let (heads, kv_heads) = (spec.heads, spec.kv_heads);
        let asked = if spec.gate == Some(HeadGate::Query) { 2 } else { 1 };
        let sizes @ [queries, keys, values] =
            [asked * heads * spec.head_dim, kv_heads * spec.head_dim, kv_heads * spec.value_dim];
        let query = || w.linear("q_proj", [dim, queries], spec.qkv_bias);
        let input = match spec.projection {
            _ if spec.keys_of.is_some() => Input::Queries(Box::new(query()?)),
            Projection::KeysAsValues => {
                Input::Two(Box::new([query()?, w.linear("k_proj", [dim, keys], spec.qkv_bias)?]))
            }
            Projection::Separate | Projection::Apart => Input::Each(Box::new([
                query()?,
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
            Some(n) if spec.keys_of.is_some() => Some((n, [Some(norm(n, "q_norm", heads)?), None])),
            Some(n) => Some((n, [Some(norm(n, "q_norm", heads)?), Some(norm(n, "k_norm", kv_heads)?)])),
            None => None,
        };
        let gate = match spec.gate {
            Some(HeadGate::Head(_)) => Some(w.linear("g_proj", [dim, heads], w.at("g_proj").has("bias"))?),
            Some(HeadGate::Each) => Some(w.linear("gate_proj", [dim, heads * spec.value_dim], false)?),
            Some(HeadGate::Query) | None => None,
        };
        let v_norm = spec.v_norm.map(|n| Norm::load(n.bare(), w, "v_norm", spec.value_dim)).transpose()?;
        Ok(Self {
            input,
            o: w.linear("o_proj", [heads * spec.value_dim, dim], spec.out_bias)?,
            qk_norm,
            v_norm,
            sinks: if spec.sinks { Some(w.vector("sinks", heads)?) } else { None },
            gate,
            rotation: spec.rope.as_ref().map(|rope| plan.rotation(rope)),
            slot: match spec.keys_of {
                Some(layer) => {
                    let reason = "the keys and values of an earlier layer serve";
                    ["k_proj", "v_proj", "k_norm"].iter().for_each(|part| w.ignore(part, reason));
                    plan.shared(layer)
                }
                None => plan.kept(spec.slot(w.kept())),
            },
            spec: spec.clone(),
        })
    }

    /// `x [N, dim] -> [N, dim]`, where the rows are those of the spans one after another.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        self.output(self.attended(self.inputs(x, pass), spans))
    }

    /// The heads' results `[N, heads, value_dim]` for what [`Attention::inputs`] gives.
    pub(crate) fn attended(&self, inputs: Inputs, spans: &mut [Span<'_>]) -> Tensor {
        let Inputs { q, kv, gate } = inputs;
        let (rows, mut start) = (q.shape()[0], 0);
        let attended: Tensors = spans
            .iter_mut()
            .map(|span| {
                let count = span.tokens.len();
                let part = |t: &Tensor| t.clone().slice(0, start, count);
                let first = span.state.offset();
                let cache = span.state.kv(self.slot);
                let view = match &kv {
                    Some([k, v]) => cache.extend(&part(k), &part(v)),
                    None => cache.view(),
                };
                let q = part(&q);
                start += count;
                self.attend(&q, view, first)
            })
            .collect();
        let y = Tensor::concat(attended, 0);
        let Some(gate) = gate else { return y };
        let each = gate.shape().elements() / (rows * self.spec.heads);
        let function = self.spec.gate.map_or(Unary::Sigmoid, HeadGate::function);
        y.mul(&gate.reshape([rows, self.spec.heads, each]).unary(function))
    }

    /// What the heads' results `[N, heads, value_dim]` add to the residual stream.
    pub(crate) fn output(&self, y: Tensor) -> Tensor {
        let rows = y.shape()[0];
        let y = self.regrouped(y, [self.spec.kv_heads, self.spec.heads / self.spec.kv_heads], self.spec.value_dim);
        self.o.forward(&y.reshape([rows, self.spec.heads * self.spec.value_dim]))
    }

    /// Queries, keys and values of rows, normed and turned.
    pub(crate) fn inputs(&self, x: &Tensor, pass: &Pass<'_>) -> Inputs {
        self.placed(self.projected(x), pass)
    }

    /// The same as they are projected, without their positions.
    pub(crate) fn projected(&self, x: &Tensor) -> Inputs {
        let spec = &self.spec;
        let rows = x.shape()[0];
        let (q, kv) = match &self.input {
            Input::Each(linears) => {
                let [q, k, v] = Linear::forward_all(linears.each_ref(), x);
                (q, Some([k, v]))
            }
            Input::Two(linears) => {
                let [q, k] = Linear::forward_all(linears.each_ref(), x);
                (q, Some([k.clone(), k]))
            }
            Input::Grouped(linear) => {
                let group = spec.heads / spec.kv_heads;
                let all = linear.forward(x).reshape([rows, spec.kv_heads, group + 2, spec.head_dim]);
                let [q, k, v] =
                    [(0, group), (group, 1), (group + 1, 1)].map(|(start, count)| all.clone().slice(2, start, count));
                (q, Some([k, v]))
            }
            Input::Queries(linear) => (linear.forward(x), None),
        };
        let clip = |t: Tensor| match spec.clip {
            Some(most) => {
                let most = Tensor::from_f32(&[most], [1]);
                t.binary(Binary::Min, &most).binary(Binary::Max, &most.clone().unary(Unary::Neg))
            }
            None => t,
        };
        let mut q = self.regrouped(clip(q), [spec.heads / spec.kv_heads, spec.kv_heads], spec.head_dim);
        let kv = kv.map(|kv| kv.map(clip));
        let mut gate = self.gate.as_ref().map(|gate| gate.forward(x));
        if spec.gate == Some(HeadGate::Query) {
            let both = q.reshape([rows, spec.heads, 2 * spec.head_dim]);
            gate = Some(both.clone().slice(2, spec.head_dim, spec.head_dim));
            q = both.slice(2, 0, spec.head_dim);
        }
        Inputs { q, kv, gate }
    }

    /// What is projected, with its norms and positions.
    pub(crate) fn placed(&self, inputs: Inputs, pass: &Pass<'_>) -> Inputs {
        let Inputs { q, kv, gate } = inputs;
        let rows = q.shape()[0];
        let mut q = self.turned(q, 0, pass);
        if let Some(temperature) = self.spec.temperature {
            q = q.mul(&factors(temperature, pass.positions, rows));
        }
        let kv = kv.map(|[k, v]| {
            let v = v.reshape([rows, self.spec.kv_heads, self.spec.value_dim]);
            [self.turned(k, 1, pass), self.v_norm.as_ref().map_or(v.clone(), |norm| norm.forward(&v))]
        });
        Inputs { q, kv, gate }
    }

    /// Heads in their other order, by key heads or as they are stored, where the two differ.
    fn regrouped(&self, heads: Tensor, [outer, inner]: [usize; 2], size: usize) -> Tensor {
        if self.spec.projection != Projection::Apart {
            return heads;
        }
        let rows = heads.shape()[0];
        let apart = heads.reshape([rows, outer, inner, size]).permute(&[0, 2, 1, 3]);
        apart.reshape([rows, outer * inner * size])
    }

    /// Queries (`which` 0) or keys (1) `[N, heads, size]`, normed and turned.
    fn turned(&self, y: Tensor, which: usize, pass: &Pass<'_>) -> Tensor {
        let rows = y.shape()[0];
        let (size, count) = (self.spec.head_dim, [self.spec.heads, self.spec.kv_heads][which]);
        let norm = self.qk_norm.as_ref().and_then(|(spec, norms)| Some((spec, norms[which].as_ref()?)));
        let mut y = match norm {
            Some((n, norm)) if n.span == QkSpan::Projection => norm.forward(&y.reshape([rows, count * size])),
            _ => y,
        };
        y = y.reshape([rows, count, size]);
        let head = norm.filter(|(n, _)| n.span != QkSpan::Projection);
        if let Some((_, norm)) = head.filter(|(n, _)| !n.turned) {
            y = norm.forward(&y);
        }
        if let Some(rotation) = self.rotation {
            let (cos, sin) = &pass.tables[rotation];
            y = y.rope(cos, sin, self.spec.rope.as_ref().is_some_and(|r| r.traditional));
        }
        match head.filter(|(n, _)| n.turned) {
            Some((_, norm)) => norm.forward(&y),
            None => y,
        }
    }

    /// How exactly it computes: as its products.
    pub(crate) fn precision(&self) -> Precision {
        self.o.precision
    }

    /// Attention of a span whose first position is `first`.
    pub(crate) fn attend(&self, q: &Tensor, view: View, first: usize) -> Tensor {
        let sdpa = Sdpa {
            scale: self.spec.scale,
            causal: true,
            window: view.window,
            softcap: self.spec.softcap,
            format: view.format,
            first: view.first,
            sinks: false,
            precision: self.precision(),
        };
        let sinks = self.sinks.as_ref();
        let Some(chunk) = self.spec.window.filter(|w| self.spec.chunked && view.window == Some(*w)) else {
            return q.sdpa(sdpa, view.keys, view.values, sinks);
        };
        // A span is cut where chunks meet; each piece sees the rows of its own chunk.
        let (end, mut at) = (first + q.shape()[0], first);
        let mut pieces = Tensors::new();
        while at < end {
            let from = (at / chunk * chunk).max(view.first);
            let to = end.min((at / chunk + 1) * chunk);
            let rows =
                |parts: &Tensors| parts.iter().map(|t| t.clone().slice(0, from - view.first, to - from)).collect();
            let q = q.clone().slice(0, at - first, to - at);
            pieces.push(q.sdpa(
                Sdpa { window: None, first: from, ..sdpa },
                rows(&view.keys),
                rows(&view.values),
                sinks,
            ));
            at = to;
        }
        Tensor::concat(pieces, 0)
    }
}

/// What each row's queries are multiplied by, `[rows, 1, 1]`.
pub(super) fn factors(t: Temperature, positions: &[(usize, usize)], rows: usize) -> Tensor {
    let each = positions.iter().flat_map(|(first, count)| *first..first + count);
    let factor = |position: usize| 1.0 + t.slope * (1.0 + ((position as f32 + t.shift) / t.length).floor()).ln();
    let factors: Vec<f32> = each.map(factor).collect();
    Tensor::from_f32(&factors, [rows, 1, 1])
}
