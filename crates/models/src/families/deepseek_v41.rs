//! DeepSeek V4.1: attention over a window and over the groups of positions that an index chooses, each group pooled into one
//! row that several layers share; several residual streams; caches of few bits.

use mlxengine_tensor::{Tensor, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Common;
use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::mixer::{IndexSpec, Left, Plan, Pooled, PooledSpec};
use crate::mlp::{Pool, Router, Unit};
use crate::norm::Norm;
use crate::spec::{self, Decoder, Experts, Gate, Gated, Head, Mlp, Rope, RopeScaling, Scores, Shared};
use crate::state::{CacheOptions, State};
use crate::streams::{Connection, Streams, read};
use crate::weights::{Scope, Weights};
use crate::{Config, Error, ErrorKind, Result};

#[derive(Clone, Deserialize)]
struct Own {
    q_lora_rank: usize,
    qk_rope_head_dim: usize,
    o_groups: usize,
    o_lora_rank: usize,
    n_routed_experts: usize,
    num_experts_per_tok: usize,
    scoring_func: String,
    gate_temp: f32,
    norm_topk_prob: bool,
    routed_scaling_factor: f32,
    swiglu_limit: f32,
    sliding_window: usize,
    compress_ratios: Vec<usize>,
    kv_source_layer_ids: Vec<usize>,
    index_source_layer_ids: Vec<usize>,
    compress_rope_theta: f32,
    candidate_source_layer_id: i64,
    candidate_topk_blocks: usize,
    candidate_block_size: usize,
    index_n_heads: usize,
    index_head_dim: usize,
    index_topk: usize,
    hc_mult: usize,
    hc_sinkhorn_iters: usize,
    hc_eps: f32,
    engram_layer_ids: Vec<usize>,
}

impl Own {
    /// Positions that layer `index` pools into one row; none where it sees its window alone.
    fn ratio(&self, index: usize) -> Option<usize> {
        self.compress_ratios.get(index).copied().filter(|ratio| *ratio > 0)
    }
}

fn keys(config: &Config) -> Result<(Common, Own)> {
    // The head is never the embedding, and no projection has a bias, whatever is said.
    let text = config.text().without(&["num_key_value_heads", "intermediate_size", "attention_bias", "mlp_bias"]);
    let text = text.without(&["tie_word_embeddings", "hidden_act", "partial_rotary_factor"]).defaults(json!({
        "vocab_size": 129_280, "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 64, "head_dim": 512,
        "q_lora_rank": 1280, "qk_rope_head_dim": 64, "o_groups": 8, "o_lora_rank": 1024, "moe_intermediate_size": 2304,
        "n_routed_experts": 384, "num_experts_per_tok": 6, "scoring_func": "sqrtsoftplus", "gate_temp": 1.0,
        "norm_topk_prob": true, "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "rms_norm_eps": 1e-20,
        "sliding_window": 128, "compress_ratios": [], "kv_source_layer_ids": [], "index_source_layer_ids": [],
        "compress_rope_theta": 160_000.0, "candidate_source_layer_id": -1, "candidate_topk_blocks": 2048,
        "candidate_block_size": 8, "index_n_heads": 32, "index_head_dim": 128, "index_topk": 512, "rope_theta": 10_000.0,
        "max_position_embeddings": 1_048_576, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "engram_layer_ids": [],
        "num_key_value_heads": 1,
    }));
    let text = text.or_key("intermediate_size", "moe_intermediate_size");
    let (c, own): (Common, Own) = (text.common()?, text.read()?);
    if !own.engram_layer_ids.is_empty() {
        let message = format!("layers {:?} have an engram memory, which is not supported", own.engram_layer_ids);
        return Err(Error::unsupported(format!("config.json: {message}")));
    }
    Ok((c, own))
}

/// The rotation of a layer that sees groups, else of one that sees its window alone.
fn rope(c: &Common, own: &Own, groups: bool) -> Result<Rope> {
    let base = if groups { own.compress_rope_theta } else { c.rope_theta.unwrap_or(10_000.0) };
    let rope = c.rope_of(own.qk_rope_head_dim, base)?.neighbours();
    let scaling = c.rope_scaling.as_ref();
    let number = |key: &str| scaling.and_then(|s| s.get(key)).and_then(Value::as_f64).map(|x| x as f32);
    let factor = number("factor").unwrap_or(1.0);
    if !groups || factor == 1.0 {
        return Ok(rope);
    }
    let kind = scaling.and_then(|s| s.get("type").or(s.get("rope_type"))).and_then(Value::as_str).unwrap_or("yarn");
    if kind != "yarn" || factor <= 0.0 || base <= 1.0 {
        return Err(Error::unsupported(format!("config.json: rope scaling `{kind}` by {factor} is not supported")));
    }
    let context = c.max_position_embeddings.map(|most| most as f32);
    let context = number("original_max_position_embeddings").or(context).unwrap_or(4096.0);
    let [beta_fast, beta_slow] = [("beta_fast", 32.0), ("beta_slow", 1.0)].map(|(key, or)| number(key).unwrap_or(or));
    Ok(Rope {
        scaling: RopeScaling::Yarn {
            factor,
            context,
            beta_fast: beta_fast.trunc(),
            beta_slow: beta_slow.trunc(),
            mscale: 1.0,
        },
        ..rope
    })
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, own) = keys(config)?;
    Streams { count: own.hc_mult, iterations: own.hc_sinkhorn_iters, eps: own.hc_eps, norm_eps: c.rms_norm_eps }
        .checked()?;
    let scores = match own.scoring_func.as_str() {
        "sigmoid" => Scores::Sigmoid,
        "softmax" => Scores::Softmax,
        _ => Scores::RootSoftplus,
    };
    let normalize = own.norm_topk_prob && own.num_experts_per_tok > 1;
    let router = spec::Router { scores, ..spec::Router::sigmoid(normalize, own.routed_scaling_factor) };
    let limit = if own.swiglu_limit > 0.0 { own.swiglu_limit } else { f32::INFINITY };
    let unit = Gated { act: Gate::ClampedSwish { alpha: 1.0, limit, shift: 0.0 }, ..c.gated()? };
    let counts = [own.n_routed_experts, own.num_experts_per_tok];
    let shared = Some(Shared { unit: spec::Unit::Gated(unit), gated: false });
    let decoder = c.decoder(false, |index| {
        let mlp = Experts { shared, ..Experts::new(counts, unit, router) }.checked()?;
        let rope = Some(attention(&c, &own, c.norm(), index)?.rope);
        let attention = spec::Attention { rope, window: Some(own.sliding_window), sinks: true, ..c.attention()? };
        Ok(c.layer(attention, mlp))
    })?;
    let renames = &[(".experts.switch_mlp.", ".switch_mlp."), (".shared_experts.", ".shared_expert.")];
    Ok(Decoder { head: Head::Own, renames, converted_only: true, ..decoder })
}

