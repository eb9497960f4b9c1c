//! A model whose layers are a family's own, one after another.

use std::fmt::Debug;

use mlxengine_tensor::Tensor;

use crate::Result;
use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::mixer::{Pass, Plan};
use crate::spec::{self, Attention, Mixer};
use crate::weights::{Scope, Weights};

/// A layer that a family has for itself.
pub(crate) trait Layer: Debug + Send + Sync {
    /// The residual stream after it, where `x` is before it and `first` before all layers.
    fn forward(&self, x: Tensor, first: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor;
}

/// Where a layer stands, and what it is.
pub(crate) struct At<'a> {
    pub(crate) spec: &'a spec::Layer,
    /// The scope of the layer.
    pub(crate) w: Scope<'a>,
    /// Size of the residual stream.
    pub(crate) dim: usize,
    pub(crate) index: usize,
}

impl At<'_> {
    /// The description of its attention, which each such layer has.
    pub(crate) fn attention(&self) -> &Attention {
        match &self.spec.mixer {
            Some(Mixer::Attention(attention)) => attention,
            _ => unreachable!("the family describes attention"),
        }
    }

    /// The description of what works on each position alone.
    pub(crate) fn mlp(&self) -> &spec::Mlp {
        self.spec.mlp.as_ref().expect("the family describes it")
    }
}

/// Such layers between the usual ends.
#[derive(Debug)]
pub(crate) struct Stack<L> {
    frame: Frame,
    layers: Vec<L>,
}

impl<L: Layer> Stack<L> {
    /// Takes all weights; `layer` takes those of one.
    pub(crate) fn load(
        spec: spec::Decoder,
        weights: Weights,
        progress: &mut dyn FnMut(usize, usize),
        layer: impl Fn(&At<'_>, &mut Plan) -> Result<L>,
    ) -> Result<Self> {
        let ends = Ends::load(spec, &weights)?;
        let (mut plan, spec) = (Plan::default(), &ends.spec);
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, described) in spec.layers.iter().enumerate() {
            let w = weights.root().at("model.layers").layer(index, spec.layers.len());
            layers.push(layer(&At { spec: described, w, dim: spec.dim, index }, &mut plan)?);
            progress(index + 1, spec.layers.len());
        }
        Ok(Self { frame: Frame::new(ends, plan, weights)?, layers })
    }
}

impl<L: Layer> LanguageModel for Stack<L> {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let (start, first) = self.frame.begin(spans);
        let mut x = first.clone();
        for layer in &self.layers {
            x = layer.forward(x, &first, &start.pass(), spans);
        }
        self.frame.end(&x, spans)
    }
}
