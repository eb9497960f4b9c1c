//! LongCat Flash: layers of two attentions over latents and two units, with a mixture across the second half of a layer, some
//! of whose experts hand a token through as it is; and its kin whose embeddings also know the tokens before.

use mlxengine_tensor::{Tensor, Tensors};
use serde::Deserialize;
use serde_json::json;
use smallvec::smallvec;

use crate::config::{Common, within};
use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::linear::{Embedding, Linear};
use crate::mixer::{Mixer, Plan};
use crate::mlp::{Pool, Router, Unit};
use crate::norm::Norm;
use crate::spec::{self, Decoder, Experts, Gated, Head, Latent, Layer, Mlp};
use crate::state::SlotSpec;
use crate::weights::{Scope, Weights};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    moe_topk: usize,
    expert_ffn_hidden_size: usize,
    n_routed_experts: usize,
    zero_expert_num: usize,
    routed_scaling_factor: f32,
    mla_scale_q_lora: bool,
    mla_scale_kv_lora: bool,
    #[serde(default)]
    norm_topk_prob: bool,
    #[serde(default)]
    router_bias: bool,
    ngram_vocab_size_ratio: Option<usize>,
    emb_neighbor_num: Option<usize>,
    emb_split_num: Option<usize>,
}

impl Own {
    /// The experts of a mixture, or what its router chooses from.
    fn experts(&self, c: &Common, count: usize) -> Result<Experts> {
        let unit = Gated { hidden: self.expert_ffn_hidden_size, bias: false, ..c.gated()? };
        let router = spec::Router {
            bias: self.router_bias,
            correction: true,
            scale: self.routed_scaling_factor,
            ..spec::Router::softmax(self.norm_topk_prob)
        };
        let experts = Experts::new([count, self.moe_topk], unit, router);
        experts.checked()?;
        Ok(experts)
    }
}

fn keys(config: &Config) -> Result<(Common, Latent, Own)> {
    config.only("zero_expert_type", &json!("identity"))?;
    config.only("attention_method", &json!("MLA"))?;
    let config = config.without(&["intermediate_size", "num_hidden_layers", "num_key_value_heads", "mlp_bias"]);
    let config = config.without(&["rope_traditional", "hidden_act"]);
    let config = config.aliases(&[("intermediate_size", "ffn_hidden_size"), ("num_hidden_layers", "num_layers")]);
    let own: Own = config.read()?;
    let (c, latent) = config.latent(10_000.0)?;
    let asked = stretch(own.mla_scale_q_lora, c.hidden_size, latent.query_rank.unwrap_or(c.hidden_size));
    let latent = Latent { norm: spec::Norm { eps: 1e-5, ..latent.norm }, scale: latent.scale * asked, ..latent };
    within("n_routed_experts", own.n_routed_experts)?;
    Ok((c, latent, own))
}

/// What multiplies vectors of low rank after their norm.
fn stretch(on: bool, dim: usize, rank: usize) -> f32 {
    if on { (dim as f32 / rank as f32).sqrt() } else { 1.0 }
}

