//! Attention over a window, and over groups of earlier positions that an index chooses. A group is pooled into one row, which
//! further layers see as well; so do they what the index chose.
//!
//! Caches count positions, so the row of a group lies where its last position does; the rows between are not looked at.

use mlxengine_tensor::{Dtype, Reduce, Sdpa, Tensor, Tensors, Unary, Weight};
use smallvec::smallvec;

use super::{Pass, Plan, best};
use crate::decoder::Span;
use crate::linear::{ExpertLinear, Linear};
use crate::norm::Norm;
use crate::rope::{Rotation, Tables};
use crate::rounding::Blocks;
use crate::spec::{self, Rope};
use crate::state::{KvShape, SlotSpec, State, View};
use crate::weights::Scope;
use crate::{Error, Result};

/// Queries whose scores are held at once.
const BLOCK: usize = 16;

/// What such a layer is.
#[derive(Clone, Debug)]
pub(crate) struct PooledSpec {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Rank of the queries.
    pub(crate) rank: usize,
    /// The last numbers of a head turn so, and back after attention.
    pub(crate) rope: Rope,
    pub(crate) window: usize,
    /// Positions of a group; none where the window is all.
    pub(crate) ratio: Option<usize>,
    /// Whether the layer pools groups, for itself and those after it.
    pub(crate) pools: bool,
    /// Whether it chooses groups, for itself and those after it.
    pub(crate) index: Option<IndexSpec>,
    /// Groups of heads whose results are first projected each alone, to `out_rank` numbers.
    pub(crate) out_groups: usize,
    pub(crate) out_rank: usize,
    pub(crate) norm: spec::Norm,
}

/// What chooses groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexSpec {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Most groups that a query attends to.
    pub(crate) top: usize,
    /// Groups in a block.
    pub(crate) block: usize,
    /// Most blocks from which later layers may choose; none where this layer leaves that open.
    pub(crate) blocks: Option<usize>,
}

impl PooledSpec {
    /// The same, if such a layer can be.
    ///
    /// # Errors
    /// For sizes that no model has, and parts that do not fit.
    pub(crate) fn checked(self) -> Result<Self> {
        let index = self.index.map_or([self.head_dim, 1, 1, 1], |i| [i.head_dim, i.heads, i.top, i.block]);
        let sizes = [self.rank, self.window, self.ratio.unwrap_or(1), self.out_groups, self.out_rank];
        let wrong = sizes.into_iter().chain(index).any(|size| size == 0 || size > 1 << 20);
        let whole = !wrong && (self.heads * self.head_dim).is_multiple_of(self.out_groups);
        if whole && self.rope.dims <= index[0] {
            return Ok(self);
        }
        Err(Error::invalid(
            "config.json: the sizes of heads, groups or the index do not fit, or are such as no model has",
        ))
    }
}

/// What layers leave for later ones of the same pass, of one span.
#[derive(Default)]
pub(crate) struct Left {
    /// The rows of groups, and their positions a group.
    groups: Option<(Weight, usize)>,
    /// The keys of the index, one a group.
    keys: Option<Tensor>,
    /// Of each query the groups that were chosen.
    chosen: Vec<Vec<u32>>,
    /// Of each query the blocks of groups from which to choose.
    blocks: Option<Vec<Vec<u32>>>,
}

#[derive(Debug)]
pub(crate) struct Pooled {
    queries: [Linear; 2],
    kv: Linear,
    norms: [Norm; 2],
    sinks: Tensor,
    output: (ExpertLinear, Linear),
    pool: Option<Pool>,
    index: Option<Index>,
    rotation: usize,
    slot: usize,
    spec: PooledSpec,
}

/// Rows `[N, heads, size]` with their last numbers turned.
fn turned(x: Tensor, (cos, sin): &Tables) -> Tensor {
    let (size, turns) = (x.shape().last(), 2 * cos.shape()[1]);
    if size == turns {
        return x.rope(cos, sin, true);
    }
    let still = x.clone().slice(2, 0, size - turns);
    Tensor::concat([still, x.slice(2, size - turns, turns).rope(cos, sin, true)], 2)
}

