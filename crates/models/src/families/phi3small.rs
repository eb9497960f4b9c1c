//! Phi-3 small: some layers see all positions; in the others each head sees the last blocks and some of those before.

use mlxengine_tensor::{Sdpa, Tensor, Tensors, Weight};
use serde::Deserialize;
use serde_json::{Value, json};
use smallvec::smallvec;

use crate::decoder::{LanguageModel, Span};
use crate::ends::Frame;
use crate::linear::Linear;
use crate::mixer::{Attention, Inputs, Pass, Plan, each_span};
use crate::mlp::gated;
use crate::norm::Norm;
use crate::spec::{self, Decoder, Gate, Gated, Mlp, Projection, Rope, RopeScaling, Unit};
use crate::stack::{At, Layer, Stack};
use crate::state::View;
use crate::weights::Weights;
use crate::{Config, Error, Result};

/// Blocks of positions.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Blocks {
    /// Positions in one.
    #[serde(rename = "blocksparse_block_size")]
    size: usize,
    /// The last ones, the own one among them, are seen by every head.
    #[serde(rename = "blocksparse_num_local_blocks")]
    local: usize,
    /// Of those before, head `h` sees block `b` if this divides `h + b + 1`.
    #[serde(rename = "blocksparse_vert_stride")]
    stride: usize,
    /// Of so many layers, the first has blocks.
    #[serde(rename = "dense_attention_every_n_layers")]
    every: usize,
}

impl Blocks {
    fn read(config: &Config) -> Result<Self> {
        let blocks: Blocks = config
            .defaults(json!({"blocksparse_block_size": 64, "blocksparse_num_local_blocks": 16,
            "blocksparse_vert_stride": 8}))
            .read()?;
        let Blocks { size, local, stride, every } = blocks;
        if matches!(size, 32 | 64) && [local, stride, every].iter().all(|n| (1..1 << 24).contains(n)) {
            return Ok(blocks);
        }
        Err(Error::invalid(format!(
            "config.json: no attention has {local} local blocks of {size} and every {stride}. before, in every {every}. layer"
        )))
    }

    /// The positions before `to` that heads see from block `own`, where `rest` is what `h + 1` leaves.
    fn seen(self, rest: usize, own: usize, to: usize) -> impl Iterator<Item = usize> {
        let local = (own + 1).saturating_sub(self.local);
        let far = (0..local).filter(move |block| (block + rest).is_multiple_of(self.stride));
        far.flat_map(move |block| block * self.size..(block + 1) * self.size).chain(local * self.size..to)
    }
}

#[derive(Deserialize)]
struct Keys {
    gegelu_limit: f32,
    mup_attn_multiplier: f32,
    mup_use_scaling: bool,
    mup_embedding_multiplier: f32,
    mup_width_multiplier: f32,
    rope_position_scale: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let only = [("rope_scaling", Value::Null), ("blocksparse_homo_head_pattern", json!(false))];
    only.iter().chain(&[("hidden_act", json!("gegelu"))]).try_for_each(|(key, value)| config.only(key, value))?;
    Blocks::read(config)?;
    let unread = ["rms_norm_eps", "intermediate_size", "rope_theta", "head_dim", "hidden_act", "partial_rotary_factor"];
    let config = config.without(&unread).without(&["rope_parameters", "rope_traditional"]).aliases(KEYS);
    let config = config.defaults(json!({
        "mup_attn_multiplier": 1.0, "mup_use_scaling": true, "mup_embedding_multiplier": 10.0,
        "mup_width_multiplier": 8.0, "rope_theta": 1_000_000.0, "rope_position_scale": 1.0
    }));
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    let norm = c.layer_norm(true);
    let scaling = match keys.rope_position_scale {
        1.0 => RopeScaling::None,
        scale => RopeScaling::Linear { factor: 1.0 / scale },
    };
    let rope = Some(Rope { scaling, ..c.plain_rope(1_000_000.0)? });
    let act = Gate::ClampedSwish { alpha: 1.702, limit: keys.gegelu_limit, shift: 1.0 };
    let unit = Gated { hidden: c.intermediate_size, act, projection: Projection::Joined, bias: true };
    let decoder = c.decoder(true, |_| {
        let plain = c.attention()?;
        let scale = if keys.mup_use_scaling { keys.mup_attn_multiplier / plain.head_dim as f32 } else { plain.scale };
        let (rope, projection) = (rope.clone(), Projection::Grouped);
        let attention = spec::Attention { projection, qkv_bias: true, out_bias: true, rope, scale, ..plain };
        Ok(spec::Layer { norm, ..c.layer(attention, unit.into()) })
    })?;
    Ok(Decoder {
        norm,
        embed_scale: Some(keys.mup_embedding_multiplier).filter(|by| *by != 0.0),
        head: spec::Head::Tied,
        logit_scale: Some(keys.mup_width_multiplier).filter(|by| *by != 0.0).map(f32::recip),
        renames: RENAMES,
        ..decoder
    })
}

