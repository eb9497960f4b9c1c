//! What works on each position alone: units, one or a routed few of many.

use mlxengine_tensor::{Binary, Reduce, Tensor, Unary};

use crate::Result;
use crate::linear::{ExpertLinear, Linear};
use crate::norm::Norm;
use crate::spec::{self, Gate, Groups, Projection, Scores};
use crate::weights::Scope;

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer has one, and a box would cost a look-up a product")]
pub(crate) enum Mlp {
    Dense(Unit),
    Experts(Box<Experts>),
}

impl Mlp {
    pub(crate) fn load(spec: &spec::Mlp, w: &Scope<'_>, dim: usize) -> Result<Self> {
        Ok(match spec {
            spec::Mlp::Dense(unit) => Mlp::Dense(Unit::load(unit, w, dim)?),
            spec::Mlp::Experts(experts) => Mlp::Experts(Box::new(Experts::load(experts, w, dim)?)),
        })
    }

    /// `x [N, dim] -> [N, dim]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Mlp::Dense(unit) => unit.forward(x),
            Mlp::Experts(experts) => experts.forward(x),
        }
    }
}

/// One feed-forward unit.
#[derive(Debug)]
pub(crate) struct Unit {
    up: Up,
    down: Linear,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer has one, and a box would cost a look-up a product")]
enum Up {
    Gated { gate: Linear, up: Linear, act: Gate },
    Plain { up: Linear, act: Unary },
    Learned { up: Linear, act: Box<Xielu> },
}

/// `p x² + b x` above 0 and `n (eˣ - 1 - x) + b x` below.
#[derive(Debug)]
struct Xielu {
    p: Tensor,
    n: Tensor,
    b: Tensor,
    /// Largest exponent.
    eps: Tensor,
}

impl Xielu {
    fn load(w: &Scope<'_>) -> Result<Self> {
        let number = |name: &str| Ok::<_, crate::Error>(w.number(name)?.reshape([1]));
        let b = number("beta")?;
        let n = number("alpha_n")?.unary(Unary::Softplus).add(&b);
        Ok(Self { p: number("alpha_p")?.unary(Unary::Softplus), n, b, eps: number("eps")? })
    }