/// The attention of layer `index`.
fn attention(c: &Common, own: &Own, norm: spec::Norm, index: usize) -> Result<PooledSpec> {
    let ratio = own.ratio(index);
    let source = own.candidate_source_layer_id == index as i64 && own.candidate_topk_blocks > 0;
    let chooses = IndexSpec {
        heads: own.index_n_heads,
        head_dim: own.index_head_dim,
        top: own.index_topk,
        block: own.candidate_block_size,
        blocks: source.then_some(own.candidate_topk_blocks),
    };
    PooledSpec {
        heads: c.num_attention_heads,
        head_dim: c.head_dim(),
        rank: own.q_lora_rank,
        rope: rope(c, own, ratio.is_some())?,
        window: own.sliding_window,
        ratio,
        pools: own.kv_source_layer_ids.contains(&index),
        index: own.index_source_layer_ids.contains(&index).then_some(chooses),
        out_groups: own.o_groups,
        out_rank: own.o_lora_rank,
        norm,
    }
    .checked()
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let (c, own) = keys(config)?;
    let ends = Ends::load(spec, &weights)?;
    let (body, spec) = (weights.root().at("model.layers"), &ends.spec);
    let (mut plan, mut layers) = (Plan::default(), Vec::new());
    for (index, layer) in spec.layers.iter().enumerate() {
        let attention = attention(&c, &own, layer.norm, index)?;
        layers.push(Block::load((layer, attention), &own, &body.at(index), spec.dim, &mut plan)?);
        progress(index + 1, spec.layers.len());
    }
    let frame = Frame::new(ends, plan, weights)?;
    Ok(Box::new(Model { frame, layers, streams: own.hc_mult }))
}

