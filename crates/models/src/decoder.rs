//! The generic decoder: a [`spec::Decoder`] and a checkpoint's weights, running.

use mlxengine_tensor::{Precision, Tensor};
use smallvec::SmallVec;

use crate::depth::DepthMix;
use crate::ends::{Ends, Frame};
use crate::linear::Embedding;
use crate::mixer::{Mixer, Pass, Plan};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::spec::{self, Residual};
use crate::state::{CacheOptions, SlotSpec, State};
use crate::weights::{Record, Scope, Weights};
use crate::{Error, Result};

/// A model of language: immutable, shared by all sequences.
pub trait LanguageModel: Send + Sync {
    /// What every model has beside its layers.
    fn frame(&self) -> &Frame;

    /// Reads each span's tokens after what its state has seen; returns the last hidden states `[N, dim]`, the spans' rows
    /// one after another.
    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor;

    /// What a new sequence has seen: nothing.
    ///
    /// # Errors
    /// If the options do not fit this model.
    fn state(&self, options: &CacheOptions) -> Result<State> {
        State::new(self.slots(), options)
    }

    /// Logits `[N, vocab]` of hidden states `[N, dim]`.
    fn logits(&self, hidden: &Tensor) -> Tensor {
        self.frame().ends.logits(hidden)
    }

    /// The shape of the whole.
    fn spec(&self) -> &spec::Decoder {
        &self.frame().ends.spec
    }

    /// What was read from the checkpoint.
    fn record(&self) -> &Record {
        &self.frame().record
    }

    /// What a sequence keeps, one entry for each thing that a mixer asked for.
    fn slots(&self) -> &[SlotSpec] {
        &self.frame().plan.slots
    }

    /// Most tokens after `offset` ones that one pass may read so that every row has the bits which it has if each token is
    /// read by a pass of its own; at least 1.
    fn rows_as_alone(&self, offset: usize) -> usize {
        self.frame().rows_as_alone(offset)
    }

    /// Bytes that the caches of one sequence of `length` positions need; the most there can be, where a checkpoint claims a
    /// context beyond all bounds.
    fn cache_bytes(&self, length: usize, options: &CacheOptions) -> usize {
        self.slots().iter().map(|slot| slot.bytes(length, options)).fold(0, usize::saturating_add)
    }
}

/// Tokens that continue one sequence.
pub struct Span<'a> {
    /// The tokens to read, at least one.
    pub tokens: &'a [u32],
    /// What the sequence has seen.
    pub state: &'a mut State,
}

/// A half of a layer, and how it joins the residual stream.
#[derive(Debug)]
struct Half<T> {
    before: Option<Norm>,
    work: T,
    after: Option<Norm>,
    scale: f32,
}

impl<T> Half<T> {
    fn see(&self, x: &Tensor) -> Tensor {
        self.before.as_ref().map_or_else(|| x.clone(), |norm| norm.forward(x))
    }

    fn join(&self, x: Tensor, y: Tensor) -> Tensor {
        let y = self.after.as_ref().map_or(y.clone(), |norm| norm.forward(&y));
        x.add(&if self.scale == 1.0 { y } else { y.scale(self.scale) })
    }
}

/// Means over depth for the two halves of a layer.
#[derive(Debug)]
struct Depth {
    mixes: [DepthMix; 2],
    /// Whether the layer begins a block.
    begins: bool,
}

#[derive(Debug)]
struct Layer {
    mixer: Option<Half<Mixer>>,
    mlp: Option<Half<Mlp>>,
    /// Whether both halves see the layer's input.
    parallel: bool,
    /// What each half sees, where that is a mean over depth.
    depth: Option<Depth>,
}

impl Layer {
    fn load(spec: &spec::Layer, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let load = |kind, name: Option<&str>| name.map(|name| Norm::load(kind, w, name, dim)).transpose();
        let norm = |name: Option<&str>| load(spec.norm, name);
        let ends = spec.after.unwrap_or([spec.norm; 2]);
        let first = if w.at("norm").has("weight") { "norm" } else { "input_layernorm" };
        let [attention, before, after] =
            ["post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"];
        // The norms before and after each half.
        let [[one, two], [three, four]] = match spec.residual {
            Residual::PreNorm | Residual::ParallelNorms => [[Some(first), None], [Some(attention), None]],
            Residual::Sandwich => [[Some(first), Some(attention)], [Some(before), Some(after)]],
            Residual::PostNorm => [[None, Some(attention)], [None, Some(after)]],
            Residual::Parallel => [[Some(first), None], [None, None]],
        };
        let mixer = match &spec.mixer {
            Some(mixer) => {
                let work = Mixer::load(mixer, w, dim, plan)?;
                Some(Half { before: norm(one)?, work, after: load(ends[0], two)?, scale: spec.scales[0] })
            }
            None => None,
        };
        let mlp = match &spec.mlp {
            Some(mlp) => {
                // A layer of one half may have but one norm, under the first name.
                let alone = mixer.is_none() && w.at(first).has("weight");
                let before = norm(three.map(|name| if alone { first } else { name }))?;
                let work = Mlp::load(mlp, &w.first(&["mlp", "mixer"]), dim)?;
                Some(Half { before, work, after: load(ends[1], four)?, scale: spec.scales[1] })
            }
            None => None,
        };
        let parallel = matches!(spec.residual, Residual::Parallel | Residual::ParallelNorms);
        Ok(Self { mixer, mlp, parallel, depth: None })
    }

