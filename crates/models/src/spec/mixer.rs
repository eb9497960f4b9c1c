//! What mixes positions beside plain attention, as values.

use super::{Attention, HeadGate, Norm, Rope, Temperature};
use crate::{Error, Result};

/// What mixes positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
    /// Softmax attention over a low-rank latent of each position.
    Latent(Latent),
    /// Softmax attention over blocks of positions that an index chooses.
    BlockSparse(BlockSparse),
    /// A short convolution between two gates.
    ShortConv(ShortConv),
    /// The delta rule with a decay a head.
    GatedDelta(GatedDelta),
    /// The delta rule with a decay a number of a key.
    KeyedDelta(KeyedDelta),
    /// Attention without a softmax, with a fixed decay a head.
    LinearAttention(LinearAttention),
    /// A selective state space with a decay a number of its state.
    StateSpace(StateSpace),
    /// A selective state space with a decay a head.
    ScalarStateSpace(ScalarStateSpace),
    /// The delta rule of RWKV-7.
    Wkv(Wkv),
    /// A selective state space with a decay a head, which its convolution's results select.
    SelectedStateSpace(SelectedStateSpace),
    /// A recurrence of each number alone.
    GatedRecurrence(GatedRecurrence),
    /// Several at once, each on the same input; their results are added.
    Sum(Vec<Mixer>),
}

/// Softmax attention over latents (DeepSeek-AI 2024): keys and values are linear in a vector of low rank that all heads share,
/// and positions are rotated in a few numbers of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    /// Heads.
    pub heads: usize,
    /// Rank of the queries; none where one matrix gives them.
    pub query_rank: Option<usize>,
    /// Rank of keys and values: the size of the latent.
    pub rank: usize,
    /// Numbers of a head's query and key that are not rotated.
    pub nope_dim: usize,
    /// Numbers that are; all heads share those of the key.
    pub rope_dim: usize,
    /// Numbers of a head's value.
    pub value_dim: usize,
    /// On the vectors of low rank.
    pub norm: Norm,
    /// Whether the projections to low rank and the output have biases.
    pub bias: bool,
    /// Rotary positions.
    pub rope: Option<Rope>,
    /// Queries that grow with their position.
    pub temperature: Option<Temperature>,
    /// Multiplies the scores.
    pub scale: f32,
    /// What multiplies the result before the output projection, `sigmoid(g_proj(x))`: one number each, or one a head.
    pub gate: Option<HeadGate>,
    /// Which positions are attended to, if not all.
    pub indexer: Option<Indexer>,
}

/// A small attention that chooses positions for a large one.
#[derive(Clone, Debug, PartialEq)]
pub struct Indexer {
    /// Heads.
    pub heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Most positions that a query attends to.
    pub top: usize,
    /// Rotary positions of the first numbers of a head.
    pub rope: Rope,
}

/// Attention over the best blocks of positions, which a small attention with one key a position finds for each of its heads.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSparse {
    /// The attention; its heads are divided evenly among those of the index.
    pub attention: Attention,
    /// Heads of the index.
    pub heads: usize,
    /// Size of such a head.
    pub head_dim: usize,
    /// Positions in a block.
    pub block: usize,
    /// Blocks that a query attends to.
    pub top: usize,
    /// The last blocks that it attends to in any case.
    pub local: usize,
    /// On queries and keys of the index.
    pub norm: Norm,
    /// Rotary positions of the index.
    pub rope: Rope,
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

/// The gated delta rule (Yang et al. 2024) behind a short convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedDelta {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values.
    pub heads: usize,
    /// Size of a query and key head.
    pub key_dim: usize,
    /// Size of a value head.
    pub value_dim: usize,
    /// Positions of the convolution.
    pub kernel: usize,
    /// On each head of the result.
    pub norm: Norm,
    /// How the projections are stored.
    pub projection: DeltaProjection,
    /// Multiplies beta: 2 lets a correction turn what is recalled around.
    pub strength: f32,
}

/// How the projections of a gated delta rule are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaProjection {
    /// `in_proj_qkvz` and `in_proj_ba`, the rows of each key head together.
    ByHead,
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b` and `in_proj_a`.
    Separate,
    /// `q_proj`, `k_proj`, `v_proj`, `g_proj`, `b_proj` and `a_proj`, each of the first three with a convolution of its own;
    /// `o_norm` and `o_proj` after them.
    Each,
}

/// The delta rule with a decay for each number of a key (Kimi Team 2025), behind short convolutions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyedDelta {
    /// Heads.
    pub heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Positions of the convolutions.
    pub kernel: usize,
    /// On each head of the result.
    pub norm: Norm,
    /// How logits become decays.
    pub decay: KeyedDecay,
    /// Whether one matrix, `g_proj`, gives the gate, instead of two of low rank.
    pub full_gate: bool,
}

/// How a logit `a` becomes a decay, by a head's rate `exp(A_log)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyedDecay {
    /// `exp(-rate * softplus(a))`.
    Softplus,
    /// `exp(bound * sigmoid(rate * a))`, which is never less than `exp(bound)`.
    Bounded {
        /// Logarithm of the least decay.
        bound: f32,
    },
}

