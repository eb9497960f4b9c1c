//! OLMo, the first: norms without weights that take off the mean. Its own files and those for transformers have other keys
//! and names, and its own join each gate and what it gates, the gate last.

use mlxengine_tensor::Tensor;
use serde::Deserialize;

use crate::decoder::{self, LanguageModel, Span};
use crate::linear::Linear;
use crate::mixer::{Attention, Pass, Plan};
use crate::mlp::gated;
use crate::norm::Norm;
use crate::spec::{self, Decoder, Gate, Gated, Mlp, Projection, Unit};
use crate::stack::{At, Layer, Stack};
use crate::weights::Weights;
use crate::{Config, Result};

#[derive(Deserialize)]
struct Keys {
    #[serde(default)]
    weight_tying: bool,
    mlp_ratio: Option<usize>,
    mlp_hidden_size: Option<usize>,
    clip_qkv: Option<f32>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (own, native): (Keys, bool) = (config.read()?, is_native(config));
    let config = config.aliases(KEYS).without(&["rms_norm_eps", "head_dim"]).or("rms_norm_eps", 1e-5);
    let (mut config, mut projection) = (config, Projection::Separate);
    if native {
        let dim = config.get("hidden_size").and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
        let both = own.mlp_hidden_size.unwrap_or_else(|| dim.saturating_mul(own.mlp_ratio.unwrap_or(4)));
        config = config.without(&["vocab_size", "intermediate_size", "num_key_value_heads", "tie_word_embeddings"]);
        config = config.or("intermediate_size", both / 2).or_key("vocab_size", "embedding_size");
        config = config.or("tie_word_embeddings", own.weight_tying);
        projection = Projection::Joined;
    }
    let c = config.common()?;
    let norm = c.layer_norm(false).bare();
    let unit = Gated { projection, ..c.gated()? };
    let clip = if native { None } else { own.clip_qkv };
    let decoder = c.decoder(false, |_| {
        let attention = spec::Attention { projection, clip, ..c.attention()? };
        Ok(spec::Layer { norm, ..c.layer(attention, unit.into()) })
    })?;
    Ok(Decoder { norm, renames: if native { NATIVE } else { &[] }, ..decoder })
}

/// Whether the keys are those of OLMo's own files.
fn is_native(config: &Config) -> bool {
    config.get("d_model").is_some()
}

const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("max_position_embeddings", "max_sequence_length"),
];

const NATIVE: &[(&str, &str)] = &[
    ("^model.model.", "^model."),
    ("^model.transformer.blocks.", "^model.layers."),
    ("^model.transformer.wte.", "^model.embed_tokens."),
    ("^model.transformer.ff_out.", "^lm_head."),
    (".att_proj.", ".self_attn.qkv_proj."),
    (".attn_out.", ".self_attn.o_proj."),
    (".ff_proj.", ".mlp.gate_up_proj."),
    (".ff_out.", ".mlp.down_proj."),
];

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    Ok(match is_native(config) {
        true => Box::new(Stack::load(spec, weights, progress, Own::load)?),
        false => Box::new(decoder::Decoder::load(spec, weights, progress)?),
    })
}

#[derive(Debug)]
struct Own {
    norm: Norm,
    attention: Attention,
    gate: Linear,
    up: Linear,
    down: Linear,
    act: Gate,
}

impl Own {
    fn load(at: &At<'_>, plan: &mut Plan) -> Result<Self> {
        let At { w, dim, .. } = at;
        let Mlp::Dense(Unit::Gated(Gated { hidden, act, bias, .. })) = *at.mlp() else { unreachable!("made above") };
        let mlp = w.at("mlp");
        let [up, gate] = mlp.joined("gate_up_proj", *dim, [hidden; 2], bias)?;
        let down = mlp.linear("down_proj", [hidden, *dim], bias)?;
        let attention = Attention::load(at.attention(), &w.at("self_attn"), *dim, plan)?;
        Ok(Self { norm: Norm::load(at.spec.norm, w, "norm", *dim)?, attention, gate, up, down, act })
    }
}

impl Layer for Own {
    fn forward(&self, x: Tensor, _: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let attended = self.attention.forward(&self.norm.forward(&x), pass, spans);
        let x = x.add(&attended);
        let [gate, up] = Linear::forward_all([&self.gate, &self.up], &self.norm.forward(&x));
        x.add(&self.down.forward(&gated(self.act, gate, up)))
    }
}
