//! Gemma 4, the text model: embeddings for each layer, late layers on the keys and values of earlier ones, heads of two
//! sizes, and in the large ones a mixture beside the dense unit.

use mlxengine_tensor::{Tensor, Unary, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Common;
use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::linear::Linear;
use crate::mixer::{Mixer, Pass, Plan};
use crate::mlp::{Pool, Unit};
use crate::norm::Norm;
use crate::per_layer::{PerLayer, PerLayerGate, PerLayerInputs};
use crate::spec::{self, Attention, Decoder, Experts, Gated, Layer, Projection, Residual, Router, Shared};
use crate::weights::{Scope, Weights};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    num_kv_shared_layers: usize,
    hidden_size_per_layer_input: usize,
    vocab_size_per_layer_input: usize,
    global_head_dim: usize,
    num_global_key_value_heads: Option<usize>,
    sliding_window_pattern: usize,
    use_double_wide_mlp: bool,
    #[serde(default)]
    attention_k_eq_v: bool,
    #[serde(default)]
    enable_moe_block: bool,
    num_experts: Option<usize>,
    top_k_experts: Option<usize>,
    moe_intermediate_size: Option<usize>,
    rope_parameters: Value,
    final_logit_softcapping: Option<f32>,
}

fn keys(config: &Config) -> Result<(Common, Own)> {
    let text = config.text().without(&["partial_rotary_factor", "rope_theta", "rope_scaling"]);
    let text = if config.get("text_config").is_some() {
        let vocab = config.get("vocab_size").cloned();
        vocab.map_or(text.clone(), |vocab| text.without(&["vocab_size"]).or("vocab_size", vocab))
    } else {
        text
    };
    let uncapped = text.values().get("final_logit_softcapping").is_some_and(Value::is_null);
    let text = text.defaults(json!({
        "hidden_size": 1536, "num_hidden_layers": 35, "intermediate_size": 6144, "num_attention_heads": 8,
        "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512, "rms_norm_eps": 1e-6, "vocab_size": 262_144,
        "vocab_size_per_layer_input": 262_144, "num_kv_shared_layers": 20, "hidden_size_per_layer_input": 256,
        "sliding_window": 512, "sliding_window_pattern": 5, "max_position_embeddings": 131_072,
        "use_double_wide_mlp": true, "final_logit_softcapping": 30.0, "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
            "sliding_attention": {"partial_rotary_factor": 1.0, "rope_theta": 1e4, "rope_type": "default"}}
    }));
    let (mut c, mut own): (Common, Own) = (text.common()?, text.read()?);
    if uncapped {
        own.final_logit_softcapping = None;
    }
    if c.layer_types.is_none() {
        let pattern = own.sliding_window_pattern.max(1);
        let kind = |i: usize| if (i + 1).is_multiple_of(pattern) { "full_attention" } else { "sliding_attention" };
        c.layer_types = Some((0..c.num_hidden_layers).map(|i| kind(i).to_owned()).collect());
    }
    Ok((c, own))
}

/// The attention of a layer.
fn attention(c: &Common, own: &Own, index: usize) -> Result<Attention> {
    let window = c.window(index)?;
    let kind = if window.is_some() { "sliding_attention" } else { "full_attention" };
    let mut heads = Common { rope_parameters: own.rope_parameters.get(kind).cloned(), ..c.clone() };
    let mut projection = Projection::Separate;
    if window.is_none() {
        heads.head_dim = Some(own.global_head_dim).filter(|dim| *dim > 0).or(c.head_dim);
        if own.attention_k_eq_v {
            projection = Projection::KeysAsValues;
            heads.num_key_value_heads = own.num_global_key_value_heads.or(c.num_key_value_heads);
        }
    }
    heads.check()?;
    let base = heads.rope_parameters.as_ref().and_then(|p| p.get("rope_theta")).and_then(Value::as_f64);
    let rope = heads.rope_stretched(heads.rope_of(heads.head_dim(), base.unwrap_or(1e4) as f32)?)?;
    let kept = c.num_hidden_layers.saturating_sub(own.num_kv_shared_layers);
    let alike = |other: &usize| c.layer_types.as_ref().is_some_and(|types| types[*other] == types[index]);
    let keys_of = if index < kept { None } else { (0..kept).rev().find(alike) };
    if index >= kept && keys_of.is_none() {
        return Err(Error::invalid(format!("config.json: layer {index} has no earlier layer to take keys from")));
    }
    let plain = Common { rope_parameters: None, ..heads }.attention()?;
    let (qk_norm, v_norm) = (Some(c.norm().into()), Some(c.norm().bare()));
    Ok(Attention { projection, rope: Some(rope), scale: 1.0, window, keys_of, qk_norm, v_norm, ..plain })
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, own) = keys(config)?;
    let kept = c.num_hidden_layers.saturating_sub(own.num_kv_shared_layers);
    let decoder = c.decoder(true, |index| {
        let wide = own.use_double_wide_mlp && kept > 0 && index >= kept;
        let hidden = if wide { 2 * c.intermediate_size } else { c.intermediate_size };
        let dense = Gated { hidden, act: Unary::GeluTanh.into(), bias: false, ..c.gated()? };
        let mlp = if own.enable_moe_block {
            let unit = Gated { hidden: own.moe_intermediate_size.unwrap_or(0), ..dense };
            let counts = [own.num_experts.unwrap_or(0), own.top_k_experts.unwrap_or(0)];
            let shared = Some(Shared { unit: spec::Unit::Gated(dense), gated: false });
            Experts { shared, ..Experts::new(counts, unit, Router::softmax(true)) }.checked()?
        } else {
            dense.into()
        };
        Ok(Layer { residual: Residual::Sandwich, ..c.layer(attention(&c, &own, index)?, mlp) })
    })?;
    let renames = &[(".experts.switch_glu.", ".experts.")];
    Ok(Decoder {
        embed_scale: Some((c.hidden_size as f32).sqrt()),
        logit_softcap: own.final_logit_softcapping,
        renames,
        ..decoder
    })
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let (c, own) = keys(config)?;
    let ends = Ends::load(spec, &weights)?;
    let (body, spec, size) = (weights.root().at("model"), &ends.spec, own.hidden_size_per_layer_input);
    let sizes = PerLayer { vocab: own.vocab_size_per_layer_input, size, layers: spec.layers.len() };
    let per_layer = match size {
        0 => None,
        _ => Some(PerLayerInputs::load(sizes, c.norm(), &body, spec.dim)?),
    };
    let (mut plan, mut layers) = (Plan::default(), Vec::new());
    for (index, layer) in spec.layers.iter().enumerate() {
        layers.push(Block::load(layer, size, &body.at("layers").at(index), spec.dim, &mut plan)?);
        progress(index + 1, spec.layers.len());
    }
    let frame = Frame::new(ends, plan, weights)?;
    Ok(Box::new(Model { frame, per_layer, layers }))
}

