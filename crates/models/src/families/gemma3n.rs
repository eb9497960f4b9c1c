//! Gemma 3n, the text model: several residual streams of which one works (AltUp, Baykal et al. 2023), a low-rank path beside
//! attention (LAuReL, Menghani et al. 2024), embeddings for each layer, sparse gates, and late layers on the keys and values
//! of earlier ones.

use mlxengine_tensor::{Binary, Reduce, Tensor, Unary, Weight};
use serde::Deserialize;
use serde_json::Value;

use crate::config::Common;
use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::linear::Linear;
use crate::mixer::{Mixer, Pass, Plan};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::per_layer::{PerLayer, PerLayerGate, PerLayerInputs};
use crate::spec::{self, Attention, Decoder, Gate, Gated, Layer, Residual};
use crate::weights::{Scope, Weights};
use crate::{Config, Error, Result};

#[derive(Clone, Deserialize)]
struct Own {
    num_kv_shared_layers: usize,
    vocab_size_per_layer_input: usize,
    hidden_size_per_layer_input: usize,
    rope_local_base_freq: f32,
    final_logit_softcapping: Option<f32>,
    activation_sparsity_pattern: Option<Vec<f64>>,
    altup_num_inputs: usize,
    altup_coef_clip: Option<f32>,
    altup_correct_scale: bool,
    altup_active_idx: usize,
    laurel_rank: usize,
    intermediate_size: Value,
}

fn keys(config: &Config) -> Result<(Common, Own)> {
    let text = config.text();
    let own: Own = text.read()?;
    if own.altup_num_inputs == 0 || own.altup_num_inputs > 64 || own.altup_active_idx >= own.altup_num_inputs {
        let message = format!("stream {} of {} cannot work", own.altup_active_idx, own.altup_num_inputs);
        return Err(Error::invalid(format!("config.json: {message}")));
    }
    let first = own.intermediate_size.get(0).unwrap_or(&own.intermediate_size).clone();
    // The reference stretches no frequencies.
    let plain = text.without(&["intermediate_size", "rope_scaling", "rope_parameters", "attention_bias"]);
    Ok((plain.or("intermediate_size", first).common()?, own))
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, own) = keys(config)?;
    let kept = c.num_hidden_layers.saturating_sub(own.num_kv_shared_layers);
    let local = c.rope_of(c.head_dim(), own.rope_local_base_freq)?;
    let decoder = c.decoder(true, |index| {
        let window = c.window(index)?;
        let alike = |other: &usize| c.layer_types.as_ref().is_none_or(|types| types[*other] == types[index]);
        let keys_of = if index < kept { None } else { (0..kept).rev().find(alike) };
        if index >= kept && keys_of.is_none() {
            return Err(Error::invalid(format!("config.json: layer {index} has no earlier layer to take keys from")));
        }
        let plain = c.attention()?;
        let rope = if window.is_some() { Some(local.clone()) } else { plain.rope.clone() };
        let (qk_norm, v_norm) = (Some(c.norm().into()), Some(c.norm().bare()));
        let attention = Attention { rope, scale: 1.0, window, keys_of, qk_norm, v_norm, ..plain };
        let sparsity = own.activation_sparsity_pattern.as_ref().and_then(|p| p.get(index)).copied().unwrap_or(0.0);
        let act = Gate::sparse(sparsity)?;
        let size = own.intermediate_size.get(index).and_then(Value::as_u64).map(|size| size as usize);
        let hidden = size.filter(|size| (1..1 << 24).contains(size)).unwrap_or(c.intermediate_size);
        let mlp = Gated { hidden, act, bias: false, ..c.gated()? };
        Ok(Layer { residual: Residual::Sandwich, ..c.layer(attention, mlp.into()) })
    })?;
    let embed_scale = Some((c.hidden_size as f32).sqrt());
    Ok(Decoder { embed_scale, head: spec::Head::Tied, logit_softcap: own.final_logit_softcapping, ..decoder })
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let (c, own) = keys(config)?;
    let ends = Ends::load(spec, &weights)?;
    let (body, spec) = (weights.root().at("model"), &ends.spec);
    let (size, vocab) = (own.hidden_size_per_layer_input, own.vocab_size_per_layer_input);
    let sizes = PerLayer { vocab, size, layers: spec.layers.len() };
    let per_layer = PerLayerInputs::load(sizes, c.norm(), &body, spec.dim)?;
    let stack = |name: &str| {
        let one = |i: usize| body.at(name).linear(&i.to_string(), [spec.dim; 2], false);
        (0..own.altup_num_inputs - 1).map(one).collect::<Result<Vec<_>>>()
    };
    let streams = [stack("altup_projections")?, stack("altup_unembed_projections")?];
    let (mut plan, mut layers) = (Plan::default(), Vec::new());
    for (index, layer) in spec.layers.iter().enumerate() {
        layers.push(Block::load(layer, &own, &body.at("layers").at(index), spec.dim, &mut plan)?);
        progress(index + 1, spec.layers.len());
    }
    let frame = Frame::new(ends, plan, weights)?;
    Ok(Box::new(Model { frame, per_layer, streams, layers }))
}

