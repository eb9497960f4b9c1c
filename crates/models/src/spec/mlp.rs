//! What works on each position alone, as values.

use mlxengine_tensor::Unary;

use super::{Norm, Projection};
use crate::{Error, Result};

/// What works on each position alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mlp {
    /// One unit.
    Dense(Unit),
    /// Several units, of which a router picks a few for each token.
    Experts(Experts),
}

/// A feed-forward unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// `down(act(gate(x)) * up(x))`.
    Gated(Gated),
    /// `down(act(up(x)))`.
    Plain(Plain),
    /// `down(f(up(x)))`, where `f` is xIELU, of a learned shape (Huang 2024): `act_fn`.
    Learned(Learned),
}

/// A unit with a learned function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Size between the projections.
    pub hidden: usize,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// A gated unit: `gate_proj`, `up_proj`, `down_proj`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gated {
    /// Size between the projections.
    pub hidden: usize,
    /// How the gate meets what it gates.
    pub act: Gate,
    /// How gate and up are stored.
    pub projection: Projection,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// A unit without a gate: `up_proj`, `down_proj`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plain {
    /// Size between the projections.
    pub hidden: usize,
    /// The function between them.
    pub act: Unary,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// How a gate meets what it gates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// `f(gate) * up`.
    Act(Unary),
    /// `min(silu(gate), limit) * clip(up, limit)`.
    Clamped {
        /// Largest magnitude.
        limit: f32,
    },
    /// `cap * tanh(gate / cap) * sigmoid(gate) * up`, where `up` may be capped likewise.
    Capped {
        /// Cap of the gate.
        cap: f32,
        /// Cap of what it gates.
        up_cap: Option<f32>,
    },
    /// `gelu(max(gate - cut, 0)) * up`, by tanh, where the cut lies this many deviations above the mean of the gate.
    Sparse {
        /// How many.
        deviations: f32,
    },
    /// `g * sigmoid(alpha * g) * (clip(up, limit) + shift)`, where `g = min(gate, limit)`.
    ClampedSwish {
        /// Steepness of the sigmoid.
        alpha: f32,
        /// Largest magnitude.
        limit: f32,
        /// Added to what is gated.
        shift: f32,
    },
}

/// How many deviations above its mean a normally distributed number is with probability `1 - p`.
fn deviations(p: f64) -> f32 {
    // Bisection on the distribution function, whose error function is summed up as a series of its derivative.
    let erf = |x: f64| {
        let terms = (0..200).scan(x, |power, n| {
            let term = *power / (2 * n + 1) as f64;
            *power *= -x * x / (n + 1) as f64;
            Some(term)
        });
        terms.sum::<f64>() * std::f64::consts::FRAC_2_SQRT_PI
    };
    let (mut low, mut high) = (-4.0, 4.0);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        *(if erf(middle) < 2.0 * p - 1.0 { &mut low } else { &mut high }) = middle;
    }
    (low * std::f64::consts::SQRT_2) as f32
}

impl Gate {
    /// GELU of about the largest of its inputs, all but the part `sparsity` of them; of all if that is 0.
    ///
    /// # Errors
    /// For a part that is none.
    pub fn sparse(sparsity: f64) -> Result<Self> {
        match sparsity {
            p if p > 0.0 && p < 1.0 => Ok(Gate::Sparse { deviations: deviations(p) }),
            p if p <= 0.0 => Ok(Unary::GeluTanh.into()),
            p => Err(Error::invalid(format!("config.json: an activation sparsity of {p}"))),
        }
    }
}

impl From<Unary> for Gate {
    fn from(act: Unary) -> Self {
        Gate::Act(act)
    }
}

impl Gated {
    /// The same with SiLU clamped, where there is a limit above 0.
    #[must_use]
    pub fn clamped(self, limit: Option<f32>) -> Self {
        limit.filter(|limit| *limit > 0.0).map_or(self, |limit| Gated { act: Gate::Clamped { limit }, ..self })
    }
}

impl From<Gated> for Mlp {
    fn from(unit: Gated) -> Self {
        Mlp::Dense(Unit::Gated(unit))
    }
}

impl From<Plain> for Mlp {
    fn from(unit: Plain) -> Self {
        Mlp::Dense(Unit::Plain(unit))
    }
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many work on a token.
    pub active: usize,
    /// Each of them.
    pub unit: Unit,
    /// Where a checkpoint has gate and up of all experts in one tensor: how they lie in it.
    pub joined: JoinedExperts,
    /// Who picks them, and with what shares.
    pub router: Router,
    /// The space that the experts work in, where it is not that of the residual stream.
    pub latent: Option<ExpertLatent>,
    /// A unit that works on every token.
    pub shared: Option<Shared>,
}

/// How the gates and ups of all experts lie in one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinedExperts {
    /// `[experts, gate rows and then up rows, inputs]`.
    Rows,
    /// `[experts, inputs, gate columns and then up columns]`, and `down_proj` transposed too.
    Columns,
    /// As `Columns`, but gate and up take turns; packed weights lie by rows.
    TurnsOfColumns,
}