    /// `blocks` are the sums of blocks of layers before, where halves see means over them.
    fn forward(&self, mut x: Tensor, blocks: &mut Vec<Tensor>, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let mut seen = self.depth.as_ref().map_or_else(|| x.clone(), |depth| depth.mixes[0].forward(blocks, &x));
        if let Some(half) = &self.mixer {
            let normed = half.see(&seen);
            let mixed = half.work.forward(&normed, pass, spans);
            if self.parallel && self.mlp.as_ref().is_some_and(|mlp| mlp.before.is_none()) {
                seen = normed;
            }
            if self.depth.as_ref().is_some_and(|depth| depth.begins) {
                let before = std::mem::replace(&mut x, mixed);
                blocks.push(before);
            } else {
                x = half.join(x, mixed);
            }
            if !self.parallel {
                seen = self.depth.as_ref().map_or_else(|| x.clone(), |depth| depth.mixes[1].forward(blocks, &x));
            }
        }
        if let Some(half) = &self.mlp {
            let worked = half.work.forward(&half.see(&seen));
            drop(seen);
            x = half.join(x, worked);
        }
        x
    }
}

/// A decoder with its weights.
#[derive(Debug)]
pub struct Decoder {
    frame: Frame,
    /// Rows that are added by position.
    positions: Option<Embedding>,
    layers: Vec<Layer>,
    /// What the last norm sees, where that is a mean over depth.
    depth: Option<DepthMix>,
}

impl Decoder {
    /// Takes the weights that a spec asks for; `progress` hears of each layer as `(done, all)`.
    ///
    /// # Errors
    /// For a tensor that is missing, of another shape, or left over.
    pub fn load(spec: spec::Decoder, weights: Weights, mut progress: impl FnMut(usize, usize)) -> Result<Self> {
        let body = weights.root().at("model");
        let positions = match spec.positions {
            Some(0) => return Err(Error::invalid("config.json: a table of no positions")),
            Some(rows) => Some(body.embedding("embed_positions", [rows, spec.dim])?),
            None => None,
        };
        let ends = Ends::load(spec, &weights)?;
        let spec = &ends.spec;
        let mut plan = Plan::default();
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            let w = body.at("layers").layer(index, spec.layers.len());
            let mut loaded = Layer::load(layer, &w, spec.dim, &mut plan)?;
            if let Some(count) = spec.depth_blocks {
                let mix = |name| DepthMix::load(layer.norm, &w, name, spec.dim);
                let mixes = [mix("self_attention_res")?, mix("mlp_res")?];
                loaded.depth = Some(Depth { mixes, begins: index.is_multiple_of(count) });
            }
            layers.push(loaded);
            progress(index + 1, spec.layers.len());
        }
        if spec.more_layers {
            body.at("layers").ignore_from(spec.layers.len(), "tokens are predicted one at a time");
        }
        let depth = match spec.depth_blocks {
            Some(_) => Some(DepthMix::load(spec.norm, &body, "output_attn_res", spec.dim)?),
            None => None,
        };
        Ok(Self { frame: Frame::new(ends, plan, weights)?, positions, layers, depth })
    }
}

impl LanguageModel for Decoder {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let (start, mut x) = self.frame.begin(spans);
        if let Some(table) = &self.positions {
            let last = table.weight.shape()[0] - 1;
            let rows = start.positions.iter().flat_map(|(first, count)| *first..first + count);
            let rows: SmallVec<[u32; 64]> = rows.map(|row| row.min(last) as u32).collect();
            x = x.add(&table.take(&Tensor::from_u32(&rows, [rows.len()])));
        }
        let mut blocks = Vec::new();
        for layer in &self.layers {
            x = layer.forward(x, &mut blocks, &start.pass(), spans);
        }
        self.frame.end(&self.depth.as_ref().map_or_else(|| x.clone(), |mix| mix.forward(&blocks, &x)), spans)
    }
}

/// Loads a checkpoint's model, whatever its family; `progress` hears of each layer as `(done, all)`.
///
/// # Errors
/// For a family that is not known, a configuration that cannot be read, and weights that do not fit it.
pub fn load(
    checkpoint: &crate::Checkpoint,
    precision: Precision,
    progress: impl FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    load_adapted(checkpoint, None, precision, progress)
}

/// Loads a checkpoint's model under an adapter. What the files hold is shared with every other model of this checkpoint.
///
/// # Errors
/// Those of [`load`], and for a change of the adapter that belongs to no module of this model.
pub fn load_adapted(
    checkpoint: &crate::Checkpoint,
    adapter: Option<&crate::Adapter>,
    precision: Precision,
    mut progress: impl FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let config = &checkpoint.config;
    let spec = crate::families::decoder(config)?;
    let mut weights = Weights::new(checkpoint, spec.renames, spec.transposed, precision)?;
    if let Some(adapter) = adapter {
        weights = weights.with_adapter(adapter, spec.renames, spec.transposed)?;
    }
    let model = match crate::families::find(config.model_type()).and_then(|family| family.model) {
        Some(load) => load(config, spec, weights, &mut progress),
        None => Decoder::load(spec, weights, progress).map(|model| Box::new(model) as Box<dyn LanguageModel>),
    };
    model.map_err(|e: Error| e.in_checkpoint(checkpoint))
}