#[derive(Debug)]
struct Model {
    frame: Frame,
    per_layer: PerLayerInputs,
    /// Into the further streams, and out of them.
    streams: [Vec<Linear>; 2],
    layers: Vec<Block>,
}

/// The root of each row's mean square, `[N, 1]`.
fn magnitude(x: &Tensor) -> Tensor {
    x.clone().unary(Unary::Square).reduce(Reduce::Mean).unary(Unary::Sqrt)
}

/// Each row of `x` made as large as that of `like`.
fn as_large(x: Tensor, like: &Tensor) -> Tensor {
    let factor = magnitude(like).div(&magnitude(&x));
    x.mul(&factor)
}

impl LanguageModel for Model {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let (start, first) = self.frame.begin(spans);
        let inputs = self.per_layer.forward(&start.tokens, &first);
        let [into, out] = &self.streams;
        let mut streams: Vec<Tensor> = into.iter().map(|linear| as_large(linear.forward(&first), &first)).collect();
        streams.insert(0, first);
        for (index, layer) in self.layers.iter().enumerate() {
            streams = layer.forward(streams, (&inputs, index), &start.pass(), spans);
        }
        let first = streams[0].clone();
        let others = out.iter().zip(&streams[1..]).map(|(linear, x)| as_large(linear.forward(x), &first));
        let sum = others.fold(first.clone(), |sum, x| sum.add(&x));
        self.frame.end(&sum.scale(1.0 / streams.len() as f32), spans)
    }
}

#[derive(Debug)]
struct Block {
    streams: Streams,
    mixer: Mixer,
    mlp: Mlp,
    /// Before and after attention, before and after the unit.
    norms: [Norm; 4],
    /// The low-rank path and its norm.
    laurel: ([Linear; 2], Norm),
    per_layer: PerLayerGate,
}

impl Block {
    fn load(layer: &Layer, own: &Own, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let norm = |name| Norm::load(layer.norm, w, name, dim);
        let (mixer, mlp) = (layer.mixer.as_ref().expect("made above"), layer.mlp.as_ref().expect("made above"));
        let laurel = w.at("laurel");
        let left = laurel.linear("linear_left", [dim, own.laurel_rank], false)?;
        let right = laurel.linear("linear_right", [own.laurel_rank, dim], false)?;
        Ok(Self {
            streams: Streams::load(own, layer.norm, &w.at("altup"), dim)?,
            mixer: Mixer::load(mixer, w, dim, plan)?,
            mlp: Mlp::load(mlp, &w.at("mlp"), dim)?,
            norms: [
                norm("input_layernorm")?,
                norm("post_attention_layernorm")?,
                norm("pre_feedforward_layernorm")?,
                norm("post_feedforward_layernorm")?,
            ],
            laurel: ([left, right], Norm::load(layer.norm, &laurel, "post_laurel_norm", dim)?),
            per_layer: PerLayerGate::load(own.hidden_size_per_layer_input, layer.norm, w, dim)?,
        })
    }