/// A slot of keys alone.
fn keys(plan: &mut Plan, key_dim: usize, window: Option<usize>) -> usize {
    plan.slot(SlotSpec::Kv { shape: KvShape { heads: 1, key_dim, value_dim: None }, dtype: Dtype::F32, window })
}

impl Pooled {
    /// `w` is the scope of the attention.
    pub(crate) fn load(spec: PooledSpec, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let PooledSpec { heads, head_dim, rank, out_groups, out_rank, norm, .. } = spec;
        let each = heads * head_dim / out_groups;
        let pool = match spec.ratio.filter(|_| spec.pools) {
            Some(ratio) => Some(Pool::load(&spec, ratio, &w.at("compressor"), dim, plan)?),
            None => None,
        };
        let index = match spec.index.filter(|_| spec.ratio.is_some()) {
            Some(index) => Some(Index::load(&spec, index, &w.at("indexer"), dim, plan)?),
            None => None,
        };
        if spec.ratio.is_none() {
            ["compressor", "indexer"].iter().for_each(|part| w.ignore(part, "the layer sees its window alone"));
        }
        Ok(Self {
            queries: [
                w.linear("q_a_proj", [dim, rank], false)?,
                w.linear("q_b_proj", [rank, heads * head_dim], false)?,
            ],
            kv: w.linear("kv_proj", [dim, head_dim], false)?,
            norms: [Norm::load(norm, w, "q_a_norm", rank)?, Norm::load(norm, w, "kv_norm", head_dim)?],
            sinks: w.vector("sinks", heads)?,
            output: (
                w.groups("o_a_proj", [out_groups, out_rank, each])?,
                w.linear("o_b_proj", [out_groups * out_rank, dim], false)?,
            ),
            pool,
            index,
            rotation: plan.rotation(&spec.rope),
            slot: keys(plan, head_dim, Some(spec.window)),
            spec,
        })
    }

    /// `x [N, dim] -> [N, dim]`; `left` is of each span what earlier layers left.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        (pass, rotations): (&Pass<'_>, &[Rotation]),
        spans: &mut [Span<'_>],
        left: &mut [Left],
    ) -> Tensor {
        let PooledSpec { heads, head_dim, out_groups, .. } = self.spec;
        let (rows, tables) = (x.shape()[0], &pass.tables[self.rotation]);
        let low = self.norms[0].forward(&self.queries[0].forward(x));
        let q = turned(self.queries[1].forward(&low).reshape([rows, heads, head_dim]), tables);
        let kv = self.norms[1].forward(&self.kv.forward(x)).reshape([rows, 1, head_dim]);
        let kv = Blocks::Fp8.round(&turned(kv, tables));
        let pooled = self.pool.as_ref().map(|pool| (pool, pool.project(x)));
        let asked = self.index.as_ref().map(|index| (index, index.project(x, &low, tables)));
        let mut start = 0;
        let attended = spans.iter_mut().zip(left).map(|(span, left)| {
            let (first, count) = (span.state.offset(), span.tokens.len());
            let of_span = |t: &Tensor| t.clone().slice(0, start, count);
            let view = span.state.kv(self.slot).extend_keys(&of_span(&kv));
            if let Some((pool, parts)) = &pooled {
                let new = pool.forward(parts.each_ref().map(of_span), span.state);
                pool.keep(new, (self.index.as_ref(), &rotations[self.rotation]), (&mut *span.state, count), left);
            }
            if let Some((index, [queries, shares])) = &asked {
                index.choose([of_span(queries), of_span(shares)], (first, self.spec.ratio.unwrap_or(1)), left);
            }
            let y = self.attend(&of_span(&q), &view, first, left);
            start += count;
            y
        });
        let y = Tensor::concat(attended.collect::<Tensors>(), 0);
        let back = (tables.0.clone(), tables.1.clone().unary(Unary::Neg));
        let y = turned(y, &back).reshape([rows, out_groups, heads * head_dim / out_groups]);
        let y = self.output.0.by_slot(&y);
        self.output.1.forward(&y.reshape([rows, out_groups * self.spec.out_rank]))
    }