/// Each layer of the configuration as two, the first of which has the mixture.
pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, latent, own) = keys(config)?;
    let doubled = Common { num_hidden_layers: 2 * c.num_hidden_layers, ..c.clone() };
    let decoder = doubled.decoder(false, |index| {
        let mlp = match index % 2 {
            0 => {
                let shared = spec::Shared { unit: spec::Unit::Gated(c.gated()?), gated: false };
                Mlp::Experts(Experts { shared: Some(shared), ..own.experts(&c, own.n_routed_experts)? })
            }
            _ => c.mlp()?,
        };
        Ok(Layer { mixer: Some(spec::Mixer::Latent(latent.clone())), ..c.layer(c.attention()?, mlp) })
    })?;
    let renames = &[
        (".mlp.router.classifier.", ".mlp.gate."),
        (".mlp.router.e_score", ".mlp.gate.e_score"),
        ("^model.ngram_embeddings.word_embeddings.", "^model.embed_tokens."),
    ];
    Ok(Decoder { head: Head::Own, renames, ..decoder })
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let (c, latent, own) = keys(config)?;
    // What would multiply each latent multiplies the weights of its norm instead.
    let factor = stretch(own.mla_scale_kv_lora, c.hidden_size, latent.rank);
    let weights = weights.changed(|name, tensor| {
        let scaled = factor != 1.0 && name.ends_with(".kv_a_layernorm.weight");
        if scaled { tensor.to_f32().map(|weights| weights.scale(factor)) } else { None }
    });
    let ends = Ends::load(spec, &weights)?;
    let (body, spec) = (weights.root().at("model"), &ends.spec);
    let mut plan = Plan::default();
    let grams = match config.model_type() {
        "longcat_flash_ngram" => Some(Grams::load(&own, &body.at("ngram_embeddings"), spec, &mut plan)?),
        _ => None,
    };
    let all = own.experts(&c, own.n_routed_experts.saturating_add(own.zero_expert_num))?;
    let mut layers = Vec::new();
    for (index, pair) in spec.layers.chunks_exact(2).enumerate() {
        let w = body.at("layers").at(index);
        let mlp = w.at("mlp");
        layers.push(Block {
            halves: [
                Half::load(&pair[0], 0, &w, spec.dim, &mut plan)?,
                Half::load(&pair[1], 1, &w, spec.dim, &mut plan)?,
            ],
            router: Router::load(&all, &mlp, spec.dim)?,
            experts: Pool::load(&own.experts(&c, own.n_routed_experts)?, &mlp, spec.dim)?,
            real: own.n_routed_experts,
        });
        progress(index + 1, spec.layers.len() / 2);
    }
    body.ignore("mtp", "tokens are predicted one at a time");
    let frame = Frame::new(ends, plan, weights)?;
    Ok(Box::new(Model { frame, grams, layers }))
}

#[derive(Debug)]
struct Model {
    frame: Frame,
    grams: Option<Grams>,
    layers: Vec<Block>,
}

impl LanguageModel for Model {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let (start, mut x) = self.frame.begin(spans);
        if let Some(grams) = &self.grams {
            x = grams.forward(x, spans);
        }
        for layer in &self.layers {
            let mut across = None;
            for half in &layer.halves {
                x = x.clone().add(&half.mixer.forward(&half.norms[0].forward(&x), &start.pass(), spans));
                let seen = half.norms[1].forward(&x);
                across = across.or_else(|| Some(layer.mixture(&seen)));
                x = x.add(&half.unit.forward(&seen));
            }
            x = across.iter().fold(x, |x, y| x.add(y));
        }
        self.frame.end(&x, spans)
    }
}

#[derive(Debug)]
struct Half {
    mixer: Mixer,
    unit: Unit,
    norms: [Norm; 2],
}

impl Half {
    fn load(layer: &Layer, half: usize, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let Some(spec::Mixer::Latent(latent)) = &layer.mixer else { unreachable!("made above") };
        let unit = match layer.mlp {
            Some(Mlp::Dense(unit)) => unit,
            Some(Mlp::Experts(Experts { shared: Some(shared), .. })) => shared.unit,
            _ => unreachable!("made above"),
        };
        let norm = |name: &str| Norm::load_of(layer.norm, &w.at(name).at(half), &[dim]);
        Ok(Self {
            mixer: Mixer::latent(latent, &w.at("self_attn").at(half), dim, plan)?,
            unit: Unit::load(&unit, &w.at("mlps").at(half), dim)?,
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
        })
    }
}

#[derive(Debug)]
struct Block {
    halves: [Half; 2],
    router: Router,
    experts: Pool,
    /// Experts that do something: those after them hand a token through.
    real: usize,
}

