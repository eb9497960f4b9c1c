//! The generic decoder: a [`spec::Decoder`] and a checkpoint's weights, running.

use mlxengine_tensor::{Precision, Tensor, Weight};
use smallvec::SmallVec;

use crate::mixer::{Attention, Pass};
use crate::mlp::Mlp;
use crate::rope::{Rotation, Tables};
use crate::spec::{self, Head, Mixer, Residual};
use crate::state::{CacheOptions, KvShape, State};
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
    mixer: Attention,
    mlp: Mlp,
    /// Norms before the mixer and before the mlp.
    before: [Norm; 2],
    /// Norms after each, where the residual is a sandwich.
    after: Option<[Norm; 2]>,
}

impl Layer {
    fn load(spec: &spec::Layer, w: &Scope<'_>, dim: usize, rotation: Option<usize>) -> Result<Self> {
        let Mixer::Attention(attention) = &spec.mixer;
        let mixer = Attention::load(attention, &w.at("self_attn"), dim, rotation)?;
        let mlp = Mlp::load(&spec.mlp, &w.at("mlp"), dim)?;
        let norm = |name| Norm::load(spec.norm, w, name, dim);
        let first = norm("input_layernorm")?;
        let (before, after) = match spec.residual {
            Residual::PreNorm => ([first, norm("post_attention_layernorm")?], None),
            Residual::Sandwich => (
                [first, norm("pre_feedforward_layernorm")?],
                Some([norm("post_attention_layernorm")?, norm("post_feedforward_layernorm")?]),
            ),
        };
        Ok(Self { mixer, mlp, before, after })
    }

    fn forward(&self, x: Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let join = |x: Tensor, y: Tensor, half: usize| match &self.after {
            Some(after) => x.add(&after[half].forward(&y)),
            None => x.add(&y),
        };
        let mixed = self.mixer.forward(&self.before[0].forward(&x), pass, spans);
        let x = join(x, mixed, 0);
        let worked = self.mlp.forward(&self.before[1].forward(&x));
        join(x, worked, 1)
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
    rotations: Vec<Rotation>,
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
        let mut rotations: Vec<Rotation> = Vec::new();
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            let Mixer::Attention(attention) = &layer.mixer;
            let rotation = attention.rope.as_ref().map(|rope| {
                rotations.iter().position(|r| r.spec == *rope).unwrap_or_else(|| {
                    rotations.push(Rotation::new(rope));
                    rotations.len() - 1
                })
            });
            layers.push(Layer::load(layer, &body.at("layers").at(index), spec.dim, rotation)?);
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
        Ok(Self { spec, embedding, layers, norm, head, precision, rotations, record })
    }
}

impl LanguageModel for Decoder {
    fn state(&self, options: &CacheOptions) -> Result<State> {
        let layers = self.spec.layers.iter().map(|layer| {
            let Mixer::Attention(a) = &layer.mixer;
            (KvShape { heads: a.kv_heads, key_dim: a.head_dim, value_dim: a.head_dim }, a.window)
        });
        State::new(layers, options)
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let count = spans.iter().map(|s| s.tokens.len()).sum::<usize>();
        let ids: SmallVec<[u32; 64]> = spans.iter().flat_map(|s| s.tokens.iter().copied()).collect();
        let positions: SmallVec<[(usize, usize); 8]> =
            spans.iter().map(|s| (s.state.offset(), s.tokens.len())).collect();
        let tables: SmallVec<[Tables; 2]> =
            self.rotations.iter().map(|r| r.tables(positions.iter().copied())).collect();
        let mut x = self.embedding.take(&Tensor::from_u32(&ids, [count]));
        if let Some(scale) = self.spec.embed_scale {
            x = x.scale(scale);
        }
        for (layer, weights) in self.layers.iter().enumerate() {
            x = weights.forward(x, &Pass { tables: &tables, layer }, spans);
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
