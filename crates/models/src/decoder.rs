//! The generic decoder: a [`spec::Decoder`] and a checkpoint's weights, running.

use mlxengine_tensor::{Precision, Tensor, Weight};
use smallvec::SmallVec;

use crate::mixer::{Mixer, Pass, Plan};
use crate::mlp::Mlp;
use crate::rope::Tables;
use crate::spec::{self, Head, Residual};
use crate::state::{CacheOptions, SlotSpec, State};
use crate::weights::{Record, Scope, Weights};
use crate::{Error, Result};

/// A model of language: immutable, shared by all sequences.
pub trait LanguageModel: Send + Sync {
    /// What a new sequence has seen: nothing.
    ///
    /// # Errors
    /// If the options do not fit this model.
    fn state(&self, options: &CacheOptions) -> Result<State>;

    /// Reads each span's tokens after what its state has seen; returns the last hidden states `[N, dim]`, the spans' rows
    /// one after another.
    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor;

    /// Logits `[N, vocab]` of hidden states `[N, dim]`.
    fn logits(&self, hidden: &Tensor) -> Tensor;

    /// The shape of the whole.
    fn spec(&self) -> &spec::Decoder;

    /// What was read from the checkpoint.
    fn record(&self) -> &Record;

    /// What a sequence keeps, one entry for each thing that a mixer asked for.
    fn slots(&self) -> &[SlotSpec];

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

/// A root-mean-square norm with its weight.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Tensor,
    eps: f32,
}

impl Norm {
    pub(crate) fn load(spec: spec::Norm, w: &Scope<'_>, name: &str, dim: usize) -> Result<Self> {
        let weight = w.at(name).vector("weight", dim)?;
        let weight = if spec.offset == 0.0 { weight } else { weight.add(&Tensor::from_f32(&[spec.offset], [1])) };
        Ok(Self { weight, eps: spec.eps })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.rms_norm(Some(&self.weight), self.eps)
    }
}

#[derive(Debug)]
struct Layer {
    /// Each half with the norm before it.
    mixer: Option<(Norm, Mixer)>,
    mlp: Option<(Norm, Mlp)>,
    /// Norms after each, where the residual is a sandwich.
    after: Option<[Norm; 2]>,
}

impl Layer {
    fn load(spec: &spec::Layer, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let norm = |name| Norm::load(spec.norm, w, name, dim);
        let second = match spec.residual {
            Residual::PreNorm => "post_attention_layernorm",
            Residual::Sandwich => "pre_feedforward_layernorm",
        };
        let first = if w.at("norm").has("weight") { "norm" } else { "input_layernorm" };
        let mixer = match &spec.mixer {
            Some(mixer) => Some((norm(first)?, Mixer::load(mixer, w, dim, plan)?)),
            None => None,
        };
        let mlp = match &spec.mlp {
            Some(mlp) => {
                let before = norm(if mixer.is_some() { second } else { first })?;
                Some((before, Mlp::load(mlp, &w.first(&["mlp", "mixer"]), dim)?))
            }
            None => None,
        };
        let after = match spec.residual {
            Residual::PreNorm => None,
            Residual::Sandwich => Some([norm("post_attention_layernorm")?, norm("post_feedforward_layernorm")?]),
        };
        Ok(Self { mixer, mlp, after })
    }

    fn forward(&self, mut x: Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let join = |x: Tensor, y: Tensor, half: usize| match &self.after {
            Some(after) => x.add(&after[half].forward(&y)),
            None => x.add(&y),
        };
        if let Some((before, mixer)) = &self.mixer {
            let mixed = mixer.forward(&before.forward(&x), pass, spans);
            x = join(x, mixed, 0);
        }
        if let Some((before, mlp)) = &self.mlp {
            let worked = mlp.forward(&before.forward(&x));
            x = join(x, worked, 1);
        }
        x
    }
}

/// A decoder with its weights.
#[derive(Debug)]
pub struct Decoder {
    spec: spec::Decoder,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Norm,
    /// `lm_head`, unless the embedding serves.
    head: Option<Weight>,
    precision: Precision,
    plan: Plan,
    record: Record,
}

impl Decoder {
    /// Takes the weights that a spec asks for; `progress` hears of each layer as `(done, all)`.
    ///
    /// # Errors
    /// For a tensor that is missing, of another shape, or left over.
    pub fn load(spec: spec::Decoder, weights: Weights, mut progress: impl FnMut(usize, usize)) -> Result<Self> {
        let root = weights.root();
        let body = root.at("model");
        let embedding = body.embedding("embed_tokens", [spec.vocab, spec.dim])?;
        let mut plan = Plan::default();
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(Layer::load(layer, &body.at("layers").at(index), spec.dim, &mut plan)?);
            progress(index + 1, spec.layers.len());
        }
        let norm = Norm::load(spec.norm, &body, "norm", spec.dim)?;
        let own = match spec.head {
            Head::Tied => false,
            Head::Own => true,
            Head::OwnIfPresent => root.at("lm_head").has("weight"),
        };
        let head = if own {
            Some(root.embedding("lm_head", [spec.vocab, spec.dim])?)
        } else {
            root.ignore("lm_head", "the embedding serves as the head");
            None
        };
        let precision = weights.precision();
        let record = weights.finish()?;
        Ok(Self { spec, embedding, layers, norm, head, precision, plan, record })
    }
}

impl LanguageModel for Decoder {
    fn state(&self, options: &CacheOptions) -> Result<State> {
        State::new(&self.plan.slots, options)
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let count = spans.iter().map(|s| s.tokens.len()).sum::<usize>();
        let ids: SmallVec<[u32; 64]> = spans.iter().flat_map(|s| s.tokens.iter().copied()).collect();
        let positions: SmallVec<[(usize, usize); 8]> =
            spans.iter().map(|s| (s.state.offset(), s.tokens.len())).collect();
        let tables: SmallVec<[Tables; 2]> =
            self.plan.rotations.iter().map(|r| r.tables(positions.iter().copied())).collect();
        let mut x = self.embedding.take(&Tensor::from_u32(&ids, [count]));
        if let Some(scale) = self.spec.embed_scale {
            x = x.scale(scale);
        }
        for layer in &self.layers {
            x = layer.forward(x, &Pass { tables: &tables }, spans);
        }
        for span in spans {
            span.state.advance(span.tokens.len());
        }
        self.norm.forward(&x)
    }

    fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = hidden.linear(self.head.as_ref().unwrap_or(&self.embedding), self.precision);
        match self.spec.logit_softcap {
            Some(cap) => logits.softcap(cap),
            None => logits,
        }
    }

    fn spec(&self) -> &spec::Decoder {
        &self.spec
    }

    fn record(&self) -> &Record {
        &self.record
    }

    fn slots(&self) -> &[SlotSpec] {
        &self.plan.slots
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
    let spec = crate::families::decoder(&checkpoint.config)?;
    let weights = Weights::new(checkpoint, spec.renames, precision)?;
    let model = Decoder::load(spec, weights, progress).map_err(|e: Error| e.in_checkpoint(checkpoint))?;
    Ok(Box::new(model))
}