    /// Attention of queries whose first position is `first`.
    fn attend(&self, q: &Tensor, view: &View, first: usize, left: &Left) -> Tensor {
        let scale = (self.spec.head_dim as f32).powf(-0.5);
        let (window, format, precision) = (view.window, view.format, self.output.1.precision);
        let sdpa =
            Sdpa { scale, causal: true, window, softcap: None, format, first: view.first, sinks: true, precision };
        if self.spec.ratio.is_none() {
            return q.sdpa(sdpa, view.keys.clone(), view.values.clone(), Some(&self.sinks));
        }
        let (near, count) = (view.dense_keys(), q.shape()[0]);
        let sdpa = Sdpa { causal: false, window: None, format: None, first: 0, ..sdpa };
        // Each query alone, even where none of its groups is chosen yet: company must not change the order of a sum.
        let attended = (0..count).map(|t| {
            let end = first + t + 1;
            let from = end.saturating_sub(self.spec.window).max(view.first);
            let near = near.clone().slice(0, from - view.first, end - from);
            let keys = match self.far(t, left) {
                Some(far) => Tensor::concat([near, far], 0),
                None => near,
            };
            q.clone().slice(0, t, 1).sdpa(sdpa, smallvec![keys.clone()], smallvec![keys], Some(&self.sinks))
        });
        Tensor::concat(attended.collect::<Tensors>(), 0)
    }

    /// The rows of the groups that were chosen for query `t`.
    fn far(&self, t: usize, left: &Left) -> Option<Tensor> {
        let ((rows, ratio), chosen) = (left.groups.as_ref()?, left.chosen.get(t)?);
        let ids = chosen.iter().map(|group| (*group + 1) * *ratio as u32 - 1);
        let ids: Vec<u32> = ids.filter(|id| (*id as usize) < rows.shape()[0]).collect();
        let far = (!ids.is_empty()).then(|| rows.take(&Tensor::from_u32(&ids, [ids.len()])));
        far.map(|far| far.reshape([ids.len(), 1, self.spec.head_dim]))
    }
}

/// What pools groups.
#[derive(Debug)]
struct Pool {
    kv: Linear,
    /// Logits of each number's share in its group.
    gate: Option<Linear>,
    norm: Norm,
    /// Where the parts of a group lie that is not yet whole.
    open: Option<usize>,
    slot: usize,
    ratio: usize,
}

impl Pool {
    fn load(spec: &PooledSpec, ratio: usize, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let head_dim = spec.head_dim;
        let (mut gate, mut open) = (None, None);
        if ratio > 1 {
            gate = Some(w.linear("gate_proj", [dim, head_dim], false)?);
            let shape = KvShape { heads: 1, key_dim: head_dim, value_dim: Some(head_dim) };
            open = Some(plan.slot(SlotSpec::Kv { shape, dtype: Dtype::F32, window: Some(ratio) }));
        }
        let norm = Norm::load(spec.norm, w, "kv_norm", head_dim)?;
        let slot = keys(plan, head_dim, None);
        Ok(Self { kv: w.linear("kv_proj", [dim, head_dim], false)?, gate, norm, open, slot, ratio })
    }

    /// What positions bring into their groups, and the logits of their shares, `[N, 1, size]`.
    fn project(&self, x: &Tensor) -> [Tensor; 2] {
        let kv = self.kv.forward(x);
        let gate = self.gate.as_ref().map_or_else(|| kv.clone(), |gate| gate.forward(x));
        [kv, gate].map(|t| t.clone().reshape([t.shape()[0], 1, t.shape()[1]]))
    }