impl Block {
    fn mixture(&self, x: &Tensor) -> Tensor {
        let (ids, shares) = self.router.choose(x);
        let [rows, slots] = [ids.shape()[0], ids.shape()[1]];
        let (mut chosen, mut worked, mut through) = (ids.u32s().to_vec(), shares.f32s().to_vec(), vec![0.0; rows]);
        for (slot, id) in chosen.iter_mut().enumerate().filter(|(_, id)| **id as usize >= self.real) {
            through[slot / slots] += std::mem::take(&mut worked[slot]);
            *id = 0;
        }
        let ids = Tensor::from_u32(&chosen, [rows, slots]);
        let y = self.experts.forward(x, &ids, Tensor::from_f32(&worked, [rows, slots]));
        y.add(&x.clone().mul(&Tensor::from_f32(&through, [rows, 1])))
    }
}

/// Embeddings of a token together with those before it, by hashes of several lengths and moduli.
#[derive(Debug)]
struct Grams {
    /// Tables of `count` tokens each, with what leads to the residual stream.
    tables: Vec<(usize, Embedding, Linear)>,
    vocab: usize,
    /// Tokens that a sequence carries on.
    before: usize,
    slot: usize,
}

impl Grams {
    fn load(own: &Own, w: &Scope<'_>, spec: &Decoder, plan: &mut Plan) -> Result<Self> {
        let longest = own.emb_neighbor_num.unwrap_or(4);
        let (splits, ratio) = (own.emb_split_num.unwrap_or(4), own.ngram_vocab_size_ratio.unwrap_or(78));
        let (count, base) = (splits.saturating_mul(longest.saturating_sub(1)), ratio.saturating_mul(spec.vocab));
        if !(2..=64).contains(&longest) || count == 0 || count > spec.dim || base > 1 << 31 {
            return Err(Error::invalid(format!("config.json: {splits} tables for each of up to {longest} tokens")));
        }
        let table = |index: usize| {
            let size = spec.dim / count;
            let table = w.at("embedders").embedding(&index.to_string(), [base + 2 * index + 1, size])?;
            let linear = w.at("post_projs").linear(&index.to_string(), [size, spec.dim], false)?;
            Ok::<_, Error>((index / splits + 2, table, linear))
        };
        let slot = plan.slot(SlotSpec::Recurrent(smallvec![[1, longest - 1].into()]));
        let tables = (0..count).map(table).collect::<Result<_>>()?;
        Ok(Self { tables, vocab: spec.vocab, before: longest - 1, slot })
    }

    fn forward(&self, x: Tensor, spans: &mut [Span<'_>]) -> Tensor {
        // Before the first token stand zeros, as in a new state.
        let contexts: Vec<Vec<u64>> = spans
            .iter_mut()
            .map(|span| {
                let carried = &mut span.state.recurrent(self.slot)[0];
                let before = carried.f32s().iter().map(|token| *token as u64);
                let all: Vec<u64> = before.chain(span.tokens.iter().map(|token| u64::from(*token))).collect();
                let last: Vec<f32> = all[all.len() - self.before..].iter().map(|token| *token as f32).collect();
                *carried = Tensor::from_f32(&last, [1, self.before]);
                all
            })
            .collect();
        let parts = self.tables.iter().map(|(length, table, linear)| {
            let rows = table.weight.shape()[0] as u64;
            let ids = contexts
                .iter()
                .flat_map(|all| (self.before..all.len()).map(move |at| self.hash(all, at, *length, rows)));
            let ids: Vec<u32> = ids.collect();
            linear.forward(&table.take(&Tensor::from_u32(&ids, [ids.len()])))
        });
        let parts: Tensors = parts.collect();
        parts.iter().fold(x, |x, part| x.add(part)).scale(1.0 / (1 + self.tables.len()) as f32)
    }

    /// The row for the `length` tokens that end at `at`, read as the digits of a number.
    fn hash(&self, all: &[u64], at: usize, length: usize, rows: u64) -> u32 {
        let (mut sum, mut power) = (all[at], 1);
        for back in 1..length {
            power = power * self.vocab as u64 % rows;
            sum += all[at - back] * power;
        }
        (sum % rows) as u32
    }
}
