//! Softmax attention over keys and values of every position.

use mlxengine_tensor::{Sdpa, Tensor, Tensors};

use super::{Pass, Plan};
use crate::Result;
use crate::decoder::{Norm, Span};
use crate::linear::Linear;
use crate::spec::{self, Projection};
use crate::state::{KvShape, SlotSpec};
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    qk_norm: Option<[Norm; 2]>,
    /// Index of the rotation in the model's list.
    rotation: Option<usize>,
    /// Where its keys and values lie in a state.
    slot: usize,
    spec: spec::Attention,
}

impl Attention {
    pub(crate) fn load(spec: &spec::Attention, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let [q, k, v] = match spec.projection {
            Projection::Separate => [
                w.linear("q_proj", [dim, queries], spec.qkv_bias)?,
                w.linear("k_proj", [dim, keys], spec.qkv_bias)?,
                w.linear("v_proj", [dim, keys], spec.qkv_bias)?,
            ],
            Projection::Joined => w.joined("qkv_proj", dim, [queries, keys, keys], spec.qkv_bias)?,
        };
        let o = w.linear("o_proj", [queries, dim], spec.out_bias)?;
        let norm = |norm: spec::Norm, name| Norm::load(norm, w, name, spec.head_dim);
        let qk_norm = match spec.qk_norm {
            Some(n) => Some([norm(n, "q_norm")?, norm(n, "k_norm")?]),
            None => None,
        };
        let rotation = spec.rope.as_ref().map(|rope| plan.rotation(rope));
        let shape = KvShape { heads: spec.kv_heads, key_dim: spec.head_dim, value_dim: Some(spec.head_dim) };
        let slot = plan.slot(SlotSpec::Kv { shape, window: spec.window });
        Ok(Self { q, k, v, o, qk_norm, rotation, slot, spec: spec.clone() })
    }

    /// `x [N, dim] -> [N, dim]`, where the rows are those of the spans one after another.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let rows = x.shape()[0];
        let heads = |y: Tensor, count: usize| y.reshape([rows, count, self.spec.head_dim]);
        let mut q = heads(self.q.forward(x), self.spec.heads);
        let mut k = heads(self.k.forward(x), self.spec.kv_heads);
        let v = heads(self.v.forward(x), self.spec.kv_heads);
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q), k_norm.forward(&k));
        }
        if let Some(rotation) = self.rotation {
            let (cos, sin) = &pass.tables[rotation];
            let traditional = self.spec.rope.as_ref().is_some_and(|r| r.traditional);
            (q, k) = (q.rope(cos, sin, traditional), k.rope(cos, sin, traditional));
        }
        let mut start = 0;
        let attended: Tensors = spans
            .iter_mut()
            .map(|span| {
                let count = span.tokens.len();
                let [q, k, v] = [&q, &k, &v].map(|t| t.clone().slice(0, start, count));
                start += count;
                let view = span.state.kv(self.slot).extend(&k, &v);
                let sdpa = Sdpa {
                    scale: self.spec.scale,
                    causal: true,
                    window: view.window,
                    softcap: self.spec.softcap,
                    format: view.format,
                    sinks: false,
                };
                q.sdpa(sdpa, view.keys, view.values, None)
            })
            .collect();
        let y = Tensor::concat(attended, 0).reshape([rows, self.spec.heads * self.spec.head_dim]);
        self.o.forward(&y)
    }
}
