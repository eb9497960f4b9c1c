//! Rotary frequencies, and the tables of cosines and sines that one pass needs.

use std::f32::consts::PI;

use mlxengine_tensor::Tensor;

use crate::spec::{Rope, RopeScaling};

/// Cosines and sines `[N, dims / 2]` of the positions of one pass.
pub(crate) type Tables = (Tensor, Tensor);

/// A rotation ready to use.
#[derive(Debug)]
pub(crate) struct Rotation {
    pub(crate) spec: Rope,
    /// Radians a position, per pair.
    frequencies: Vec<f32>,
    /// Multiplies what is rotated.
    mscale: f32,
}

impl Rotation {
    pub(crate) fn new(spec: &Rope) -> Self {
        let periods = periods(spec.base, spec.dims);
        let (periods, mscale) = match &spec.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => (periods, 1.0),
            RopeScaling::Linear { factor } => (periods.into_iter().map(|p| p * factor).collect(), 1.0),
            RopeScaling::Llama3 { .. } => (periods.into_iter().map(|p| llama3(p, &spec.scaling)).collect(), 1.0),
            RopeScaling::Yarn { mscale, .. } => (yarn(periods, spec), *mscale),
            RopeScaling::Proportional { rotated, factor } => {
                let turns = |(i, p): (usize, f32)| if 2 * i < *rotated { p * factor } else { f32::INFINITY };
                (periods.into_iter().enumerate().map(turns).collect(), 1.0)
            }
            RopeScaling::PerFrequency { factors, mscale } => {
                (periods.iter().zip(factors).map(|(p, f)| p * f).collect(), *mscale)
            }
        };
        Self { spec: spec.clone(), frequencies: periods.into_iter().map(|p| 1.0 / p).collect(), mscale }
    }

    /// The tables for spans of consecutive positions, given as `(first, count)`, one after another.
    pub(crate) fn tables(&self, spans: impl Iterator<Item = (usize, usize)> + Clone) -> Tables {
        let half = self.frequencies.len();
        let rows: usize = spans.clone().map(|(_, count)| count).sum();
        let fill = |function: fn(f32) -> f32| {
            Tensor::f32_with([rows, half], |out| {
                let mut rows = out.chunks_exact_mut(half);
                let sign = if self.spec.backwards { -1.0 } else { 1.0 };
                for (first, count) in spans.clone() {
                    let grown = self.grown(first + count);
                    let frequencies = grown.as_deref().unwrap_or(&self.frequencies);
                    for position in first..first + count {
                        let row = rows.next().expect("one row a position");
                        for (x, frequency) in row.iter_mut().zip(frequencies) {
                            *x = self.mscale * function(position as f32 * frequency * sign);
                        }
                    }
                }
            })
        };
        (fill(f32::cos), fill(f32::sin))
    }

    /// Length of a sequence beyond which all angles of a pass change with its end.
    pub(crate) fn steady(&self) -> Option<usize> {
        match self.spec.scaling {
            RopeScaling::Dynamic { context, .. } => Some(context),
            _ => None,
        }
    }

    /// The frequencies for a sequence of `length`, where they depend on it.
    fn grown(&self, length: usize) -> Option<Vec<f32>> {
        let RopeScaling::Dynamic { factor, context } = self.spec.scaling else { return None };
        let length = length.max(context) as f32;
        let dims = self.spec.dims as f32;
        let growth = factor * length / context as f32 - (factor - 1.0);
        let base = self.spec.base * growth.powf(dims / (dims - 2.0));
        Some(periods(base, self.spec.dims).into_iter().map(|p| 1.0 / p).collect())
    }
}

/// Positions a radian, per pair: `base^(2i / dims)`.
fn periods(base: f32, dims: usize) -> Vec<f32> {
    (0..dims / 2).map(|i| base.powf(2.0 * i as f32 / dims as f32)).collect()
}

fn llama3(period: f32, scaling: &RopeScaling) -> f32 {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, context } = *scaling else { return period };
    let wave = 2.0 * PI * period;
    if wave > context / low_freq_factor {
        period * factor
    } else if wave > context / high_freq_factor {
        let smooth = (context / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
        period / ((1.0 - smooth) / factor + smooth)
    } else {
        period
    }
}

fn yarn(periods: Vec<f32>, spec: &Rope) -> Vec<f32> {
    let RopeScaling::Yarn { factor, context, beta_fast, beta_slow, .. } = spec.scaling else { return periods };
    let dims = spec.dims as f32;
    // The pair whose wave turns `rotations` times in the trained context.
    let pair = |rotations: f32| dims * (context / (rotations * 2.0 * PI)).ln() / (2.0 * spec.base.ln());
    let low = pair(beta_fast).floor().max(0.0);
    let mut high = pair(beta_slow).ceil().min(dims - 1.0);
    if low == high {
        high += 0.001;
    }
    let blend = |(i, period): (usize, f32)| {
        let keep = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
        let stretched = factor * period;
        stretched * period / (stretched * keep + period * (1.0 - keep))
    };
    periods.into_iter().enumerate().map(blend).collect()
}