    /// The groups that these positions make whole: the number of the first, and their rows.
    fn forward(&self, [kv, gate]: [Tensor; 2], state: &mut State) -> Option<(usize, Tensor)> {
        let (count, size) = (kv.shape()[0], kv.shape()[2]);
        let (offset, end) = (state.offset(), state.offset() + count);
        let Some(open) = self.open else {
            return Some((offset, self.norm.forward(&kv.reshape([count, size]))));
        };
        let view = state.kv(open).extend(&kv, &gate);
        let (first, last) = (offset / self.ratio, end / self.ratio);
        let base = end - view.keys[0].shape()[0];
        if first == last {
            return None;
        }
        let part = |t: Tensor| {
            let rows = t.slice(0, first * self.ratio - base, (last - first) * self.ratio);
            rows.reshape([last - first, self.ratio, size]).permute(&[0, 2, 1])
        };
        let pooled = part(view.dense_keys()).mul(&part(view.dense_values()).softmax()).reduce(Reduce::Sum);
        Some((first, self.norm.forward(&pooled.reshape([last - first, size]))))
    }

    /// Keeps new groups, and leaves all for later layers.
    fn keep(
        &self,
        new: Option<(usize, Tensor)>,
        (index, rotation): (Option<&Index>, &Rotation),
        (state, count): (&mut State, usize),
        left: &mut Left,
    ) {
        let offset = state.offset();
        let spread = |rows: Option<Tensor>, size: usize| {
            let mut all = vec![0.0; count * size];
            if let (Some(rows), Some((first, _))) = (rows, &new) {
                for (i, row) in rows.f32s().chunks_exact(size).enumerate() {
                    let at = (first + i + 1) * self.ratio - 1 - offset;
                    all[at * size..][..size].copy_from_slice(row);
                }
            }
            Tensor::from_f32(&all, [count, 1, size])
        };
        let turn = |rows: Tensor| {
            let (first, count) = (new.as_ref().map_or(0, |new| new.0), rows.shape()[0]);
            let tables = rotation.tables((first..first + count).map(|group| (group * self.ratio, 1)));
            let size = rows.shape()[1];
            turned(rows.reshape([count, 1, size]), &tables)
        };
        let latents = new.as_ref().map(|new| new.1.clone());
        let size = self.kv.weight.shape()[0];
        let rows = latents.clone().map(|rows| Blocks::NvFp4.round(&turn(rows)));
        let all = state.kv(self.slot).extend_keys(&spread(rows, size)).dense_keys();
        let groups = all.shape()[0] / self.ratio;
        left.groups = (groups > 0).then(|| (Weight::Dense(all.clone().reshape([all.shape()[0], size])), self.ratio));
        let Some((index, (linear, norm, slot))) = index.and_then(|index| Some((index, index.keys.as_ref()?))) else {
            return;
        };
        let keys = latents.map(|rows| Blocks::Fp4.round(&turn(norm.forward(&linear.forward(&rows)))));
        let all = state.kv(*slot).extend_keys(&spread(keys, index.spec.head_dim)).dense_keys();
        let all = Weight::Dense(all.clone().reshape([all.shape()[0], index.spec.head_dim]));
        let ids: Vec<u32> = (1..=groups).map(|group| (group * self.ratio - 1) as u32).collect();
        left.keys = (groups > 0).then(|| all.take(&Tensor::from_u32(&ids, [groups])));
    }
}

/// What chooses groups.
#[derive(Debug)]
struct Index {
    queries: Linear,
    shares: Linear,
    /// What makes keys of groups, and where they lie.
    keys: Option<(Linear, Norm, usize)>,
    spec: IndexSpec,
}

