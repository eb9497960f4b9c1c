//! Nanbeige: as Llama, but a token may go through all layers several times, with keys and values of each time.

use std::collections::HashSet;

use mlxengine_tensor::Tensor;
use serde::Deserialize;
use serde_json::json;

use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::mixer::{Mixer, Plan};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::spec::Decoder;
use crate::weights::Weights;
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    num_loops: Option<usize>,
    loop_loss_weights: Option<Vec<f32>>,
    #[serde(default)]
    skip_loop_final_norm: bool,
}

impl Own {
    fn read(config: &Config) -> Result<(Self, usize)> {
        let own: Own = config.read()?;
        // Files trained with a loss of each loop store a weight for each but the last.
        let weights = own.loop_loss_weights.as_ref().filter(|weights| !weights.is_empty());
        let loops = weights.map_or(own.num_loops.unwrap_or(1), |weights| weights.len() + 1);
        if (1..=64).contains(&loops) {
            return Ok((own, loops));
        }
        Err(Error::invalid(format!("config.json: num_loops is {loops}, which no model has")))
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    for key in ["enable_double_loop_split", "loop_share_kv", "enable_depth_attention"] {
        config.only(key, &json!(false))?;
    }
    let c = config.without(&["rope_traditional", "partial_rotary_factor", "hidden_act"]).common()?;
    Own::read(config)?;
    c.decoder(false, |_| Ok(c.layer(c.attention()?, c.mlp()?)))
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let (own, loops) = Own::read(config)?;
    let ends = Ends::load(spec, &weights)?;
    let (body, spec) = (weights.root().at("model.layers"), &ends.spec);
    let (mut plan, mut layers) = (Plan::default(), Vec::new());
    for (index, layer) in spec.layers.iter().enumerate() {
        let w = body.at(index);
        let norm = |name| Norm::load(layer.norm, &w, name, spec.dim);
        layers.push(Layer {
            mixers: Vec::new(),
            mlp: Mlp::load(layer.mlp.as_ref().expect("made above"), &w.at("mlp"), spec.dim)?,
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
        });
        progress(index + 1, spec.layers.len());
    }
    // The weights of all times are the same; what differs is where keys and values lie.
    for _ in 0..loops {
        for (index, layer) in spec.layers.iter().enumerate() {
            let mixer = layer.mixer.as_ref().expect("made above");
            layers[index].mixers.push(Mixer::load(mixer, &body.at(index), spec.dim, &mut plan)?);
        }
    }
    let mut frame = Frame::new(ends, plan, weights)?;
    let mut seen = HashSet::new();
    frame.record.taken.retain(|taken| seen.insert(taken.module.clone()));
    Ok(Box::new(Model { frame, layers, loops, norms_between: !own.skip_loop_final_norm }))
}

#[derive(Debug)]
struct Layer {
    /// One for each time.
    mixers: Vec<Mixer>,
    mlp: Mlp,
    norms: [Norm; 2],
}

#[derive(Debug)]
struct Model {
    frame: Frame,
    layers: Vec<Layer>,
    loops: usize,
    /// Whether the last norm comes after each time.
    norms_between: bool,
}

impl LanguageModel for Model {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let (start, mut x) = self.frame.begin(spans);
        for time in 0..self.loops {
            for layer in &self.layers {
                x = x.clone().add(&layer.mixers[time].forward(&layer.norms[0].forward(&x), &start.pass(), spans));
                x = x.clone().add(&layer.mlp.forward(&layer.norms[1].forward(&x)));
            }
            if self.norms_between && time + 1 < self.loops {
                x = self.frame.ends.norm(&x);
            }
        }
        self.frame.end(&x, spans)
    }
}
