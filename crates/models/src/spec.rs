//! What a decoder is, as plain values: kinds are sum types, presence is `Option`, sizes are numbers.
//!
//! A field that one family alone would use does not belong here: such a family implements
//! [`crate::LanguageModel`] itself.

use mlxengine_tensor::Unary;

/// A whole decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// Rows of the embedding.
    pub vocab: usize,
    /// Size of the residual stream.
    pub dim: usize,
    /// Multiplies the embeddings.
    pub embed_scale: Option<f32>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// After the last layer.
    pub norm: Norm,
    /// How hidden states become logits.
    pub head: Head,
    /// Caps the logits: `cap * tanh(logit / cap)`.
    pub logit_softcap: Option<f32>,
    /// Longest sequence that the model was made for, in tokens.
    pub context: Option<usize>,
    /// Names in checkpoints that differ from the canonical ones: each first text, found in a tensor's name, is read as the
    /// second.
    pub renames: &'static [(&'static str, &'static str)],
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
    /// The norm used around them.
    pub norm: Norm,
}

/// What mixes positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
    /// A short convolution between two gates.
    ShortConv(ShortConv),
}

/// Softmax attention with grouped queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// How the query, key and value projections are stored.
    pub projection: Projection,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// A norm on each query and key head (`q_norm`, `k_norm`), before the rotation.
    pub qk_norm: Option<Norm>,
    /// Rotary positions; none for layers without positions.
    pub rope: Option<Rope>,
    /// Multiplies the scores.
    pub scale: f32,
    /// Caps the scores: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Positions that are seen, the own one among them; all if none.
    pub window: Option<usize>,
}

/// A causal convolution over a few positions, each channel alone, gated before and after: `out(c * conv(b * x))`, where one
/// projection gives `b`, `c` and `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShortConv {
    /// Positions that are summed up, the own one among them.
    pub kernel: usize,
    /// Whether the projections and the convolution have biases.
    pub bias: bool,
}

/// How projections that share an input are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// One matrix each: `q_proj`, `k_proj`, `v_proj`; `gate_proj`, `up_proj`.
    Separate,
    /// Rows after one another in one matrix: `qkv_proj`; `gate_up_proj`.
    Joined,
}

/// What works on each position alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Mlp {
    /// `down(act(gate(x)) * up(x))`.
    Gated(Gated),
    /// Several gated units, of which a router picks a few for each token.
    Experts(Experts),
}

/// A gated unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gated {
    /// Size between the projections.
    pub hidden: usize,
    /// Activation of the gate.
    pub act: Unary,
    /// How gate and up are stored.
    pub projection: Projection,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many work on a token.
    pub active: usize,
    /// Size between an expert's projections.
    pub hidden: usize,
    /// Activation of the gate.
    pub act: Unary,
    /// How the router's scores become shares.
    pub router: Router,
}

/// How a router's scores become the shares of the chosen experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    /// Softmax over the chosen ones; equally, softmax over all and then divided by the sum of the chosen.
    SoftmaxOfChosen,
    /// Softmax over all, as it is.
    SoftmaxOfAll,
}

/// How a layer's halves join the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x + f(norm(x))`: `input_layernorm`, `post_attention_layernorm`.
    PreNorm,
    /// `x + norm(f(norm(x)))`: `input_layernorm`, `post_attention_layernorm`, `pre_feedforward_layernorm`,
    /// `post_feedforward_layernorm`.
    Sandwich,
}

/// A root-mean-square norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the stored weight: 1 where checkpoints store the distance from 1.
    pub offset: f32,
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
    /// How the frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
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
    /// A divisor per frequency: "longrope", "su".
    PerFrequency {
        /// Divisors, `dims / 2` of them.
        factors: Vec<f32>,
        /// Multiplies queries and keys.
        mscale: f32,
    },
}

impl Mixer {
    /// Numbers a position that this holds at once at most, for a residual stream of `dim`.
    pub fn width(&self, dim: usize) -> usize {
        match self {
            Mixer::Attention(a) => 2 * (a.heads + a.kv_heads) * a.head_dim,
            Mixer::ShortConv(_) => 5 * dim,
        }
    }
}

impl Experts {
    /// The same, if such a mixture can be.
    pub(crate) fn checked(self) -> crate::Result<Self> {
        if self.active >= 1 && self.active <= self.count && self.count <= 1 << 16 {
            return Ok(self);
        }
        Err(crate::Error::invalid(format!(
            "config.json: {} of {} experts cannot work on a token",
            self.active, self.count
        )))
    }
}
