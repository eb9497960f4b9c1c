//! A change of low rank beside the weight that it belongs to, and both as one.

use mlxengine_tensor::{Dtype, Precision, Reduce, Tensor, Unary, Weight};

use super::LowRank;
use crate::{Error, Result};

/// Rows of a matrix that are worked on at once where the whole might not fit in memory twice.
const ROWS: usize = 1024;

/// What a linear layer computes beside its weight: `factor · (W x + scale · up down x)`.
#[derive(Clone, Debug)]
pub(crate) struct Delta {
    /// `[rank, inputs]`, or one such matrix an expert.
    down: Weight,
    /// `[outputs, rank]`, or one such matrix an expert.
    up: Weight,
    scale: f32,
    /// Of each output.
    factor: Option<Tensor>,
}

impl Delta {
    /// The change to a linear layer.
    pub(crate) fn of_linear(change: &LowRank, weight: &Weight, path: &str) -> Result<Self> {
        Self::turned(change, &weight.shape(), path)?.with_magnitude(change, weight, path)
    }

    /// The difference to a linear layer `[outputs, inputs]` whose weight lies in pieces.
    pub(crate) fn difference(change: &LowRank, shape: [usize; 2], path: &str) -> Result<Tensor> {
        if change.magnitude.is_some() {
            return Err(Error::unsupported(format!("`{path}`: DoRA of a layer that lies in pieces is not supported")));
        }
        Ok(Self::turned(change, &shape, path)?.whole())
    }

    fn turned(change: &LowRank, shape: &[usize], path: &str) -> Result<Self> {
        let rank = change.a.shape().last();
        change.expect(path, &[shape[1], rank], &[rank, shape[0]])?;
        let [down, up] = [&change.a, &change.b].map(|t| Weight::Dense(t.clone().permute(&[1, 0])));
        Ok(Self { down, up, scale: change.scale, factor: None })
    }

    /// The change to a table of rows.
    pub(crate) fn of_table(change: &LowRank, weight: &Weight, path: &str) -> Result<Self> {
        let (shape, rank) = (weight.shape(), change.a.shape().last());
        change.expect(path, &[shape[0], rank], &[rank, shape[1]])?;
        let [down, up] = [&change.b, &change.a].map(|t| Weight::Dense(t.clone()));
        Self { down, up, scale: change.scale, factor: None }.with_magnitude(change, weight, path)
    }

    /// The changes to a stack of linear layers `[experts, outputs, inputs]`.
    pub(crate) fn of_experts(change: &LowRank, shape: [usize; 3], path: &str) -> Result<Self> {
        let [experts, outputs, inputs] = shape;
        let rank = change.a.shape().get(1).copied().unwrap_or(0);
        change.expect(path, &[experts, rank, inputs], &[experts, outputs, rank])?;
        if change.magnitude.is_some() {
            return Err(Error::unsupported(format!("`{path}`: DoRA of experts is not supported")));
        }
        let [down, up] = [&change.a, &change.b].map(|t| Weight::Dense(t.clone()));
        Ok(Self { down, up, scale: change.scale, factor: None })
    }

    fn with_magnitude(mut self, change: &LowRank, weight: &Weight, path: &str) -> Result<Self> {
        let Some(magnitude) = &change.magnitude else { return Ok(self) };
        let rows = weight.shape()[0];
        if magnitude.shape().elements() != rows {
            let found = magnitude.spec();
            return Err(Error::invalid(format!("`{path}` has magnitudes {found} for {rows} outputs")));
        }
        let lengths = merged(weight, &self, |w| w.unary(Unary::Square).reduce(Reduce::Sum).unary(Unary::Sqrt));
        let magnitude = magnitude.to_f32().expect("floats convert").reshape([rows]);
        self.factor = Some(magnitude.div(&lengths.reshape([rows])));
        Ok(self)
    }

    /// What the layer gives for `x`, from what its weight alone gives.
    pub(crate) fn add(&self, y: Tensor, x: &Tensor, precision: Precision) -> Tensor {
        let y = y.add(&x.linear(&self.down, precision).scale(self.scale).linear(&self.up, precision));
        match &self.factor {
            Some(factor) => y.mul(factor),
            None => y,
        }
    }

    /// The same of experts: `x` and `ids` as in [`crate::linear::ExpertLinear::forward`].
    pub(crate) fn add_experts(&self, y: Tensor, x: &Tensor, ids: &Tensor, precision: Precision) -> Tensor {
        let low = x.gather_linear(ids, &self.down, None, precision).scale(self.scale);
        y.add(&low.gather_linear(ids, &self.up, None, precision))
    }

    /// The change to some of the outputs alone.
    pub(crate) fn rows(&self, start: usize, count: usize) -> Self {
        let factor = self.factor.as_ref().map(|f| f.clone().slice(0, start, count));
        Self { down: self.down.clone(), up: self.up.rows(start, count), scale: self.scale, factor }
    }

    /// The change to one expert of a stack.
    pub(crate) fn part(&self, index: usize) -> Self {
        Self { down: self.down.part(index), up: self.up.part(index), scale: self.scale, factor: None }
    }

    /// The difference `[outputs, inputs]` that the low rank makes, before any factor.
    pub(crate) fn whole(&self) -> Tensor {
        plain(&self.up).product(&self.down).scale(self.scale)
    }
}

/// The change to a table, and to the head if the table serves as one.
#[derive(Clone, Debug)]
pub(crate) struct TableDelta {
    pub(crate) delta: Delta,
    /// Whether the head changes with it.
    pub(crate) head: bool,
}

impl TableDelta {
    /// The rows that ids name, from those of the table alone.
    pub(crate) fn add(&self, rows: Tensor, ids: &Tensor) -> Tensor {
        let Delta { down, up, scale, factor } = &self.delta;
        let rows = rows.add(&up.take(ids).scale(*scale).product(down));
        match factor {
            Some(factor) => {
                let column = Weight::Dense(factor.clone().reshape([factor.shape().elements(), 1]));
                rows.mul(&column.take(ids))
            }
            None => rows,
        }
    }
}

impl LowRank {
    fn expect(&self, path: &str, a: &[usize], b: &[usize]) -> Result<()> {
        if self.a.shape()[..] == *a && self.b.shape()[..] == *b && self.a.shape().elements() > 0 {
            return Ok(());
        }
        let (a, b) = (self.a.spec(), self.b.spec());
        Err(Error::invalid(format!(
            "the change to `{path}` is {a} and {b}, which do not fit: it was trained for another model"
        )))
    }
}

/// A weight as plain numbers.
pub(crate) fn plain(weight: &Weight) -> Tensor {
    match weight {
        Weight::Dense(tensor) => tensor.to_f32().expect("weights are floats"),
        Weight::Quantized(q) => q.dequantize(Dtype::F32),
    }
}

/// What `then` makes of a matrix with its change, some rows at a time.
pub(crate) fn merged(weight: &Weight, delta: &Delta, then: impl Fn(Tensor) -> Tensor) -> Tensor {
    let rows = weight.shape()[0];
    let parts = (0..rows).step_by(ROWS).map(|start| {
        let count = ROWS.min(rows - start);
        let delta = delta.rows(start, count);
        let sum = plain(&weight.rows(start, count)).add(&delta.whole());
        then(match &delta.factor {
            Some(factor) => sum.mul(&factor.clone().reshape([count, 1])),
            None => sum,
        })
    });
    Tensor::concat(parts, 0)
}
