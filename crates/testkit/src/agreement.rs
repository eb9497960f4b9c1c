//! How far one model's predictions are from another's.

use crate::log_sum_exp;

/// Predictions for the same positions, compared one by one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agreement {
    /// Positions.
    pub count: usize,
    /// Sum of the Kullback–Leibler divergences, in nats, from the reference to what is compared with it.
    divergence: f64,
    /// Positions where the likeliest token is the same.
    same: usize,
}

impl Agreement {
    /// Compares the logits of one position, the reference first.
    pub fn add(&mut self, p: &[f32], q: &[f32]) {
        let (total_p, total_q) = (log_sum_exp(p), log_sum_exp(q));
        let term = |(p, q): (&f32, &f32)| {
            let p = f64::from(*p) - total_p;
            p.exp() * (p - (f64::from(*q) - total_q))
        };
        let likeliest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
        self.divergence += p.iter().zip(q).map(term).sum::<f64>();
        self.same += usize::from(likeliest(p) == likeliest(q));
        self.count += 1;
    }

    /// The mean divergence.
    pub fn divergence(&self) -> f64 {
        self.divergence / self.count as f64
    }

    /// The part of positions where the likeliest token is the same.
    pub fn same(&self) -> f64 {
        self.same as f64 / self.count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_and_different_predictions() {
        let mut agreement = Agreement::default();
        agreement.add(&[0.0, 1.0, 2.0], &[5.0, 6.0, 7.0]);
        assert!(agreement.divergence().abs() < 1e-6 && agreement.same() == 1.0);
        // From (1/2, 1/2) to (1/4, 3/4): ln 2 - ln(3) / 2.
        agreement.add(&[1.0, 1.0], &[0.0, 3f32.ln()]);
        let want = 0.5 * (2f64.ln() - 0.5 * 3f64.ln());
        assert!((agreement.divergence() - want).abs() < 1e-6, "{} {want}", agreement.divergence());
        agreement.add(&[1.0, 0.0], &[0.0, 1.0]);
        assert!(agreement.same() < 1.0 && agreement.count == 3);
    }
}