const KEYS: &[(&str, &str)] = &[
    ("rms_norm_eps", "layer_norm_epsilon"),
    ("intermediate_size", "ff_intermediate_size"),
    ("rope_theta", "rope_embedding_base"),
];

const RENAMES: &[(&str, &str)] = &[
    ("^model.final_layernorm.", "^model.norm."),
    (".self_attn.query_key_value.", ".self_attn.qkv_proj."),
    (".self_attn.dense.", ".self_attn.o_proj."),
];

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let (blocks, barred) = (Blocks::read(config)?, barred(spec.vocab));
    let stack = Stack::load(spec, weights, progress, |at, plan| {
        Own::load(at, Some(blocks).filter(|blocks| at.index.is_multiple_of(blocks.every)), plan)
    })?;
    Ok(Box::new(Model { stack, barred }))
}

/// What is added to the logits, so that rows which stand for no token never come out.
fn barred(vocab: usize) -> Tensor {
    let idle = |id: usize| matches!(id, 100_256 | 100_258..=100_260 | 100_264 | 100_265 | 100_267..=100_351);
    let each: Vec<f32> = (0..vocab).map(|id| if idle(id) { f32::NEG_INFINITY } else { 0.0 }).collect();
    Tensor::from_f32(&each, [vocab])
}

#[derive(Debug)]
struct Model {
    stack: Stack<Own>,
    barred: Tensor,
}

impl LanguageModel for Model {
    fn frame(&self) -> &Frame {
        self.stack.frame()
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        self.stack.forward(spans)
    }

    fn logits(&self, hidden: &Tensor) -> Tensor {
        self.frame().ends.logits(hidden).add(&self.barred)
    }
}

#[derive(Debug)]
struct Own {
    norms: [Norm; 2],
    attention: Attention,
    heads: Heads,
    /// None in layers that see everything.
    blocks: Option<Blocks>,
    /// Gate and up, whose rows take turns.
    up: Linear,
    down: Linear,
    act: Gate,
}

/// The numbers of attention that blocks need.
#[derive(Clone, Copy, Debug)]
struct Heads {
    count: usize,
    kv: usize,
    dim: usize,
    scale: f32,
}

impl Own {
    fn load(at: &At<'_>, blocks: Option<Blocks>, plan: &mut Plan) -> Result<Self> {
        let At { w, dim, .. } = at;
        let (spec, mlp) = (at.attention(), w.at("mlp"));
        let Mlp::Dense(Unit::Gated(unit)) = *at.mlp() else { unreachable!("made above") };
        let norm = |name| Norm::load(at.spec.norm, w, name, *dim);
        Ok(Self {
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
            attention: Attention::load(spec, &w.at("self_attn"), *dim, plan)?,
            heads: Heads { count: spec.heads, kv: spec.kv_heads, dim: spec.head_dim, scale: spec.scale },
            blocks,
            up: mlp.linear("up_proj", [*dim, 2 * unit.hidden], true)?,
            down: mlp.linear("down_proj", [unit.hidden, *dim], true)?,
            act: unit.act,
        })
    }

