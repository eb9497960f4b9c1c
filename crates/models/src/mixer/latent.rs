//! Attention over latents: every position keeps one vector of low rank, which all heads share, and a rotated part.
//!
//! Few queries are carried into the latents' space, where the cache is read as it is. Many queries are cheaper the other way:
//! keys and values of every head are computed from the latents once.

use mlxengine_tensor::{Dtype, Sdpa, Tensor, Tensors, Unary, Weight};
use smallvec::smallvec;

use super::attention::factors;
use super::indexer::Indexer;
use super::{Pass, Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::{ExpertLinear, Linear};
use crate::norm::Norm;
use crate::rope::Tables;
use crate::spec::{self, HeadGate};
use crate::state::View;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct Latent {
    queries: Queries,
    /// The latent and the rotated part of the key.
    down: Linear,
    norm: Norm,
    /// Of each head: from a query to the latents, `[rank, nope_dim]`.
    absorb: ExpertLinear,
    /// Of each head: from the latents to a value, `[value_dim, rank]`.
    release: ExpertLinear,
    output: Linear,
    gate: Option<Linear>,
    indexer: Option<Indexer>,
    rotation: Option<usize>,
    slot: usize,
    spec: spec::Latent,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer has one, and a box would cost a look-up a product")]
enum Queries {
    Direct(Linear),
    LowRank { down: Linear, norm: Norm, up: Linear },
}

impl Latent {
    pub(crate) fn load(spec: &spec::Latent, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let spec::Latent { heads, rank, nope_dim, rope_dim, value_dim, norm, bias, .. } = *spec;
        let size = heads * (nope_dim + rope_dim);
        let queries = match spec.query_rank {
            None => Queries::Direct(w.linear("q_proj", [dim, size], false)?),
            Some(rank) => Queries::LowRank {
                down: w.linear("q_a_proj", [dim, rank], bias)?,
                norm: Norm::load(norm, w, "q_a_layernorm", rank)?,
                up: w.linear("q_b_proj", [rank, size], false)?,
            },
        };
        let [absorb, release] = w.latent_heads(heads, rank, [nope_dim, value_dim])?;
        Ok(Self {
            queries,
            down: w.linear("kv_a_proj_with_mqa", [dim, rank + rope_dim], bias)?,
            norm: Norm::load(norm, w, "kv_a_layernorm", rank)?,
            absorb,
            release,
            output: w.linear("o_proj", [heads * value_dim, dim], bias)?,
            gate: match spec.gate {
                Some(HeadGate::Each) => Some(w.linear("g_proj", [dim, heads * value_dim], false)?),
                Some(_) => Some(w.linear("g_proj", [dim, heads], false)?),
                None => None,
            },
            rotation: spec.rope.as_ref().map(|rope| plan.rotation(rope)),
            slot: plan.slot(spec.slot()),
            indexer: match &spec.indexer {
                Some(indexer) => {
                    Some(Indexer::load(indexer, &w.at("indexer"), [dim, spec.query_rank.unwrap_or(dim)], plan)?)
                }
                None => None,
            },
            spec: spec.clone(),
        })
    }

    /// Queries `[N, heads, nope_dim + rope_dim]`, and what the indexer makes its own of.
    fn queries(&self, x: &Tensor) -> (Tensor, Tensor) {
        let (q, low) = match &self.queries {
            Queries::Direct(linear) => (linear.forward(x), x.clone()),
            Queries::LowRank { down, norm, up } => {
                let low = norm.forward(&down.forward(x));
                (up.forward(&low), low)
            }
        };
        (q.reshape([x.shape()[0], self.spec.heads, self.spec.nope_dim + self.spec.rope_dim]), low)
    }

    fn rotate(&self, x: Tensor, pass: &Pass<'_>) -> Tensor {
        match (self.rotation, &self.spec.rope) {
            (Some(rotation), Some(rope)) => {
                let (cos, sin): &Tables = &pass.tables[rotation];
                x.rope(cos, sin, rope.traditional)
            }
            _ => x,
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let spec::Latent { heads, rank, nope_dim, rope_dim, value_dim, .. } = self.spec;
        let rows = x.shape()[0];
        let (mut q, low) = self.queries(x);
        if let Some(temperature) = self.spec.temperature {
            q = q.mul(&factors(temperature, pass.positions, rows));
        }
        let rotated = self.rotate(q.clone().slice(2, nope_dim, rope_dim), pass);
        let both = self.down.forward(x);
        let latent = self.norm.forward(&both.clone().slice(1, 0, rank));
        let key = self.rotate(both.slice(1, rank, rope_dim).reshape([rows, 1, rope_dim]), pass);
        let kept = Tensor::concat([latent.reshape([rows, 1, rank]), key], 2);
        let index = self.indexer.as_ref().map(|indexer| indexer.project(x, &low, pass));
        let nope = q.slice(2, 0, nope_dim);
        let mut start = 0;
        let attended = each_span(spans, [nope, rotated, kept], |[nope, rotated, kept], span| {
            let view = span.state.kv(self.slot).extend_keys(&kept);
            let count = kept.shape()[0];
            let chosen = match (&self.indexer, &index) {
                (Some(indexer), Some(index)) => indexer.choose(index, start..start + count, span.state),
                _ => None,
            };
            start += count;
            match chosen {
                Some(chosen) => self.sparse(&nope, &rotated, &view, &chosen),
                None if self.expands(count, &view) => self.expanded(nope, rotated, &view),
                None => self.absorbed(&nope, rotated, view),
            }
        });
        let attended = match &self.gate {
            Some(gate) => {
                let gate = gate.forward(x).unary(self.spec.gate.map_or(Unary::Sigmoid, HeadGate::function));
                let each = gate.shape()[1] / heads;
                attended.mul(&gate.reshape([rows, heads, each]))
            }
            None => attended,
        };
        self.output.forward(&attended.reshape([rows, heads * value_dim]))
    }

    /// Whether so many queries are worth the keys and values of every head.
    fn expands(&self, count: usize, view: &View) -> bool {
        let spec::Latent { rank, nope_dim, value_dim, .. } = self.spec;
        view.format.is_none() && count * (2 * rank).saturating_sub(nope_dim + value_dim) > rank * (nope_dim + value_dim)
    }

    fn sdpa(&self, view: &View) -> Sdpa {
        Sdpa {
            scale: self.spec.scale,
            causal: true,
            window: view.window,
            softcap: None,
            format: view.format,
            first: view.first,
            sinks: false,
            precision: self.output.precision,
        }
    }

    /// Queries in the latents' space.
    fn carried(&self, nope: &Tensor, rotated: Tensor) -> Tensor {
        Tensor::concat([self.absorb.by_slot(nope), rotated], 2)
    }

    fn absorbed(&self, nope: &Tensor, rotated: Tensor, view: View) -> Tensor {
        let sdpa = self.sdpa(&view);
        let y = self.carried(nope, rotated).sdpa(sdpa, view.keys, view.values, None);
        self.release.by_slot(&y.slice(2, 0, self.spec.rank))
    }

    fn expanded(&self, nope: Tensor, rotated: Tensor, view: &View) -> Tensor {
        let spec::Latent { heads, rank, rope_dim, value_dim, .. } = self.spec;
        let seen = view.keys[0].shape()[0];
        let kept = view.keys[0].clone().reshape([seen, rank + rope_dim]);
        let latent = kept.clone().slice(1, 0, rank);
        let head = |h: usize| latent.product(&self.absorb.weight.part(h)).reshape([seen, 1, self.spec.nope_dim]);
        let keys = Tensor::concat((0..heads).map(head), 1);
        let shared = kept.slice(1, rank, rope_dim).reshape([seen, 1, rope_dim]);
        let shared = Tensor::zeros(Dtype::F32, [seen, heads, rope_dim]).add(&shared);
        let keys = Tensor::concat([keys, shared], 2);
        let value = |h: usize| {
            latent.linear(&self.release.weight.part(h), self.release.precision).reshape([seen, 1, value_dim])
        };
        let values = Tensor::concat((0..heads).map(value), 1);
        let q = Tensor::concat([nope, rotated], 2);
        q.sdpa(self.sdpa(view), smallvec![keys], smallvec![values], None)
    }

    /// Each query over the positions that were chosen for it.
    fn sparse(&self, nope: &Tensor, rotated: &Tensor, view: &View, chosen: &[Tensor]) -> Tensor {
        let width = self.spec.rank + self.spec.rope_dim;
        let kept = Weight::Dense(view.dense_keys().reshape([view.keys[0].shape()[0], width]));
        let q = self.carried(nope, rotated.clone());
        let sdpa = Sdpa { causal: false, window: None, format: None, first: 0, ..self.sdpa(view) };
        let rows: Tensors = chosen
            .iter()
            .enumerate()
            .map(|(t, ids)| {
                let rows = kept.take(ids);
                let rows = rows.clone().reshape([rows.shape()[0], 1, width]);
                q.clone().slice(0, t, 1).sdpa(sdpa, smallvec![rows.clone()], smallvec![rows], None)
            })
            .collect();
        self.release.by_slot(&Tensor::concat(rows, 0).slice(2, 0, self.spec.rank))
    }
}