    fn forward(
        &self,
        streams: Vec<Tensor>,
        (inputs, index): (&Tensor, usize),
        pass: &Pass<'_>,
        spans: &mut [Span<'_>],
    ) -> Vec<Tensor> {
        let active = self.streams.active;
        let predicted = self.streams.predict(&streams);
        let [before, after, before_unit, after_unit] = &self.norms;
        let x = before.forward(&predicted[active]);
        let ([left, right], norm) = &self.laurel;
        let beside = norm.forward(&right.forward(&left.forward(&x))).add(&x);
        let attended = after.forward(&self.mixer.forward(&x, pass, spans)).add(&predicted[active]);
        let x = attended.add(&beside).scale(0.5f32.sqrt());
        let y = after_unit.forward(&self.mlp.forward(&before_unit.forward(&x)));
        let mut corrected = self.streams.correct(predicted, &x.add(&y));
        let first = match &self.streams.scale {
            Some(scale) => corrected[active].clone().mul(scale),
            None => corrected[active].clone(),
        };
        let taken = self.per_layer.forward(&first, inputs, index);
        for stream in &mut corrected[1..] {
            *stream = stream.clone().add(&taken);
        }
        corrected
    }
}

/// How the streams are predicted before a layer works on one of them, and corrected after.
#[derive(Debug)]
struct Streams {
    active: usize,
    norm: Norm,
    router: Linear,
    prediction: Linear,
    correction: Linear,
    scale: Option<Tensor>,
}

impl Streams {
    fn load(own: &Own, norm: spec::Norm, w: &Scope<'_>, dim: usize) -> Result<Self> {
        let count = own.altup_num_inputs;
        let clipped = |name: &str, outputs: usize| {
            let mut linear = w.linear(name, [count, outputs], false)?;
            if let (Some(clip), Weight::Dense(weight)) = (own.altup_coef_clip, &linear.weight) {
                let bound = |x: Tensor, how, limit| x.binary(how, &Tensor::from_f32(&[limit], [1]));
                let weight = weight.to_f32().expect("weights are floats");
                linear.weight = Weight::Dense(bound(bound(weight, Binary::Min, clip), Binary::Max, -clip));
            }
            Ok::<_, Error>(linear)
        };
        let scale = w.vector("correct_output_scale", dim)?;
        Ok(Self {
            active: own.altup_active_idx,
            norm: Norm::load(norm, w, "router_norm", dim)?,
            router: w.linear("modality_router", [dim, count], false)?,
            prediction: clipped("prediction_coefs", count * count)?,
            correction: clipped("correction_coefs", count)?,
            scale: own.altup_correct_scale.then_some(scale),
        })
    }

    fn modalities(&self, x: &Tensor) -> Tensor {
        let dim = x.shape().last() as f32;
        self.router.forward(&self.norm.forward(x).scale(1.0 / dim)).unary(Unary::Tanh)
    }

    /// Each stream plus a mix of all.
    fn predict(&self, streams: &[Tensor]) -> Vec<Tensor> {
        let count = streams.len();
        let shares = self.prediction.forward(&self.modalities(&streams[self.active]));
        let mix = |to: usize| {
            let part = |from: usize| streams[from].clone().mul(&shares.clone().slice(1, to * count + from, 1));
            (1..count).fold(part(0), |sum, from| sum.add(&part(from))).add(&streams[to])
        };
        (0..count).map(mix).collect()
    }

    /// Each stream moved by what the working one was wrong by.
    fn correct(&self, predicted: Vec<Tensor>, worked: &Tensor) -> Vec<Tensor> {
        let one = Tensor::from_f32(&[1.0], [1]);
        let shares = self.correction.forward(&self.modalities(worked)).add(&one);
        let news = worked.clone().binary(Binary::Sub, &predicted[self.active]);
        let moved =
            |(index, stream): (usize, Tensor)| news.clone().mul(&shares.clone().slice(1, index, 1)).add(&stream);
        predicted.into_iter().enumerate().map(moved).collect()
    }
}