    fn forward(&self, x: Tensor) -> Tensor {
        let below = x.clone().binary(Binary::Less, &Tensor::from_f32(&[0.0], [1]));
        let grown = x.clone().binary(Binary::Min, &self.eps).unary(Unary::Exp);
        let one = Tensor::from_f32(&[1.0], [1]);
        let curved = grown.binary(Binary::Sub, &one).binary(Binary::Sub, &x).mul(&self.n).mul(&below);
        let square = x.clone().unary(Unary::Relu2).mul(&self.p);
        x.mul(&self.b).add(&curved).add(&square)
    }
}

impl Unit {
    pub(crate) fn load(spec: &spec::Unit, w: &Scope<'_>, dim: usize) -> Result<Self> {
        let linear = |name: &str, shape, bias| w.linear(name, shape, bias).map(|linear| w.feed_forward(linear));
        let joined = |hidden, bias| -> Result<[Linear; 2]> {
            Ok(w.joined("gate_up_proj", dim, [hidden; 2], bias)?.map(|linear| w.feed_forward(linear)))
        };
        let (up, hidden, bias) = match *spec {
            spec::Unit::Gated(spec::Gated { hidden, act, projection, bias }) => {
                let [gate, up] = match projection {
                    Projection::Joined => joined(hidden, bias)?,
                    // Some original files join what converted ones keep apart.
                    _ if w.at("gate_up_proj").has_weight() => joined(hidden, bias)?,
                    _ => [linear("gate_proj", [dim, hidden], bias)?, linear("up_proj", [dim, hidden], bias)?],
                };
                (Up::Gated { gate, up, act }, hidden, bias)
            }
            spec::Unit::Plain(spec::Plain { hidden, act, bias }) => {
                (Up::Plain { up: linear("up_proj", [dim, hidden], bias)?, act }, hidden, bias)
            }
            spec::Unit::Learned(spec::Learned { hidden, bias }) => {
                let act = Box::new(Xielu::load(&w.at("act_fn"))?);
                (Up::Learned { up: linear("up_proj", [dim, hidden], bias)?, act }, hidden, bias)
            }
        };
        Ok(Self { up, down: linear("down_proj", [hidden, dim], bias)? })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.down.forward(&match &self.up {
            Up::Gated { gate, up, act } => {
                let [gate, up] = Linear::forward_all([gate, up], x);
                gated(*act, gate, up)
            }
            Up::Plain { up, act } => up.forward(x).unary(*act),
            Up::Learned { up, act } => act.forward(up.forward(x)),
        })
    }
}

/// What a gate and what it gates make.
pub(crate) fn gated(act: Gate, gate: Tensor, up: Tensor) -> Tensor {
    let bound = |x: Tensor, how, limit: f32| x.binary(how, &Tensor::from_f32(&[limit], [1]));
    let clip = |x, limit| bound(bound(x, Binary::Min, limit), Binary::Max, -limit);
    match act {
        Gate::Act(act) => gate.glu(act, &up),
        Gate::Capped { cap, up_cap } => {
            let up = up_cap.map_or_else(|| up.clone(), |cap| up.clone().softcap(cap));
            gate.clone().softcap(cap).mul(&gate.unary(Unary::Sigmoid)).mul(&up)
        }
        Gate::Clamped { limit } => bound(gate.unary(Unary::Silu), Binary::Min, limit).mul(&clip(up, limit)),
        Gate::Sparse { deviations } => {
            let centred = gate.clone().binary(Binary::Sub, &gate.reduce(Reduce::Mean));
            let deviation = centred.clone().unary(Unary::Square).reduce(Reduce::Mean).unary(Unary::Sqrt);
            let kept = centred.binary(Binary::Sub, &deviation.scale(deviations)).unary(Unary::Relu);
            kept.glu(Unary::GeluTanh, &up)
        }
        Gate::ClampedSwish { alpha, limit, shift } => {
            let gate = bound(gate, Binary::Min, limit);
            let swish = gate.clone().scale(alpha).unary(Unary::Sigmoid).mul(&gate);
            clip(up, limit).add(&Tensor::from_f32(&[shift], [1])).mul(&swish)
        }
    }
}

/// What leads into each expert, as its checkpoint stores it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer has one, and a box would cost a look-up a product")]
pub(crate) enum ExpertsUp {
    Gated {
        gate: ExpertLinear,
        up: ExpertLinear,
    },
    /// Gate and up in one, after one another or taking turns.
    Joined {
        both: ExpertLinear,
        turns: bool,
    },
    Plain(ExpertLinear),
}

/// Experts without who picks them.
#[derive(Debug)]
pub(crate) struct Pool {
    up: ExpertsUp,
    down: ExpertLinear,
    unit: spec::Unit,
}

impl Pool {
    pub(crate) fn load(spec: &spec::Experts, w: &Scope<'_>, dim: usize) -> Result<Self> {
        let (up, down) = w.experts(spec, dim)?;
        Ok(Self { up, down, unit: spec.unit })
    }