/// Attention without a softmax: `S ← S·exp(rate) + v kᵀ; y = S q`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearAttention {
    /// Logarithm of the decay of each head.
    pub rates: Vec<f32>,
    /// Size of a head.
    pub head_dim: usize,
    /// Whether the projections in and out have biases.
    pub bias: [bool; 2],
    /// On queries and keys: `q_norm`, `k_norm`.
    pub qk_norm: Option<Norm>,
    /// Rotary positions.
    pub rope: Rope,
    /// Parts of the result that are normed each alone, before the gate.
    pub groups: usize,
    /// Added to their mean square.
    pub eps: f32,
}

/// The delta rule with a decay for each number of a key and corrections along keys of their own (Peng et al. 2025), where
/// positions see a little of the one before. The layer's unit sees that too, and what it needs is kept here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wkv {
    /// Heads.
    pub heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Rank of the decays.
    pub decay_rank: usize,
    /// Rank of the rates at which the state is corrected.
    pub rate_rank: usize,
    /// Rank of the gate.
    pub gate_rank: usize,
    /// Rank of the shares of the first layer's values; none in the first layer.
    pub value_rank: Option<usize>,
}

/// A recurrence of each number alone behind a short convolution, with gates that heads have of their own (De et al. 2024).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedRecurrence {
    /// Heads.
    pub heads: usize,
    /// Numbers of all heads.
    pub width: usize,
    /// Positions of the convolution.
    pub kernel: usize,
}

/// A selective state space (Gu & Dao 2023) behind a short convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateSpace {
    /// Channels.
    pub inner: usize,
    /// Numbers that a channel carries on.
    pub state_dim: usize,
    /// Rank of the time steps.
    pub rank: usize,
    /// Positions of the convolution.
    pub kernel: usize,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the projections in and out have biases.
    pub bias: bool,
    /// On time steps, `b` and `c`: `dt_layernorm`, `b_layernorm`, `c_layernorm`.
    pub norms: Option<Norm>,
}

/// A selective state space with scalar decays (Dao & Gu 2024) behind a short convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalarStateSpace {
    /// Heads.
    pub heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Groups of heads that share `b` and `c`.
    pub groups: usize,
    /// Numbers that each number of a head carries on.
    pub state_dim: usize,
    /// Positions of the convolution.
    pub kernel: usize,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the projections in and out have biases.
    pub bias: [bool; 2],
    /// Least and largest time step.
    pub time_step: [f32; 2],
    /// The norm beside the gate.
    pub norm: Option<GateNorm>,
}

/// A selective state space with scalar decays behind a short convolution, whose time steps, `b` and `c` follow from what that
/// gives; all heads share `b` and `c`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelectedStateSpace {
    /// Heads.
    pub heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Numbers that each number of a head carries on.
    pub state_dim: usize,
    /// Rank of the time steps.
    pub rank: usize,
    /// Positions of the convolution.
    pub kernel: usize,
    /// On time steps, `b` and `c`.
    pub norm: Norm,
    /// Least and largest time step.
    pub time_step: [f32; 2],
}

/// A norm beside a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// Parts of a row that are normed each alone.
    pub groups: usize,
    /// Whether the gate comes after the norm.
    pub before_gate: bool,
}

impl Mixer {
    /// Numbers a position that this holds at once at most, for a residual stream of `dim`.
    pub fn width(&self, dim: usize) -> usize {
        match self {
            Mixer::Attention(a) => (a.heads + a.kv_heads) * (a.head_dim + a.value_dim),
            Mixer::Latent(l) => l.heads * (2 * l.rank + 3 * (l.nope_dim + l.rope_dim) + 2 * l.value_dim),
            Mixer::BlockSparse(s) => Mixer::Attention(s.attention.clone()).width(dim) + 2 * (s.heads + 1) * s.head_dim,
            Mixer::ShortConv(_) => 5 * dim,
            Mixer::GatedDelta(d) => 6 * (d.key_heads * d.key_dim + d.heads * d.value_dim),
            Mixer::KeyedDelta(d) => 10 * d.heads * d.head_dim,
            Mixer::LinearAttention(l) => 6 * l.rates.len() * l.head_dim,
            Mixer::Wkv(w) => 20 * w.heads * w.head_dim,
            Mixer::GatedRecurrence(r) => 8 * r.width,
            Mixer::SelectedStateSpace(m) => 6 * m.inner(),
            Mixer::StateSpace(m) => 6 * m.inner,
            Mixer::ScalarStateSpace(m) => 5 * m.inner() + 3 * m.channels(),
            Mixer::Sum(parts) => parts.iter().map(|part| part.width(dim)).sum(),
        }
    }
}

