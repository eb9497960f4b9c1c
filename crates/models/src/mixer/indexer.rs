//! The small attention that chooses, for each query, the positions that a large one attends to.

use std::ops::Range;

use mlxengine_tensor::{Tensor, Unary};

use super::{Pass, Plan};
use crate::Result;
use crate::linear::Linear;
use crate::spec;
use crate::state::State;
use crate::weights::Scope;

/// Queries whose scores are held at once.
const BLOCK: usize = 16;
/// Added to the variance of the keys' norm.
const EPS: f32 = 1e-5;

#[derive(Debug)]
pub(crate) struct Indexer {
    queries: Linear,
    keys: Linear,
    norm: [Tensor; 2],
    shares: Linear,
    rotation: usize,
    slot: usize,
    spec: spec::Indexer,
}

/// The indexer's view of all rows of a pass.
pub(crate) struct Index {
    /// `[N, heads, head_dim]`.
    queries: Tensor,
    /// `[N, 1, head_dim]`.
    keys: Tensor,
    /// `[N, heads]`.
    shares: Tensor,
}

impl Indexer {
    /// `dim` and `low` are the sizes of the residual stream and of what queries are made of.
    pub(crate) fn load(spec: &spec::Indexer, w: &Scope<'_>, [dim, low]: [usize; 2], plan: &mut Plan) -> Result<Self> {
        let spec::Indexer { heads, head_dim, .. } = *spec;
        let norm = w.at("k_norm");
        Ok(Self {
            queries: w.linear("wq_b", [low, heads * head_dim], false)?,
            keys: w.linear("wk", [dim, head_dim], false)?,
            norm: [norm.vector("weight", head_dim)?, norm.vector("bias", head_dim)?],
            shares: w.linear("weights_proj", [dim, heads], false)?,
            rotation: plan.rotation(&spec.rope),
            slot: plan.slot(spec.slot()),
            spec: spec.clone(),
        })
    }

    pub(crate) fn project(&self, x: &Tensor, low: &Tensor, pass: &Pass<'_>) -> Index {
        let spec::Indexer { heads, head_dim, .. } = self.spec;
        let (rows, (cos, sin)) = (x.shape()[0], &pass.tables[self.rotation]);
        let rotate = |x: Tensor| x.rope(cos, sin, self.spec.rope.traditional);
        let keys = self.keys.forward(x).layer_norm(Some(&self.norm[0]), Some(&self.norm[1]), EPS);
        Index {
            queries: rotate(self.queries.forward(low).reshape([rows, heads, head_dim])),
            keys: rotate(keys.reshape([rows, 1, head_dim])),
            shares: self.shares.forward(x).scale(((heads * head_dim) as f32).powf(-0.5)),
        }
    }

    /// The positions for each query of a span, counted in the rows that the caches hold; none if every query sees all.
    pub(crate) fn choose(&self, index: &Index, span: Range<usize>, state: &mut State) -> Option<Vec<Tensor>> {
        let spec::Indexer { heads, head_dim, top, .. } = self.spec;
        let of_span = |t: &Tensor| t.clone().slice(0, span.start, span.len());
        let view = state.kv(self.slot).extend_keys(&of_span(&index.keys));
        let seen = view.keys[0].shape()[0];
        if seen <= top {
            return None;
        }
        let keys = view.dense_keys().reshape([seen, head_dim]);
        let (queries, shares) = (of_span(&index.queries), of_span(&index.shares));
        let mut chosen = Vec::with_capacity(span.len());
        for first in (0..span.len()).step_by(BLOCK) {
            let count = BLOCK.min(span.len() - first);
            let queries = queries.clone().slice(0, first, count).reshape([count * heads, head_dim]);
            let scores = queries.matmul(&keys, true).unary(Unary::Relu).reshape([count, heads, seen]);
            let shares = shares.clone().slice(0, first, count).reshape([count, 1, heads]);
            let scores = shares.matmul(&scores, false).reshape([count, seen]);
            chosen.extend(scores.f32s().chunks_exact(seen).enumerate().map(|(t, scores)| {
                // A query sees its own position and those before it.
                let visible = seen - span.len() + first + t + 1;
                let best = best(&scores[..visible], top);
                Tensor::from_u32(&best, [best.len()])
            }));
        }
        Some(chosen)
    }
}

/// The positions of the `top` largest, in order; the later of equals, which are many where a score is a sum of positive parts.
pub(crate) fn best(scores: &[f32], top: usize) -> Vec<u32> {
    let mut positions: Vec<u32> = (0..scores.len() as u32).collect();
    if top < scores.len() {
        // Zeros of both signs are equal.
        let score = |position: &u32| scores[*position as usize] + 0.0;
        positions.select_nth_unstable_by(top, |a, b| score(b).total_cmp(&score(a)).then(b.cmp(a)));
        positions.truncate(top);
        positions.sort_unstable();
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_the_largest_and_of_equals_the_later() {
        assert_eq!(best(&[0.0, 3.0, -0.0, 1.0, 0.0], 3), [1, 3, 4]);
        assert_eq!(best(&[0.0, -0.0, 0.0], 2), [1, 2]);
        assert_eq!(best(&[-1.0, f32::NEG_INFINITY, -2.0], 2), [0, 2]);
        assert_eq!(best(&[1.0, 2.0], 5), [0, 1]);
    }
}