    /// The sum of the results of the experts `ids [N, active]`, each times its share; `x` as in [`ExpertLinear::forward`].
    pub(crate) fn forward(&self, x: &Tensor, ids: &Tensor, shares: Tensor) -> Tensor {
        let hidden = match (&self.up, self.unit) {
            (ExpertsUp::Plain(up), spec::Unit::Plain(unit)) => up.forward(x, ids).unary(unit.act),
            (ExpertsUp::Gated { gate, up }, spec::Unit::Gated(unit)) => {
                gated(unit.act, gate.forward(x, ids), up.forward(x, ids))
            }
            (ExpertsUp::Joined { both, turns }, spec::Unit::Gated(unit)) => {
                let [gate, up] = halves(both.forward(x, ids), *turns);
                gated(unit.act, gate, up)
            }
            _ => unreachable!("what is loaded follows the spec"),
        };
        let parts = self.down.forward(&hidden, ids);
        let [tokens, slots, dim] = [parts.shape()[0], parts.shape()[1], parts.shape()[2]];
        shares.reshape([tokens, 1, slots]).matmul(&parts, false).reshape([tokens, dim])
    }
}

#[derive(Debug)]
pub(crate) struct Experts {
    router: Router,
    pool: Pool,
    latent: Option<Latent>,
    shared: Option<Unit>,
    shared_gate: Option<Linear>,
    spec: spec::Experts,
}

impl Experts {
    fn load(spec: &spec::Experts, w: &Scope<'_>, dim: usize) -> Result<Self> {
        let (mut shared, mut shared_gate) = (None, None);
        if let Some(spec) = &spec.shared {
            shared = Some(Unit::load(&spec.unit, &w.at("shared_expert"), dim)?);
            let gate = || w.linear("shared_expert_gate", [dim, 1], false);
            shared_gate = spec.gated.then(gate).transpose()?;
        }
        let latent = spec.latent.map(|latent| Latent::load(latent, w, dim)).transpose()?;
        let inner = spec.latent.map_or(dim, |latent| latent.dim);
        let (router, pool) = (Router::load(spec, w, dim)?, Pool::load(spec, w, inner)?);
        Ok(Self { router, pool, latent, shared, shared_gate, spec: *spec })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let (ids, mut shares) = self.router.choose(x);
        let mut seen = self.latent.as_ref().map_or_else(|| x.clone(), |latent| latent.down.forward(x));
        if self.spec.router.weighs_inputs {
            let [tokens, slots, dim] = [x.shape()[0], ids.shape()[1], seen.shape()[1]];
            seen = seen.reshape([tokens, 1, dim]).mul(&shares.reshape([tokens, slots, 1]));
            shares = Tensor::from_f32(&vec![1.0; tokens * slots], [tokens, slots]);
        }
        let mut y = self.pool.forward(&seen, &ids, shares);
        if let Some(latent) = &self.latent {
            y = latent.up.forward(&latent.norm.as_ref().map_or_else(|| y.clone(), |norm| norm.forward(&y)));
        }
        let Some(shared) = &self.shared else { return y };
        let z = shared.forward(x);
        match &self.shared_gate {
            Some(gate) => y.add(&z.mul(&gate.forward(x).unary(Unary::Sigmoid))),
            None => y.add(&z),
        }
    }
}

/// Ways into and out of a smaller space.
#[derive(Debug)]
struct Latent {
    down: Linear,
    norm: Option<Norm>,
    up: Linear,
}

impl Latent {
    fn load(spec: spec::ExpertLatent, w: &Scope<'_>, dim: usize) -> Result<Self> {
        Ok(Self {
            down: w.linear("latent_down", [dim, spec.dim], spec.bias)?,
            norm: spec.norm.map(|norm| Norm::load(norm, w, "latent_norm", spec.dim)).transpose()?,
            up: w.linear("latent_up", [spec.dim, dim], spec.bias)?,
        })
    }
}

/// Gate and up of a product with both.
fn halves(both: Tensor, turns: bool) -> [Tensor; 2] {
    let [tokens, slots, hidden] = [both.shape()[0], both.shape()[1], both.shape()[2] / 2];
    [0, 1].map(|half| {
        if turns {
            let pairs = both.clone().reshape([tokens, slots, hidden, 2]);
            pairs.slice(3, half, 1).reshape([tokens, slots, hidden])
        } else {
            both.clone().slice(2, half * hidden, hidden)
        }
    })
}

/// Who picks experts.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) linear: Linear,
    correction: Option<Tensor>,
    active: usize,
    spec: spec::Router,
}