#[derive(Debug)]
struct Model {
    frame: Frame,
    layers: Vec<Block>,
    /// How many streams there are.
    streams: usize,
}

impl LanguageModel for Model {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn state(&self, options: &CacheOptions) -> Result<State> {
        if options.max_tokens.is_some() {
            let message = "a bound on cached tokens is not supported for this model, whose layers choose what they see";
            return Err(Error::new(ErrorKind::InvalidOption, message));
        }
        State::new(&self.frame.plan.slots, options)
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let (start, x) = self.frame.begin(spans);
        let [rows, dim] = [x.shape()[0], x.shape()[1]];
        let mut streams = Tensor::concat(vec![x.reshape([rows, 1, dim]); self.streams], 1);
        // The first half reads the first stream.
        let first = (0..rows * self.streams).map(|i| if i % self.streams == 0 { 1.0 } else { 0.0 });
        let mut shares = Tensor::from_f32(&first.collect::<Vec<_>>(), [rows, self.streams]);
        let mut left: Vec<Left> = spans.iter().map(|_| Left::default()).collect();
        for layer in &self.layers {
            let [attention, unit] = &layer.connections;
            let mixes = attention.mixes(&streams);
            let x = layer.norms[0].forward(&read(&streams, &shares));
            let y = layer.attention.forward(&x, (&start.pass(), &self.frame.plan.rotations), spans, &mut left);
            streams = mixes.write(y, &streams);
            let next = unit.mixes(&streams);
            let y = layer.mixture(&layer.norms[1].forward(&read(&streams, &mixes.read)));
            streams = next.write(y, &streams);
            shares = next.read;
        }
        self.frame.end(&read(&streams, &shares), spans)
    }
}

#[derive(Debug)]
struct Block {
    attention: Pooled,
    router: Router,
    experts: Pool,
    shared: Unit,
    norms: [Norm; 2],
    connections: [Connection; 2],
}

impl Block {
    fn load(
        (layer, attention): (&spec::Layer, PooledSpec),
        own: &Own,
        w: &Scope<'_>,
        dim: usize,
        plan: &mut Plan,
    ) -> Result<Self> {
        let Some(Mlp::Experts(experts)) = &layer.mlp else { unreachable!("made above") };
        let (eps, norm_eps) = (own.hc_eps, layer.norm.eps);
        let streams = Streams { count: own.hc_mult, iterations: own.hc_sinkhorn_iters, eps, norm_eps };
        let mlp = w.at("mlp");
        let mut router = Router::load(experts, &mlp, dim)?;
        if let (Weight::Dense(weight), true) = (&router.linear.weight, own.gate_temp != 1.0) {
            let weight = weight.to_f32().expect("weights are floats").scale(1.0 / own.gate_temp);
            router.linear.weight = Weight::Dense(weight);
        }
        let norm = |name| Norm::load(layer.norm, w, name, dim);
        Ok(Self {
            attention: Pooled::load(attention, &w.at("self_attn"), dim, plan)?,
            router,
            experts: Pool::load(experts, &mlp, dim)?,
            shared: Unit::load(&experts.unit, &mlp.at("shared_expert"), dim)?,
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
            connections: [
                Connection::load(streams, &w.at("attn_hc"), dim)?,
                Connection::load(streams, &w.at("ffn_hc"), dim)?,
            ],
        })
    }

    fn mixture(&self, x: &Tensor) -> Tensor {
        let (ids, shares) = self.router.choose(x);
        self.experts.forward(x, &ids, shares).add(&self.shared.forward(x))
    }
}