impl BlockSparse {
    /// The same, if such a mixer can be.
    ///
    /// # Errors
    /// For sizes that no model has, and heads that do not divide.
    pub fn checked(self) -> Result<Self> {
        sizes([self.heads, self.head_dim, self.block, self.top])?;
        let (heads, groups) = (self.attention.heads, self.attention.kv_heads);
        let own = self.attention.keys_of.is_none();
        let even = own && (groups.is_multiple_of(self.heads) || self.heads.is_multiple_of(groups));
        if even && heads.is_multiple_of(self.heads) && self.rope.dims >= 2 && self.rope.dims <= self.head_dim {
            return Ok(self);
        }
        Err(Error::invalid(format!(
            "config.json: an index of {} heads of {} numbers cannot serve {heads} heads in {groups} groups",
            self.heads, self.head_dim
        )))
    }
}

/// Refuses sizes of a mixer that no model has.
fn sizes<const N: usize>(sizes: [usize; N]) -> Result<()> {
    match sizes.into_iter().find(|size| *size == 0 || *size > 1 << 20) {
        Some(size) => Err(Error::invalid(format!("config.json: a mixer has a size of {size}, which no model has"))),
        None => Ok(()),
    }
}

impl LinearAttention {
    /// The same, if such a mixer can be.
    ///
    /// # Errors
    /// For sizes that no model has, and groups that do not divide.
    pub fn checked(self) -> Result<Self> {
        sizes([self.rates.len(), self.head_dim, self.groups])?;
        let inner = self.rates.len() * self.head_dim;
        sizes([inner])?;
        if inner.is_multiple_of(self.groups) && self.rope.dims <= self.head_dim {
            return Ok(self);
        }
        Err(Error::invalid(format!("config.json: {inner} numbers cannot be normed in {} groups", self.groups)))
    }
}

impl Wkv {
    /// The same, if such a mixer can be in a residual stream of `dim`.
    ///
    /// # Errors
    /// For sizes that no model has, and heads that are not as large as the stream.
    pub fn checked(self, dim: usize) -> Result<Self> {
        sizes([self.heads, self.head_dim, self.decay_rank, self.rate_rank, self.gate_rank])?;
        sizes([self.value_rank.unwrap_or(1)])?;
        if self.heads * self.head_dim == dim {
            return Ok(self);
        }
        let message = format!("{dim} numbers cannot be divided into heads of {}", self.head_dim);
        Err(Error::invalid(format!("config.json: {message}")))
    }
}

impl GatedRecurrence {
    /// The same, if such a mixer can be.
    ///
    /// # Errors
    /// For sizes that no model has, and heads that do not divide.
    pub fn checked(self) -> Result<Self> {
        sizes([self.heads, self.width, self.kernel])?;
        if self.width.is_multiple_of(self.heads) {
            return Ok(self);
        }
        let message = format!("{} numbers cannot be divided into {} heads", self.width, self.heads);
        Err(Error::invalid(format!("config.json: {message}")))
    }
}

impl SelectedStateSpace {
    /// The same, if such a mixer can be.
    ///
    /// # Errors
    /// For sizes that no model has.
    pub fn checked(self) -> Result<Self> {
        sizes([self.heads, self.head_dim, self.state_dim, self.rank, self.kernel])?;
        sizes([self.inner()])?;
        Ok(self)
    }

    /// Numbers of all heads.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

impl StateSpace {
    /// The same, if such a mixer can be.
    ///
    /// # Errors
    /// For sizes that no model has.
    pub fn checked(self) -> Result<Self> {
        sizes([self.inner, self.state_dim, self.rank, self.kernel])?;
        Ok(self)
    }
}

impl ScalarStateSpace {
    /// The same, if such a mixer can be.
    ///
    /// # Errors
    /// For sizes that no model has, heads that do not divide into groups, and time steps that are no range.
    pub fn checked(self) -> Result<Self> {
        let [least, most] = self.time_step;
        sizes([self.heads, self.head_dim, self.state_dim, self.kernel])?;
        if self.groups == 0 || !self.heads.is_multiple_of(self.groups) {
            return Err(Error::invalid(format!(
                "config.json: {} heads cannot share {} groups",
                self.heads, self.groups
            )));
        }
        if least.is_nan() || most.is_nan() || least > most {
            return Err(Error::invalid(format!("config.json: time steps from {least} to {most} are no range")));
        }
        Ok(self)
    }

    /// Numbers of all heads.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of the convolution: `x`, `b` and `c`.
    pub fn channels(&self) -> usize {
        self.inner() + 2 * self.groups * self.state_dim
    }
}
