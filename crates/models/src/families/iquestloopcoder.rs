//! IQuest Loop Coder: as Llama, but a token goes through all layers twice, the second time with an eye on the first.

use mlxengine_tensor::Tensor;
use serde_json::{Value, json};

use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::mixer::{Looped, Plan};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::spec::{Decoder, Mixer};
use crate::weights::Weights;
use crate::{Config, Error, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("loop_num", &json!(2))?;
    window(config)?;
    let config = config.without(&["rope_traditional", "partial_rotary_factor", "hidden_act"]);
    let c = config.or("rope_theta", 500_000.0).or("max_position_embeddings", 131_072).common()?;
    c.decoder(false, |_| Ok(c.layer(c.attention()?, c.mlp()?)))
}

/// Positions that the second time sees of its own.
fn window(config: &Config) -> Result<usize> {
    let window = config.get("loop_window_size").map_or(Some(64), Value::as_u64);
    match window.and_then(|window| usize::try_from(window).ok()).filter(|window| (1..1 << 24).contains(window)) {
        Some(window) => Ok(window),
        None => Err(Error::invalid("config.json: loop_window_size is no window")),
    }
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let ends = Ends::load(spec, &weights)?;
    let (body, spec) = (weights.root().at("model"), &ends.spec);
    let (mut plan, mut layers) = (Plan::default(), Vec::new());
    for (index, layer) in spec.layers.iter().enumerate() {
        let (w, gate) = (body.at("layers").at(index), body.at("gate_projections").at(index));
        let norm = |name| Norm::load(layer.norm, &w, name, spec.dim);
        let (Some(Mixer::Attention(attention)), Some(mlp)) = (&layer.mixer, &layer.mlp) else {
            unreachable!("made above")
        };
        let scopes = [&w.at("self_attn"), &gate];
        layers.push(Layer {
            attention: Looped::load(attention, scopes, spec.dim, &mut plan)?,
            mlp: Mlp::load(mlp, &w.at("mlp"), spec.dim)?,
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
        });
        progress(index + 1, spec.layers.len());
    }
    let window = window(config)?;
    layers.iter_mut().for_each(|layer: &mut Layer| layer.attention.keep(window, &mut plan));
    let frame = Frame::new(ends, plan, weights)?;
    Ok(Box::new(Model { frame, layers }))
}

#[derive(Debug)]
struct Layer {
    attention: Looped,
    mlp: Mlp,
    norms: [Norm; 2],
}

#[derive(Debug)]
struct Model {
    frame: Frame,
    layers: Vec<Layer>,
}

impl LanguageModel for Model {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let (start, mut x) = self.frame.begin(spans);
        for attend in [Looped::first, Looped::second] {
            for layer in &self.layers {
                x = x.clone().add(&attend(&layer.attention, &layer.norms[0].forward(&x), &start.pass(), spans));
                x = x.clone().add(&layer.mlp.forward(&layer.norms[1].forward(&x)));
            }
        }
        self.frame.end(&x, spans)
    }
}