impl Index {
    fn load(layer: &PooledSpec, spec: IndexSpec, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let keys = if layer.pools {
            let linear = w.linear("k_proj", [layer.head_dim, spec.head_dim], false)?;
            Some((linear, Norm::load(layer.norm, w, "k_norm", spec.head_dim)?, keys(plan, spec.head_dim, None)))
        } else {
            None
        };
        Ok(Self {
            queries: w.linear("q_b_proj", [layer.rank, spec.heads * spec.head_dim], false)?,
            shares: w.linear("weights_proj", [dim, spec.heads], false)?,
            keys,
            spec,
        })
    }

    /// Queries `[N, heads, head_dim]`, and the heads' shares in a score, `[N, heads]`.
    fn project(&self, x: &Tensor, low: &Tensor, tables: &Tables) -> [Tensor; 2] {
        let IndexSpec { heads, head_dim, .. } = self.spec;
        let queries = self.queries.forward(low).reshape([x.shape()[0], heads, head_dim]);
        let shares = self.shares.forward(x).scale(((heads * head_dim) as f32).powf(-0.5));
        [Blocks::Fp4.round(&turned(queries, tables)), shares]
    }

    /// Leaves the groups of `ratio` positions for each query, the first of which is at `first`.
    fn choose(&self, [queries, shares]: [Tensor; 2], (first, ratio): (usize, usize), left: &mut Left) {
        let IndexSpec { heads, head_dim, top, block, blocks } = self.spec;
        let count = queries.shape()[0];
        left.chosen = vec![Vec::new(); count];
        let Some(keys) = &left.keys else { return };
        let groups = keys.shape()[0];
        let mut candidates = Vec::new();
        for from in (0..count).step_by(BLOCK) {
            let count = BLOCK.min(count - from);
            let queries = queries.clone().slice(0, from, count).reshape([count * heads, head_dim]);
            let scores = queries.matmul(keys, true).unary(Unary::Relu).reshape([count, heads, groups]);
            let shares = shares.clone().slice(0, from, count).reshape([count, 1, heads]);
            let scores = shares.matmul(&scores, false).reshape([count, groups]);
            for (t, scores) in scores.f32s().chunks_exact(groups).enumerate() {
                // A query sees the groups that end with it or before.
                let mut scores = scores[..((first + from + t + 1) / ratio).min(groups)].to_vec();
                if let Some(most) = blocks {
                    candidates.push(best_blocks(&scores, block, most));
                } else if let Some(open) = left.blocks.as_ref().map(|blocks| &blocks[from + t]) {
                    let shut = |at: usize| open.binary_search(&((at / block) as u32)).is_err();
                    (0..scores.len()).filter(|at| shut(*at)).for_each(|at| scores[at] = f32::NEG_INFINITY);
                }
                left.chosen[from + t] = earliest(&scores, top);
            }
        }
        if blocks.is_some() {
            left.blocks = Some(candidates);
        }
    }
}

/// The blocks with the largest scores, and the last in any case, in order.
fn best_blocks(scores: &[f32], block: usize, most: usize) -> Vec<u32> {
    let mut largest: Vec<f32> =
        scores.chunks(block).map(|scores| scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
    if let Some(last) = largest.last_mut() {
        *last = f32::INFINITY;
    }
    earliest(&largest, most)
}

/// The positions of the `top` largest, in order; the earlier of equals, which are many where a score is a sum of parts that may
/// all be 0.
fn earliest(scores: &[f32], top: usize) -> Vec<u32> {
    let backwards: Vec<f32> = scores.iter().rev().copied().collect();
    best(&backwards, top).into_iter().rev().map(|position| scores.len() as u32 - 1 - position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equals_the_earlier_are_chosen() {
        assert_eq!(earliest(&[0.0, 3.0, -0.0, 1.0, 0.0], 3), [0, 1, 3]);
        assert_eq!(best_blocks(&[5.0, 1.0, 2.0, 2.0, 5.0, 0.0, -1.0], 2, 2), [0, 3]);
    }
}
