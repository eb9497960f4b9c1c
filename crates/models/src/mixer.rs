//! What mixes positions: attention over a cache that it makes itself.

use mlxengine_tensor::{Sdpa, Tensor, Tensors};

use crate::Result;
use crate::decoder::{Norm, Span};
use crate::linear::Linear;
use crate::rope::Tables;
use crate::spec::{self, Projection};
use crate::weights::Scope;

/// The part of a pass that every layer sees.
pub(crate) struct Pass<'a> {
    /// Tables of each rotation that the model uses.
    pub(crate) tables: &'a [Tables],
    /// Index of the layer, which is where its state lies.
    pub(crate) layer: usize,
}

#[derive(Debug)]
pub(crate) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    qk_norm: Option<[Norm; 2]>,
    /// Index of the rotation in the model's list.
    rotation: Option<usize>,
    spec: spec::Attention,
}

impl Attention {
    pub(crate) fn load(spec: &spec::Attention, w: &Scope<'_>, dim: usize, rotation: Option<usize>) -> Result<Self> {
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
        Ok(Self { q, k, v, o, qk_norm, rotation, spec: spec.clone() })
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
                let view = span.state.layer(pass.layer).extend(&k, &v);
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
