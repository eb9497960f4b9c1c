//! Attention over some blocks of positions, which a small attention chooses for each query and group of heads.

use mlxengine_tensor::{Sdpa, Tensor, Tensors, Weight};
use smallvec::smallvec;

use super::attention::{Attention, Inputs};
use super::{Pass, Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::spec;
use crate::state::View;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct BlockSparse {
    attention: Attention,
    queries: Linear,
    keys: Linear,
    norms: [Norm; 2],
    rotation: usize,
    slot: usize,
    spec: spec::BlockSparse,
}

impl BlockSparse {
    pub(crate) fn load(spec: &spec::BlockSparse, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        Ok(Self {
            attention: Attention::load(&spec.attention, w, dim, plan)?,
            queries: w.linear("index_q_proj", [dim, spec.heads * spec.head_dim], false)?,
            keys: w.linear("index_k_proj", [dim, spec.head_dim], false)?,
            norms: [
                Norm::load(spec.norm, w, "index_q_norm", spec.head_dim)?,
                Norm::load(spec.norm, w, "index_k_norm", spec.head_dim)?,
            ],
            rotation: plan.rotation(&spec.rope),
            slot: plan.slot(spec.slot()),
            spec: spec.clone(),
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let (rows, (cos, sin)) = (x.shape()[0], &pass.tables[self.rotation]);
        let turned = |linear: &Linear, norm: &Norm, heads: usize| {
            let y = linear.forward(x).reshape([rows, heads, self.spec.head_dim]);
            norm.forward(&y).rope(cos, sin, self.spec.rope.traditional)
        };
        let index = turned(&self.queries, &self.norms[0], self.spec.heads);
        let keys = turned(&self.keys, &self.norms[1], 1);
        let Inputs { q, kv, .. } = self.attention.inputs(x, pass);
        let [k, v] = kv.expect("the spec was checked: each layer has keys of its own");
        let y = each_span(spans, [q, k, v, index, keys], |[q, k, v, index, keys], span| {
            let first = span.state.offset();
            let seen = span.state.kv(self.slot).extend_keys(&keys);
            let view = span.state.kv(self.attention.slot).extend(&k, &v);
            match self.choose(&index, &seen) {
                Some(chosen) => self.sparse(&q, &view, &chosen),
                None => self.attention.attend(&q, view, first),
            }
        });
        self.attention.output(y)
    }

    /// The positions for each query and head of the index, counted in the rows that the caches hold; none if all fit.
    fn choose(&self, index: &Tensor, view: &View) -> Option<Vec<Vec<u32>>> {
        let spec::BlockSparse { heads, head_dim, block, top, local, .. } = self.spec;
        let (count, seen) = (index.shape()[0], view.keys[0].shape()[0]);
        if seen.div_ceil(block) <= top {
            return None;
        }
        let keys = view.dense_keys().reshape([seen, head_dim]);
        let scores = index.clone().reshape([count * heads, head_dim]).matmul(&keys, true);
        let rows = scores.f32s().chunks_exact(seen).enumerate();
        Some(
            rows.map(|(row, scores)| {
                // A query sees its own position and those before it.
                let visible = seen - count + row / heads + 1;
                let blocks = visible.div_ceil(block);
                let mut best: Vec<(f32, usize)> = scores[..visible]
                    .chunks(block)
                    .enumerate()
                    .map(|(i, scores)| {
                        let near = i + local >= blocks;
                        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                        (if near { f32::INFINITY } else { largest }, i)
                    })
                    .collect();
                best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                best.truncate(top);
                best.sort_unstable_by_key(|(_, i)| *i);
                let positions = best.iter().flat_map(|(_, i)| i * block..((i + 1) * block).min(visible));
                positions.map(|position| position as u32).collect()
            })
            .collect(),
        )
    }

    /// Each query over the positions that were chosen for it.
    fn sparse(&self, q: &Tensor, view: &View, chosen: &[Vec<u32>]) -> Tensor {
        let (attention, heads) = (&self.spec.attention, self.spec.heads);
        let (served, groups) = (attention.heads / heads, (attention.kv_heads / heads).max(1));
        let seen = view.keys[0].shape()[0];
        let table = |t: Tensor, dim: usize| Weight::Dense(t.reshape([seen * attention.kv_heads, dim]));
        let keys = table(view.dense_keys(), attention.head_dim);
        let values = table(view.dense_values(), attention.value_dim);
        let sdpa = Sdpa {
            scale: attention.scale,
            causal: false,
            window: None,
            softcap: None,
            format: None,
            first: 0,
            sinks: false,
            precision: self.attention.precision(),
        };
        let rows: Tensors = chosen
            .chunks_exact(heads)
            .enumerate()
            .map(|(t, chosen)| {
                let q = q.clone().slice(0, t, 1);
                let parts = chosen.iter().enumerate().map(|(head, positions)| {
                    let from = head * attention.kv_heads / heads;
                    let row = |position: usize| (0..groups).map(move |g| position * attention.kv_heads + from + g);
                    let rows = positions.iter().flat_map(|position| row(*position as usize));
                    let ids: Vec<u32> = rows.map(|row| row as u32).collect();
                    let ids = Tensor::from_u32(&ids, [ids.len()]);
                    let rows = |table: &Weight, dim| table.take(&ids).reshape([positions.len(), groups, dim]);
                    let (k, v) = (rows(&keys, attention.head_dim), rows(&values, attention.value_dim));
                    q.clone().slice(1, head * served, served).sdpa(sdpa, smallvec![k], smallvec![v], None)
                });
                Tensor::concat(parts, 1)
            })
            .collect();
        Tensor::concat(rows, 0)
    }
}
