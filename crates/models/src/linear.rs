//! The affine map whose weight is whatever the checkpoint chose, and the table of rows. Quantization and adapters live here
//! and not in models.

use mlxengine_tensor::{Dtype, Precision, Tensor, Weight};

use crate::adapters::{Delta, TableDelta};
use crate::hadamard::Hadamard;

/// `x · Wᵀ + b`.
#[derive(Debug)]
pub struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Tensor>,
    pub(crate) precision: Precision,
    pub(crate) delta: Option<Box<Delta>>,
    /// Of what the weight sees.
    pub(crate) turn: Option<Box<Hadamard>>,
}

impl Linear {
    /// `x [.., inputs] -> [.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &self.turn {
            Some(turn) => self.finished(turn.forward(x).linear(&self.weight, self.precision), x),
            None => self.finished(x.linear(&self.weight, self.precision), x),
        }
    }

    /// What each of several makes of one input, in one step where their weights lie alike.
    pub fn forward_all<const N: usize>(linears: [&Linear; N], x: &Tensor) -> [Tensor; N] {
        if linears.iter().any(|linear| linear.turn.is_some()) {
            return linears.map(|linear| linear.forward(x));
        }
        let products = x.linear_all(linears.map(|linear| &linear.weight), linears[0].precision);
        let mut linears = linears.iter();
        products.map(|y| linears.next().expect("a product for each").finished(y, x))
    }

    /// The product `y` of `x` with the adapter's change and the bias.
    fn finished(&self, mut y: Tensor, x: &Tensor) -> Tensor {
        if let Some(delta) = &self.delta {
            y = delta.add(y, x, self.precision);
        }
        match &self.bias {
            Some(bias) => y.add(bias),
            None => y,
        }
    }

    /// `count` of the outputs, from `start` on.
    pub(crate) fn rows(&self, start: usize, count: usize) -> Linear {
        Linear {
            weight: self.weight.rows(start, count),
            bias: self.bias.as_ref().map(|b| b.clone().slice(0, start, count)),
            precision: self.precision,
            delta: self.delta.as_ref().map(|delta| Box::new(delta.rows(start, count))),
            turn: self.turn.clone(),
        }
    }
}

/// A stack of linear maps, one an expert.
#[derive(Debug)]
pub struct ExpertLinear {
    pub(crate) weight: Weight,
    /// `[experts, 1]`: what multiplies each one's weights, where they have scales of their own.
    pub(crate) factors: Option<Tensor>,
    /// `[experts, outputs]`.
    pub(crate) bias: Option<Tensor>,
    pub(crate) precision: Precision,
    pub(crate) delta: Option<Box<Delta>>,
}

impl ExpertLinear {
    /// Each slot's row by the map of its number: `x [T, E, K] -> [T, E, N]`.
    pub(crate) fn by_slot(&self, x: &Tensor) -> Tensor {
        let [count, slots] = [x.shape()[0], x.shape()[1]];
        let ids: Vec<u32> = (0..count * slots).map(|i| (i % slots) as u32).collect();
        self.forward(x, &Tensor::from_u32(&ids, [count, slots]))
    }

    /// Each slot's row by its expert: `x [T, K]` or `[T, S, K]`, `ids [T, S]`, `-> [T, S, N]`.
    pub fn forward(&self, x: &Tensor, ids: &Tensor) -> Tensor {
        let y = match &self.factors {
            None => x.gather_linear(ids, &self.weight, self.bias.as_ref(), self.precision),
            Some(factors) => {
                let y = x.gather_linear(ids, &self.weight, None, self.precision).mul(&of_slots(factors, ids));
                match &self.bias {
                    Some(bias) => y.add(&of_slots(bias, ids)),
                    None => y,
                }
            }
        };
        match &self.delta {
            Some(delta) => delta.add_experts(y, x, ids, self.precision),
            None => y,
        }
    }
}

/// The row of each slot's expert: `[experts, N]` and `ids [T, S]` give `[T, S, N]`.
fn of_slots(rows: &Tensor, ids: &Tensor) -> Tensor {
    let [tokens, slots] = [ids.shape()[0], ids.shape()[1]];
    let flat = ids.clone().reshape([tokens * slots]);
    Weight::Dense(rows.clone()).take(&flat).reshape([tokens, slots, rows.shape().last()])
}

/// A table of rows, which may serve as the head as well.
#[derive(Debug)]
pub struct Embedding {
    pub(crate) weight: Weight,
    pub(crate) precision: Precision,
    pub(crate) delta: Option<Box<TableDelta>>,
    /// Of the rows; then they are of half precision, and so is what is made of them.
    pub(crate) turn: Option<Box<Hadamard>>,
}

impl Embedding {
    /// The rows that `ids [N]` name, `[N, dim]`.
    pub fn take(&self, ids: &Tensor) -> Tensor {
        let mut rows = self.weight.take(ids);
        if let Some(turn) = &self.turn {
            let half = |rows: &Tensor| rows.cast(Dtype::F16).cast(Dtype::F32);
            rows = half(&turn.backward(&half(&rows)));
        }
        match &self.delta {
            Some(delta) => delta.add(rows, ids),
            None => rows,
        }
    }

    /// `x · Wᵀ`: the table as the head.
    pub fn as_head(&self, x: &Tensor) -> Tensor {
        let turned = self.turn.as_ref().map(|turn| turn.forward(x));
        let y = turned.as_ref().unwrap_or(x).linear(&self.weight, self.precision);
        match &self.delta {
            Some(table) if table.head => table.delta.add(y, x, self.precision),
            _ => y,
        }
    }
}