/// A smaller space for experts: `latent_down` leads into it, `latent_up` out of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertLatent {
    /// Its size.
    pub dim: usize,
    /// On what leads out of it: `latent_norm`.
    pub norm: Option<Norm>,
    /// Whether the two have biases.
    pub bias: bool,
}

/// A unit that works on every token beside the chosen ones: `shared_expert`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shared {
    /// The unit.
    pub unit: Unit,
    /// Whether `sigmoid(shared_expert_gate(x))` weighs its result.
    pub gated: bool,
}

/// Who picks experts: `gate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// What its logits become.
    pub scores: Scores,
    /// Whether it has a bias.
    pub bias: bool,
    /// Whether a bias, `gate.e_score_correction_bias`, is added to the scores for the choice alone.
    pub correction: bool,
    /// The groups among which is chosen first.
    pub groups: Option<Groups>,
    /// Whether the shares of the chosen are divided by their sum.
    pub normalize: bool,
    /// Added to that sum.
    pub eps: f32,
    /// Multiplies the shares.
    pub scale: f32,
    /// Whether shares multiply what the experts see instead of what they return.
    pub weighs_inputs: bool,
}

/// What a router's logits become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scores {
    /// Softmax over all experts.
    Softmax,
    /// Each its sigmoid.
    Sigmoid,
    /// `sqrt(softplus(logit))` of each.
    RootSoftplus,
    /// One expert after another, each by a softmax over those not yet chosen whose distance from the best is at most this
    /// part of the larger of the two (SparseMixer, Liu et al. 2023).
    Near {
        /// The part.
        distance: f32,
    },
}

/// Experts in groups, of which the best alone may give experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// How many groups.
    pub count: usize,
    /// How many give experts.
    pub active: usize,
    /// A group is as good as the sum of this many of its best experts.
    pub best: usize,
}

impl Groups {
    /// The choice of `active` groups of `count`; none where that is no choice.
    pub fn of(count: usize, active: usize, best: usize) -> Option<Self> {
        (count > 1 && active != count).then_some(Groups { count, active, best })
    }
}

impl Router {
    /// Softmax over all experts; `normalize` as in [`Router::normalize`].
    pub fn softmax(normalize: bool) -> Self {
        Router {
            scores: Scores::Softmax,
            bias: false,
            correction: false,
            groups: None,
            normalize,
            eps: 1e-20,
            scale: 1.0,
            weighs_inputs: false,
        }
    }

    /// Sigmoids and a correction of the choice.
    pub fn sigmoid(normalize: bool, scale: f32) -> Self {
        Router { scores: Scores::Sigmoid, correction: true, scale, ..Router::softmax(normalize) }
    }
}

impl Mlp {
    /// Numbers a position that this holds at once at most, for a residual stream of `dim`.
    pub fn width(&self, dim: usize) -> usize {
        match self {
            Mlp::Dense(unit) => 2 * unit.hidden(),
            Mlp::Experts(e) => {
                let shared = e.shared.map_or(0, |s| 2 * s.unit.hidden());
                (2 * e.active * e.unit.hidden() + e.active * dim).max(shared)
            }
        }
    }
}

impl Unit {
    /// Size between the projections.
    pub fn hidden(&self) -> usize {
        match self {
            Unit::Gated(unit) => unit.hidden,
            Unit::Plain(unit) => unit.hidden,
            Unit::Learned(unit) => unit.hidden,
        }
    }
}

impl Experts {
    /// Equal gated units behind a softmax, nothing else.
    pub fn new([count, active]: [usize; 2], unit: Gated, router: Router) -> Self {
        Experts {
            count,
            active,
            unit: Unit::Gated(unit),
            joined: JoinedExperts::Rows,
            router,
            latent: None,
            shared: None,
        }
    }

    /// The layer, if such a mixture can be.
    ///
    /// # Errors
    /// If there are not enough experts, or they do not divide into the groups.
    pub fn checked(self) -> Result<Mlp> {
        if self.active == 0 || self.active > self.count || self.count > 1 << 16 {
            let message = format!("config.json: {} of {} experts cannot work on a token", self.active, self.count);
            return Err(Error::invalid(message));
        }
        let sizes =
            [Some(self.unit.hidden()), self.shared.map(|s| s.unit.hidden()), self.latent.map(|latent| latent.dim)];
        if let Some(size) = sizes.into_iter().flatten().find(|size| *size == 0 || *size > 1 << 24) {
            return Err(Error::invalid(format!("config.json: an expert of size {size}, which no model has")));
        }
        if let Some(g) = self.router.groups
            && (g.count == 0
                || !self.count.is_multiple_of(g.count)
                || g.active == 0
                || g.active > g.count
                || g.best == 0
                || g.best > self.count / g.count)
        {
            let message =
                format!("config.json: {} experts cannot be chosen from {} of {} groups", self.count, g.active, g.count);
            return Err(Error::invalid(message));
        }
        Ok(Mlp::Experts(self))
    }
}
