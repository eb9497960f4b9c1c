//! Several residual streams of which each half of a layer reads a mix and writes to all: hyper-connections (Zhu et al. 2024)
//! whose mixes across streams are doubly stochastic (Xie et al. 2026).

use mlxengine_tensor::{Tensor, Unary};

use crate::weights::Scope;
use crate::{Error, Result};

/// How streams are mixed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    /// How many there are.
    pub(crate) count: usize,
    /// How often rows and columns of a mix are made to sum to 1.
    pub(crate) iterations: usize,
    /// Added to shares and sums.
    pub(crate) eps: f32,
    /// Added to the mean square of all streams.
    pub(crate) norm_eps: f32,
}

impl Streams {
    /// The same, if there can be such streams.
    ///
    /// # Errors
    /// For numbers that no model has.
    pub(crate) fn checked(self) -> Result<Self> {
        if (1..=64).contains(&self.count) && self.iterations <= 1000 {
            return Ok(self);
        }
        let message = format!("{} residual streams, balanced {} times", self.count, self.iterations);
        Err(Error::invalid(format!("config.json: {message}, which no model has")))
    }
}

/// What finds the mixes of a half of a layer.
#[derive(Debug)]
pub(crate) struct Connection {
    mix: Tensor,
    scale: Tensor,
    base: Tensor,
    spec: Streams,
}

/// The mixes of each row.
pub(crate) struct Mixes {
    /// What the next half reads of each stream, `[N, count]`.
    pub(crate) read: Tensor,
    /// What each stream takes of the half's result, `[N, count]`.
    write: Tensor,
    /// What each stream passes on to each, `[N, from, to]`.
    across: Tensor,
}

impl Connection {
    pub(crate) fn load(spec: Streams, w: &Scope<'_>, dim: usize) -> Result<Self> {
        let size = (2 + spec.count) * spec.count;
        let scale = w.vector("scale", 3)?;
        let parts = [spec.count, spec.count, spec.count * spec.count];
        let spread = (0..3).flat_map(|i| std::iter::repeat_n(scale.f32s()[i], parts[i]));
        Ok(Self {
            mix: w.floats("fn", &[size, spec.count * dim])?,
            scale: Tensor::from_f32(&spread.collect::<Vec<_>>(), [size]),
            base: w.vector("base", size)?,
            spec,
        })
    }

    /// The mixes of `streams [N, count, dim]`.
    pub(crate) fn mixes(&self, streams: &Tensor) -> Mixes {
        let [rows, count, dim] = [streams.shape()[0], streams.shape()[1], streams.shape()[2]];
        let flat = streams.clone().reshape([rows, count * dim]).rms_norm(None, self.spec.norm_eps);
        let all = flat.matmul(&self.mix, true).mul(&self.scale).add(&self.base);
        let eps = Tensor::from_f32(&[self.spec.eps], [1]);
        let across = all.clone().slice(1, 2 * count, count * count).reshape([rows, count, count]);
        let mut shares = across.softmax().add(&eps).f32s().to_vec();
        shares.chunks_exact_mut(count * count).for_each(|mix| self.balance(mix));
        Mixes {
            read: all.clone().slice(1, 0, count).unary(Unary::Sigmoid).add(&eps),
            write: all.slice(1, count, count).unary(Unary::Sigmoid).scale(2.0),
            across: Tensor::from_f32(&shares, [rows, count, count]),
        }
    }

    /// Sinkhorn's iterations on a square: columns, then rows and columns in turn.
    fn balance(&self, mix: &mut [f32]) {
        let Streams { count, iterations, eps, .. } = self.spec;
        let mut divide = |start: usize, step: usize| {
            let places = (0..count).map(|i| start + i * step);
            let sum = places.clone().map(|i| mix[i]).sum::<f32>() + eps;
            places.for_each(|i| mix[i] /= sum);
        };
        (0..count).for_each(|column| divide(column, count));
        for _ in 1..iterations {
            (0..count).for_each(|row| divide(row * count, 1));
            (0..count).for_each(|column| divide(column, count));
        }
    }
}

/// What a half of a layer reads, `[N, dim]`: each stream by its share.
pub(crate) fn read(streams: &Tensor, shares: &Tensor) -> Tensor {
    let [rows, count, dim] = [streams.shape()[0], streams.shape()[1], streams.shape()[2]];
    shares.clone().reshape([rows, 1, count]).matmul(streams, false).reshape([rows, dim])
}

impl Mixes {
    /// The streams after a half of a layer that gave `y [N, dim]`.
    pub(crate) fn write(&self, y: Tensor, streams: &Tensor) -> Tensor {
        let [rows, count, dim] = [streams.shape()[0], streams.shape()[1], streams.shape()[2]];
        let new = self.write.clone().reshape([rows, count, 1]).matmul(&y.reshape([rows, 1, dim]), false);
        new.add(&self.across.clone().permute(&[0, 2, 1]).matmul(streams, false))
    }
}