    /// Attention of each head over its blocks.
    fn sparse(&self, blocks: Blocks, inputs: Inputs, spans: &mut [Span<'_>]) -> Tensor {
        let [k, v] = inputs.kv.expect("each layer has keys of its own");
        each_span(spans, [inputs.q, k, v], |[q, k, v], span| {
            let mut at = span.state.offset();
            let (first, end) = (at, at + q.shape()[0]);
            let view = span.state.kv(self.attention.slot).extend(&k, &v);
            // Positions before this one are forgotten, where caches forget.
            let base = view.first;
            let mut pieces = Tensors::new();
            while at < end {
                let own = at / blocks.size;
                let to = end.min((own + 1) * blocks.size);
                let q = q.clone().slice(0, at - first, to - at);
                pieces.push(match own < blocks.local {
                    true => self.all(&q, &view, to - base),
                    false => self.some(&q, &view, |rest| blocks.seen(rest, own, to), (blocks.stride, base)),
                });
                at = to;
            }
            Tensor::concat(pieces, 0)
        })
    }

    /// Attention to all rows that are given.
    fn sdpa(&self) -> Sdpa {
        let (scale, precision) = (self.heads.scale, self.attention.precision());
        Sdpa { scale, causal: true, window: None, softcap: None, format: None, first: 0, sinks: false, precision }
    }

    /// Attention to the first rows of a view.
    fn all(&self, q: &Tensor, view: &View, count: usize) -> Tensor {
        let rows = |parts: &Tensors| parts.iter().map(|part| part.clone().slice(0, 0, count)).collect();
        let sdpa = Sdpa { window: view.window, format: view.format, first: view.first, ..self.sdpa() };
        q.sdpa(sdpa, rows(&view.keys), rows(&view.values), None)
    }

    /// Attention of heads that see other rows each; those whose numbers leave the same rest see the same positions.
    fn some<I: Iterator<Item = usize>>(
        &self,
        q: &Tensor,
        view: &View,
        seen: impl Fn(usize) -> I,
        (stride, base): (usize, usize),
    ) -> Tensor {
        let Heads { count, kv, dim, .. } = self.heads;
        let table = |parts: &Tensors, dense: &dyn Fn() -> Tensor| {
            let rows = if view.format.is_some() { dense() } else { parts[0].clone() };
            Weight::Dense(rows.clone().reshape([rows.shape()[0] * kv, dim]))
        };
        let keys = table(&view.keys, &|| view.dense_keys());
        let values = table(&view.values, &|| view.dense_values());
        let mut results = vec![None; count];
        for rest in 0..stride.min(count + 1) {
            let heads: Vec<usize> = (0..count).filter(|head| (head + 1) % stride == rest).collect();
            if heads.is_empty() {
                continue;
            }
            let rows = seen(rest).filter(|position| *position >= base).map(|position| position - base);
            let ids: Vec<u32> =
                rows.flat_map(|row| heads.iter().map(move |head| (row * kv + head * kv / count) as u32)).collect();
            let ids = Tensor::from_u32(&ids, [ids.len()]);
            let rows = |table: &Weight| table.take(&ids).reshape([ids.shape()[0] / heads.len(), heads.len(), dim]);
            let q = Tensor::concat(heads.iter().map(|head| q.clone().slice(1, *head, 1)), 1);
            let y = q.sdpa(self.sdpa(), smallvec![rows(&keys)], smallvec![rows(&values)], None);
            for (i, head) in heads.iter().enumerate() {
                results[*head] = Some(y.clone().slice(1, i, 1));
            }
        }
        Tensor::concat(results.into_iter().map(|y| y.expect("each head leaves a rest")), 1)
    }
}

impl Layer for Own {
    fn forward(&self, x: Tensor, _: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let inputs = self.attention.inputs(&self.norms[0].forward(&x), pass);
        let attended = match self.blocks {
            Some(blocks) => self.sparse(blocks, inputs, spans),
            None => self.attention.attended(inputs, spans),
        };
        let x = x.add(&self.attention.output(attended));
        let pairs = self.up.forward(&self.norms[1].forward(&x));
        let [rows, hidden] = [pairs.shape()[0], pairs.shape()[1] / 2];
        let pairs = pairs.reshape([rows, hidden, 2]);
        let [gate, up] = [0, 1].map(|turn| pairs.clone().slice(2, turn, 1).reshape([rows, hidden]));
        x.add(&self.down.forward(&gated(self.act, gate, up)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_token_never_come_out() {
        let idle = |vocab| barred(vocab).f32s().iter().filter(|x| **x == f32::NEG_INFINITY).count();
        assert_eq!([idle(512), idle(100_257), idle(100_352)], [0, 1, 91]);
        assert!(barred(100_352).f32s()[..100_256].iter().all(|x| *x == 0.0));
    }
}
