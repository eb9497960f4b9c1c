//! RWKV-7's attention without a softmax: a state that forgets by number of a key and corrects itself along other keys than those
//! that values are added by (Peng et al. 2025).

use mlxengine_tensor::{Binary, Reduce, Tensor, Unary};

use super::{Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::linear::Linear;
use crate::spec;
use crate::weights::Scope;

/// Added to the variance of a head's result.
const NORM_EPS: f32 = 64e-5;
/// Logarithm of the least decay: `-exp(-1/2)`.
const LEAST_DECAY: f32 = -0.606_531;
/// Least length that a key is divided by.
const LEAST_LENGTH: f32 = 1e-7;

/// What lies between a position's vector and that of the one before.
#[derive(Debug)]
pub(crate) struct Shift {
    share: Tensor,
}

impl Shift {
    /// `shape` is that of the shares in the checkpoint, one a number.
    pub(crate) fn load(w: &Scope<'_>, name: &str, shape: &[usize]) -> Result<Self> {
        let dim = shape[shape.len() - 1];
        Ok(Self { share: w.floats(name, shape)?.reshape([dim]) })
    }

    /// `x` moved by its share towards what `change` leads to.
    pub(crate) fn forward(&self, x: &Tensor, change: &Tensor) -> Tensor {
        change.clone().mul(&self.share).add(x)
    }

    /// From each row of `x` to the row before it, which for the first lies in array `part` of a slot; moves that on.
    pub(crate) fn change(x: &Tensor, spans: &mut [Span<'_>], (slot, part): (usize, usize)) -> Tensor {
        let before = each_span(spans, [x.clone()], |[x], span| {
            let (carried, count) = (&mut span.state.recurrent(slot)[part], x.shape()[0]);
            let first = std::mem::replace(carried, x.clone().slice(0, count - 1, 1));
            Tensor::concat([first].into_iter().chain((count > 1).then(|| x.slice(0, 0, count - 1))), 0)
        });
        before.binary(Binary::Sub, x)
    }
}

/// A map through a low rank, with a function between.
#[derive(Debug)]
struct LowRank {
    down: Linear,
    act: Option<Unary>,
    up: Linear,
}

impl LowRank {
    fn load(w: &Scope<'_>, [dim, rank, inner]: [usize; 3], act: Option<Unary>, bias: bool) -> Result<Self> {
        let w = w.at("lora");
        Ok(Self { down: w.linear("0", [dim, rank], false)?, act, up: w.linear("2", [rank, inner], bias)? })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let low = self.down.forward(x);
        self.up.forward(&self.act.map_or(low.clone(), |act| low.unary(act)))
    }
}

#[derive(Debug)]
pub(crate) struct Wkv {
    /// Of what each input sees: `r`, decay, key, value, rate, gate.
    shifts: [Shift; 6],
    r: Linear,
    k: Linear,
    v: Linear,
    decay: LowRank,
    rate: LowRank,
    gate: LowRank,
    /// How much of the first layer's values comes in; none in the first layer.
    mix: Option<LowRank>,
    /// Keys to correct along, how keys grow with their rates, and how a position sees itself: `[heads, head_dim]` each.
    factors: [Tensor; 3],
    /// Weight and bias of the norm of each head.
    norm: [Tensor; 2],
    output: Linear,
    slot: usize,
    spec: spec::Wkv,
}

impl Wkv {
    pub(crate) fn load(spec: &spec::Wkv, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let spec::Wkv { heads, head_dim, .. } = *spec;
        let inner = heads * head_dim;
        let shift = |name: &str| Shift::load(w, name, &[1, 1, dim]);
        // Original files store some of them flat.
        let by_head = |w: &Scope<'_>, name: &str| {
            let flat = || Ok(w.vector(name, inner)?.reshape([heads, head_dim]));
            w.floats(name, &[heads, head_dim]).or_else(|e| flat().map_err(|_: crate::Error| e))
        };
        let low = |name: &str, rank, act, bias| LowRank::load(&w.at(name), [dim, rank, inner], act, bias);
        let norm = w.at("g_norm");
        Ok(Self {
            shifts: [shift("x_r")?, shift("x_w")?, shift("x_k")?, shift("x_v")?, shift("x_a")?, shift("x_g")?],
            r: w.linear("r_proj", [dim, inner], false)?,
            k: w.linear("k_proj", [dim, inner], false)?,
            v: w.linear("v_proj", [dim, inner], false)?,
            decay: low("w_lora", spec.decay_rank, Some(Unary::Tanh), true)?,
            rate: low("a_lora", spec.rate_rank, None, true)?,
            gate: low("g_lora", spec.gate_rank, Some(Unary::Sigmoid), false)?,
            mix: spec.value_rank.map(|rank| low("v_lora", rank, None, true)).transpose()?,
            factors: [by_head(w, "k_k")?, by_head(w, "k_a")?, by_head(w, "r_k")?],
            norm: [by_head(&norm, "weight")?, by_head(&norm, "bias")?],
            output: w.linear("o_proj", [inner, dim], false)?,
            slot: plan.slot(spec.slot(dim)),
            spec: *spec,
        })
    }

    /// Where the vector before lies that the layer's unit sees: the slot and its array.
    pub(crate) fn unit_shift(&self) -> (usize, usize) {
        (self.slot, 2)
    }

    /// `first` are the values of the first layer, which leaves them there in each pass.
    pub(crate) fn forward(&self, x: &Tensor, first: &mut Option<Tensor>, spans: &mut [Span<'_>]) -> Tensor {
        let (rows, one) = (x.shape()[0], Tensor::from_f32(&[1.0], [1]));
        let shape = [rows, self.spec.heads, self.spec.head_dim];
        let change = Shift::change(x, spans, (self.slot, 0));
        let [xr, xw, xk, xv, xa, xg] = self.shifts.each_ref().map(|shift| shift.forward(x, &change));
        let (r, k) = (self.r.forward(&xr).reshape(shape), self.k.forward(&xk).reshape(shape));
        let v = self.values(self.v.forward(&xv), &xv, first).reshape(shape);
        let rate = self.rate.forward(&xa).unary(Unary::Sigmoid).reshape(shape);
        let decay = self.decay.forward(&xw).unary(Unary::Sigmoid).scale(LEAST_DECAY).unary(Unary::Exp).reshape(shape);
        let [corrects, grows, own] = &self.factors;
        let along = k.clone().mul(corrects);
        let length = along.clone().unary(Unary::Square).reduce(Reduce::Sum).unary(Unary::Sqrt);
        let along = along.div(&length.binary(Binary::Max, &Tensor::from_f32(&[LEAST_LENGTH], [1])));
        let k = k.mul(&rate.clone().binary(Binary::Sub, &one).mul(grows).add(&one));
        let (a, b) = (along.clone().unary(Unary::Neg), along.mul(&rate));
        let y = each_span(spans, [r.clone(), decay, k.clone(), v.clone(), a, b], |parts, span| {
            Tensor::wkv_scan(parts, &mut span.state.recurrent(self.slot)[1])
        });
        let y = y.layer_norm(None, None, NORM_EPS).mul(&self.norm[0]).add(&self.norm[1]);
        let seen = r.mul(&k).mul(own).reduce(Reduce::Sum).mul(&v);
        let y = y.add(&seen).reshape([rows, self.spec.heads * self.spec.head_dim]);
        self.output.forward(&y.mul(&self.gate.forward(&xg)))
    }

    /// The values `v`, of which later layers take a part from the first.
    fn values(&self, v: Tensor, x: &Tensor, first: &mut Option<Tensor>) -> Tensor {
        match (&self.mix, first) {
            (Some(mix), Some(first)) => {
                first.clone().binary(Binary::Sub, &v).mul(&mix.forward(x).unary(Unary::Sigmoid)).add(&v)
            }
            (_, first) => first.insert(v).clone(),
        }
    }
}