impl Router {
    pub(crate) fn load(spec: &spec::Experts, w: &Scope<'_>, dim: usize) -> Result<Self> {
        let linear = w.linear("gate", [dim, spec.count], spec.router.bias)?;
        let correction = match spec.router.correction {
            true => Some(w.at("gate").vector("e_score_correction_bias", spec.count)?),
            false => None,
        };
        Ok(Self { linear, correction, active: spec.active, spec: spec.router })
    }

    /// The experts of each row and their shares, both `[N, active]`.
    pub(crate) fn choose(&self, x: &Tensor) -> (Tensor, Tensor) {
        let logits = self.linear.forward(x);
        let spec = self.spec;
        if let Scores::Near { distance } = spec.scores {
            return self.near(logits, distance);
        }
        let plain = self.correction.is_none() && spec.groups.is_none();
        let (ids, shares) = if plain && spec.normalize && spec.scores == Scores::Softmax {
            // Softmax over all, divided by the sum of the chosen, is softmax over the chosen.
            let ids = logits.top_k(self.active);
            let shares = logits.take_along(&ids).softmax();
            (ids, shares)
        } else {
            let scores = match spec.scores {
                Scores::Softmax => logits.softmax(),
                Scores::RootSoftplus => logits.unary(Unary::Softplus).unary(Unary::Sqrt),
                Scores::Sigmoid | Scores::Near { .. } => logits.unary(Unary::Sigmoid),
            };
            let mut rank = scores.clone();
            if let Some(correction) = &self.correction {
                rank = rank.add(correction);
            }
            if let Some(groups) = spec.groups {
                rank = best_groups(rank, groups);
            }
            let ids = rank.top_k(self.active);
            let mut shares = scores.take_along(&ids);
            if spec.normalize {
                let sum = shares.clone().reduce(Reduce::Sum).add(&Tensor::from_f32(&[spec.eps], [1]));
                shares = shares.div(&sum);
            }
            (ids, shares)
        };
        (ids, if spec.scale == 1.0 { shares } else { shares.scale(spec.scale) })
    }
}

impl Router {
    /// [`Scores::Near`], whatever else the router would do.
    fn near(&self, logits: Tensor, distance: f32) -> (Tensor, Tensor) {
        // Far below every logit, and finite so that nothing becomes NaN.
        const OUT: f32 = -1e30;
        let (mut left, mut ids, mut shares) = (logits.clone(), Vec::new(), Vec::new());
        for _ in 0..self.active {
            let id = left.top_k(1);
            let best = left.take_along(&id);
            let larger = logits.clone().unary(Unary::Abs).binary(Binary::Max, &best);
            let part = logits.clone().unary(Unary::Neg).add(&best).div(&larger);
            let far = Tensor::from_f32(&[distance], [1]).binary(Binary::Less, &part);
            shares.push(left.clone().add(&far.scale(OUT)).softmax().take_along(&id));
            left = left.clone().add(&left.binary(Binary::Equal, &best).scale(OUT));
            ids.push(id);
        }
        (Tensor::concat(ids, 1), Tensor::concat(shares, 1))
    }
}

/// The scores `[N, experts]`, 0 outside the best groups.
fn best_groups(scores: Tensor, groups: Groups) -> Tensor {
    let [rows, experts] = [scores.shape()[0], scores.shape()[1]];
    let grouped = scores.reshape([rows * groups.count, experts / groups.count]);
    let best = grouped.take_along(&grouped.top_k(groups.best)).reduce(Reduce::Sum).reshape([rows, groups.count]);
    let last = best.take_along(&best.top_k(groups.active)).reduce(Reduce::Min);
    let out = best.binary(Binary::Less, &last).reshape([rows * groups.count, 1]);
    let keep = out.unary(Unary::Neg).add(&Tensor::from_f32(&[1.0], [1]));
    grouped.mul(&keep).reshape([rows, experts])
}