#[derive(Debug)]
struct Model {
    frame: Frame,
    per_layer: Option<PerLayerInputs>,
    layers: Vec<Block>,
}

impl LanguageModel for Model {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let (start, mut x) = self.frame.begin(spans);
        let inputs = self.per_layer.as_ref().map(|inputs| inputs.forward(&start.tokens, &x));
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &start.pass(), spans);
            if let (Some(gate), Some(inputs)) = (&layer.per_layer, &inputs) {
                let taken = gate.forward(&x, inputs, index);
                x = x.add(&taken);
            }
            x = x.mul(&layer.scalar);
        }
        self.frame.end(&x, spans)
    }
}

#[derive(Debug)]
struct Block {
    mixer: Mixer,
    unit: Unit,
    /// Before and after attention, before and after the unit.
    norms: [Norm; 4],
    mixture: Option<Mixture>,
    per_layer: Option<PerLayerGate>,
    /// Multiplies what leaves.
    scalar: Tensor,
}

impl Block {
    fn load(layer: &Layer, per_layer: usize, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let norm = |name| Norm::load(layer.norm, w, name, dim);
        let (dense, experts) = match &layer.mlp {
            Some(spec::Mlp::Dense(unit)) => (unit, None),
            Some(spec::Mlp::Experts(experts)) => (&experts.shared.as_ref().expect("made above").unit, Some(experts)),
            None => unreachable!("made above"),
        };
        let attention = layer.mixer.as_ref().expect("made above");
        Ok(Self {
            mixer: Mixer::load(attention, w, dim, plan)?,
            unit: Unit::load(dense, &w.at("mlp"), dim)?,
            norms: [
                norm("input_layernorm")?,
                norm("post_attention_layernorm")?,
                norm("pre_feedforward_layernorm")?,
                norm("post_feedforward_layernorm")?,
            ],
            mixture: experts.map(|experts| Mixture::load(experts, layer.norm, w, dim)).transpose()?,
            per_layer: match per_layer {
                0 => None,
                size => Some(PerLayerGate::load(size, layer.norm, w, dim)?),
            },
            scalar: if w.has("layer_scalar") { w.vector("layer_scalar", 1)? } else { Tensor::from_f32(&[1.0], [1]) },
        })
    }

    fn forward(&self, x: Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let [before, after, before_unit, after_unit] = &self.norms;
        let attended = self.mixer.forward(&before.forward(&x), pass, spans);
        let x = x.add(&after.forward(&attended));
        let mut y = self.unit.forward(&before_unit.forward(&x));
        if let Some(mixture) = &self.mixture {
            y = mixture.norms[0].forward(&y).add(&mixture.forward(&x));
        }
        x.add(&after_unit.forward(&y))
    }
}

/// Experts beside the dense unit, chosen by what the layer's half sees before its norm.
#[derive(Debug)]
struct Mixture {
    /// After the dense unit, before and after the experts.
    norms: [Norm; 3],
    scale: Tensor,
    eps: f32,
    router: Linear,
    /// `[experts, 1]`.
    expert_scale: Weight,
    active: usize,
    pool: Pool,
}

impl Mixture {
    fn load(experts: &Experts, norm: spec::Norm, w: &Scope<'_>, dim: usize) -> Result<Self> {
        let names = ["post_feedforward_layernorm_1", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2"];
        let [one, two, three] = names.map(|name| Norm::load(norm, w, name, dim));
        let router = w.at("router");
        let scale = router.vector("per_expert_scale", experts.count)?.reshape([experts.count, 1]);
        Ok(Self {
            norms: [one?, two?, three?],
            scale: router.vector("scale", dim)?.scale((dim as f32).powf(-0.5)),
            eps: norm.eps,
            router: router.linear("proj", [dim, experts.count], false)?,
            expert_scale: Weight::Dense(scale),
            active: experts.active,
            pool: Pool::load(experts, w, dim)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let scores = self.router.forward(&x.rms_norm(Some(&self.scale), self.eps));
        let ids = scores.top_k(self.active);
        let each = ids.shape().elements();
        let scale = self.expert_scale.take(&ids.clone().reshape([each])).reshape(*ids.shape());
        let shares = scores.take_along(&ids).softmax().mul(&scale);
        let [_, before, after] = &self.norms;
        after.forward(&self.pool.forward(&before.forward(x), &ids, shares))
    }
}
