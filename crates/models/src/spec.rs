//! What a decoder is, as plain values: kinds are sum types, presence is `Option`, sizes are numbers.
//!
//! A field that one family alone would use does not belong here: such a family implements
//! [`crate::LanguageModel`] itself.

mod kept;
mod mixer;
mod mlp;
mod size;

use mlxengine_tensor::Unary;

pub(crate) use kept::kept;
pub use mixer::{
    BlockSparse, DeltaProjection, GateNorm, GatedDelta, GatedRecurrence, Indexer, KeyedDecay, KeyedDelta, Latent,
    LinearAttention, Mixer, ScalarStateSpace, SelectedStateSpace, ShortConv, StateSpace, Wkv,
};
pub use mlp::{
    ExpertLatent, Experts, Gate, Gated, Groups, JoinedExperts, Learned, Mlp, Plain, Router, Scores, Shared, Unit,
};
pub use size::{Attended, Size};

/// A whole decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// Rows of the embedding.
    pub vocab: usize,
    /// Size of the residual stream.
    pub dim: usize,
    /// Multiplies the embeddings.
    pub embed_scale: Option<f32>,
    /// On the embeddings after that: `embed_norm`.
    pub embed_norm: Option<Norm>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// After the last layer.
    pub norm: Norm,
    /// Rows of the table of learned positions, `embed_positions`.
    pub positions: Option<usize>,
    /// How hidden states become logits.
    pub head: Head,
    /// Layers that add up to one block, where a half of a layer sees not the sum of all before it but a weighted mean of the
    /// sums of blocks, whose weights follow from what it sees (Kimi Team 2026).
    pub depth_blocks: Option<usize>,
    /// Whether `lm_head` has a bias.
    pub head_bias: bool,
    /// Multiplies the logits.
    pub logit_scale: Option<f32>,
    /// Caps the logits: `cap * tanh(logit / cap)`.
    pub logit_softcap: Option<f32>,
    /// Longest sequence that the model was made for, in tokens.
    pub context: Option<usize>,
    /// Names in checkpoints that differ from the canonical ones: each first text, found in a tensor's name, is read as the
    /// second. `^` stands for the start of a name.
    pub renames: &'static [(&'static str, &'static str)],
    /// Starts of names in files under which every matrix lies transposed.
    pub transposed: &'static [&'static str],
    /// Whether checkpoints may hold further layers, which predict several tokens at once.
    pub more_layers: bool,
    /// Whether conversion changes weights in a way that is not done here, so that original files cannot be read.
    pub converted_only: bool,
}

/// The projection from hidden states to logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// The embedding, transposed; a `lm_head` that ships anyway is ignored.
    Tied,
    /// `lm_head`.
    Own,
    /// `lm_head` if the checkpoint has one, else the embedding.
    OwnIfPresent,
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// What mixes positions.
    pub mixer: Option<Mixer>,
    /// What works on each position alone.
    pub mlp: Option<Mlp>,
    /// How the two join the residual stream, and the norms around them.
    pub residual: Residual,
    /// Multiplies what each adds to it.
    pub scales: [f32; 2],
    /// The norm used around them.
    pub norm: Norm,
    /// The norms after each half, where they are not like that before it.
    pub after: Option<[Norm; 2]>,
}

/// Softmax attention with grouped queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Size of a query and key head.
    pub head_dim: usize,
    /// Size of a value head.
    pub value_dim: usize,
    /// How the query, key and value projections are stored.
    pub projection: Projection,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// Largest magnitude of queries, keys and values as they are projected.
    pub clip: Option<f32>,
    /// Norms of queries and keys: `q_norm`, `k_norm`.
    pub qk_norm: Option<QkNorm>,
    /// The norm of each value head, without weights.
    pub v_norm: Option<Norm>,
    /// The earlier layer whose keys and values serve, counted among the layers with attention.
    pub keys_of: Option<usize>,
    /// Rotary positions; none for layers without positions.
    pub rope: Option<Rope>,
    /// Queries that grow with their position.
    pub temperature: Option<Temperature>,
    /// Multiplies the scores.
    pub scale: f32,
    /// Caps the scores: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Positions that are seen, the own one among them; all if none.
    pub window: Option<usize>,
    /// Whether windows stand still: a position sees back to the last multiple of `window`.
    pub chunked: bool,
    /// Whether each head has one more logit, without a value: `sinks`.
    pub sinks: bool,
    /// What multiplies the result before the output projection.
    pub gate: Option<HeadGate>,
}

/// A gate of attention's result, from the same input as the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadGate {
    /// This function of `g_proj(x)`, one number a head.
    Head(Unary),
    /// `sigmoid(gate_proj(x))`, one number each.
    Each,
    /// `sigmoid` of what `q_proj` gives after each head's query, one number each.
    Query,
}

impl HeadGate {
    /// What its numbers go through.
    pub fn function(self) -> Unary {
        match self {
            HeadGate::Head(function) => function,
            HeadGate::Each | HeadGate::Query => Unary::Sigmoid,
        }
    }
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// The norm.
    pub norm: Norm,
    /// What is normed at once.
    pub span: QkSpan,
    /// Whether after the rotation instead of before it.
    pub turned: bool,
}

