//! The two ends of a decoder: tokens to rows, rows to logits; and what a pass starts with.

use mlxengine_tensor::Tensor;
use smallvec::SmallVec;

use crate::decoder::Span;
use crate::linear::{Embedding, Linear};
use crate::mixer::{Pass, Plan};
use crate::norm::Norm;
use crate::rope::{Rotation, Tables};
use crate::spec::{Decoder, Head};
use crate::weights::{Record, Weights};
use crate::{Error, Result};

/// The embedding, the last norm and the head.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) spec: Decoder,
    embedding: Embedding,
    embed_norm: Option<Norm>,
    norm: Norm,
    /// `lm_head`, unless the embedding serves.
    head: Option<Linear>,
}

impl Ends {
    pub(crate) fn load(spec: Decoder, weights: &Weights) -> Result<Self> {
        let root = weights.root();
        if spec.converted_only && !root.converted() {
            let message =
                "original files of this family are not supported: take a checkpoint that was converted for MLX";
            return Err(Error::unsupported(message));
        }
        let body = root.at("model");
        let embedding = body.embedding("embed_tokens", [spec.vocab, spec.dim])?;
        let embed_norm = spec.embed_norm.map(|norm| Norm::load(norm, &body, "embed_norm", spec.dim)).transpose()?;
        let norm = Norm::load(spec.norm, &body, "norm", spec.dim)?;
        let own = match spec.head {
            Head::Tied => false,
            Head::Own => true,
            Head::OwnIfPresent => root.at("lm_head").has_weight(),
        };
        let head = if own {
            Some(root.linear("lm_head", [spec.dim, spec.vocab], spec.head_bias)?)
        } else {
            root.ignore("lm_head", "the embedding serves as the head");
            root.adapted_head("lm_head", &embedding)?
        };
        Ok(Self { spec, embedding, embed_norm, norm, head })
    }

    /// Embeddings `[N, dim]`.
    fn embed(&self, start: &Start) -> Tensor {
        let x = self.embedding.take(&Tensor::from_u32(&start.tokens, [start.tokens.len()]));
        let x = match self.spec.embed_scale {
            Some(scale) => x.scale(scale),
            None => x,
        };
        match &self.embed_norm {
            Some(norm) => norm.forward(&x),
            None => x,
        }
    }

    /// The norm after the last layer.
    pub(crate) fn norm(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x)
    }

    /// Logits `[N, vocab]` of hidden states `[N, dim]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Tensor {
        let mut logits = match &self.head {
            Some(head) => head.forward(hidden),
            None => self.embedding.as_head(hidden),
        };
        if let Some(scale) = self.spec.logit_scale {
            logits = logits.scale(scale);
        }
        match self.spec.logit_softcap {
            Some(cap) => logits.softcap(cap),
            None => logits,
        }
    }
}

/// What every model has beside its layers: both ends, what its layers asked for, and what was read from the checkpoint.
#[derive(Debug)]
pub struct Frame {
    pub(crate) ends: Ends,
    pub(crate) plan: Plan,
    pub(crate) record: Record,
}

impl Frame {
    /// Of a model whose layers have taken their weights; whatever is left over is an error.
    pub(crate) fn new(ends: Ends, plan: Plan, weights: Weights) -> Result<Self> {
        Ok(Self { ends, plan, record: weights.finish()? })
    }

    /// What a pass starts with, and the embeddings `[N, dim]` of its tokens.
    pub(crate) fn begin(&self, spans: &[Span<'_>]) -> (Start, Tensor) {
        let start = Start::of(&self.plan, spans);
        let x = self.ends.embed(&start);
        (start, x)
    }

    /// The norm after the last layer, once every sequence has seen its tokens.
    pub(crate) fn end(&self, x: &Tensor, spans: &mut [Span<'_>]) -> Tensor {
        for span in spans {
            span.state.advance(span.tokens.len());
        }
        self.ends.norm(x)
    }

    /// See [`crate::LanguageModel::rows_as_alone`].
    pub(crate) fn rows_as_alone(&self, offset: usize) -> usize {
        let left = self.plan.rotations.iter().filter_map(Rotation::steady).map(|length| length.saturating_sub(offset));
        left.chain([self.ends.embedding.precision.rows_as_alone()]).min().unwrap_or(usize::MAX).max(1)
    }
}

/// What a pass starts with: the tokens of all spans, where they stand, and the rotations there.
pub(crate) struct Start {
    pub(crate) tokens: SmallVec<[u32; 64]>,
    /// First position and count of each span.
    pub(crate) positions: SmallVec<[(usize, usize); 8]>,
    tables: SmallVec<[Tables; 2]>,
}

impl Start {
    fn of(plan: &Plan, spans: &[Span<'_>]) -> Self {
        let positions: SmallVec<[(usize, usize); 8]> =
            spans.iter().map(|s| (s.state.offset(), s.tokens.len())).collect();
        let tables = plan.rotations.iter().map(|r| r.tables(positions.iter().copied())).collect();
        Self { tokens: spans.iter().flat_map(|s| s.tokens.iter().copied()).collect(), positions, tables }
    }

    pub(crate) fn pass(&self) -> Pass<'_> {
        Pass { tables: &self.tables, positions: &self.positions }
    }
}