/// What is normed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkSpan {
    /// A head, with one weight for all.
    Head,
    /// A head, with a weight of its own.
    EachHead,
    /// All heads together.
    Projection,
}

impl From<Norm> for QkNorm {
    /// Of each head, before the rotation.
    fn from(norm: Norm) -> Self {
        QkNorm { norm, span: QkSpan::Head, turned: false }
    }
}

/// Queries that grow with their position: `1 + slope * ln(1 + floor((position + shift) / length))` times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// How fast they grow.
    pub slope: f32,
    /// Positions between two steps.
    pub length: f32,
    /// Added to positions, which count from 0.
    pub shift: f32,
}

impl Temperature {
    /// The same, if queries can grow so.
    ///
    /// # Errors
    /// If there are no positions between two steps.
    pub fn checked(self) -> crate::Result<Self> {
        if self.length >= 1.0 && self.length.is_finite() && self.slope.is_finite() {
            return Ok(self);
        }
        Err(crate::Error::invalid(format!("config.json: queries cannot grow every {} positions", self.length)))
    }
}

/// How projections that share an input are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// One matrix each: `q_proj`, `k_proj`, `v_proj`; `gate_proj`, `up_proj`.
    Separate,
    /// The same, but the queries of each key head lie as many heads apart as there are key heads.
    Apart,
    /// Rows after one another in one matrix: `qkv_proj`; `gate_up_proj`.
    Joined,
    /// Of each key head after one another: its queries, its key, its value, in `qkv_proj`.
    Grouped,
    /// `q_proj`, and `k_proj` for keys and values both.
    KeysAsValues,
}

/// How a layer's halves join the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x + f(norm(x))`: `input_layernorm`, `post_attention_layernorm`.
    PreNorm,
    /// `x + norm(f(norm(x)))`: `input_layernorm`, `post_attention_layernorm`, `pre_feedforward_layernorm`,
    /// `post_feedforward_layernorm`.
    Sandwich,
    /// `x + norm(f(x))`: `post_attention_layernorm`, `post_feedforward_layernorm`.
    PostNorm,
    /// `x + f(norm(x)) + g(norm(x))`, where both halves see one norm: `input_layernorm`.
    Parallel,
    /// The same, but each half sees a norm of its own: `input_layernorm`, `post_attention_layernorm`.
    ParallelNorms,
}

/// A norm of the last axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// What is divided by.
    pub kind: NormKind,
    /// What is stored.
    pub parameters: NormParameters,
    /// Added to the mean square or the variance.
    pub eps: f32,
    /// Added to the stored weight: 1 where checkpoints store the distance from 1.
    pub offset: f32,
    /// The same in files that are not in MLX's layout.
    pub original_offset: f32,
}

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// The root of the mean square (Zhang & Sennrich 2019).
    Rms,
    /// The deviation from the mean, which is taken off first (Ba et al. 2016).
    Layer,
}

/// What is stored of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormParameters {
    /// Nothing.
    None,
    /// `weight`.
    Weight,
    /// `weight` and `bias`.
    WeightAndBias,
}

impl Norm {
    /// The same without weights.
    #[must_use]
    pub fn bare(self) -> Self {
        Norm { parameters: NormParameters::None, ..self }
    }
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// How many of a head's numbers turn.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Pairs are neighbours instead of halves.
    pub traditional: bool,
    /// Turns the other way: by the negative angles.
    pub backwards: bool,
    /// How the frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
}

impl Rope {
    /// The same with neighbours turning.
    #[must_use]
    pub fn neighbours(self) -> Self {
        Rope { traditional: true, ..self }
    }
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f32,
    },
    /// A base that grows with the length beyond the trained one: "dynamic NTK".
    Dynamic {
        /// Growth.
        factor: f32,
        /// The trained length.
        context: usize,
    },
    /// By wavelength, "llama3": long waves stretched, short ones kept, a ramp between.
    Llama3 {
        /// Stretch of long waves.
        factor: f32,
        /// Waves longer than the trained context divided by this are long.
        low_freq_factor: f32,
        /// Waves shorter than the trained context divided by this are short.
        high_freq_factor: f32,
        /// The trained length.
        context: f32,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// Stretch.
        factor: f32,
        /// The trained length.
        context: f32,
        /// Rotations above which a wave is kept.
        beta_fast: f32,
        /// Rotations below which a wave is stretched fully.
        beta_slow: f32,
        /// Multiplies queries and keys.
        mscale: f32,
    },
    /// Of all pairs of a head the first alone turn: "proportional".
    Proportional {
        /// Numbers that turn.
        rotated: usize,
        /// Stretch.
        factor: f32,
    },
    /// A divisor per frequency: "longrope", "su".
    PerFrequency {
        /// Divisors, `dims / 2` of them.
        factors: Vec<f32>,
        /// Multiplies queries and keys.
        mscale: f32,
    },
}
