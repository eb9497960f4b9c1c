//! Filters on log-probabilities: what they remove becomes -inf, the rest stays as it is.
//!
//! None of them sorts the vocabulary. All expect entries without NaN.

use super::math;

/// Reused memory of the filters.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    values: Vec<f32>,
}

const REMOVED: f32 = f32::NEG_INFINITY;

/// Keeps the `k` most likely entries; of equal ones those with the lower ids. `k` of 0 or of the whole size keeps all.
pub fn top_k(logprobs: &mut [f32], k: usize, scratch: &mut Scratch) {
    if k == 0 || k >= logprobs.len() {
        return;
    }
    let (threshold, mut ties) = kth_largest(logprobs, k, scratch);
    for v in logprobs {
        let tie = *v == threshold && ties > 0;
        ties -= usize::from(tie);
        if !(tie || *v > threshold) {
            *v = REMOVED;
        }
    }
}

/// Keeps entries that are at least `min_p` times as likely as the likeliest, and `keep` entries in any case.
pub fn min_p(logprobs: &mut [f32], min_p: f32, keep: usize, scratch: &mut Scratch) {
    if min_p == 0.0 {
        return;
    }
    let floor = math::max(logprobs) + f64::from(min_p).ln() as f32;
    let (kept_anyway, mut ties) = match keep {
        0 | 1 => (f32::INFINITY, 0),
        k if k >= logprobs.len() => return,
        k => kth_largest(logprobs, k, scratch),
    };
    for v in logprobs {
        let tie = *v == kept_anyway && ties > 0;
        ties -= usize::from(tie);
        if *v < floor && !(tie || *v > kept_anyway) {
            *v = REMOVED;
        }
    }
}

/// Keeps the likeliest entries whose probability above them is less than `top_p` of the whole, and all that are equal
/// to the last of these. Values outside `0 < top_p < 1` keep all.
pub fn top_p(logprobs: &mut [f32], top_p: f32, scratch: &mut Scratch) {
    if !(top_p > 0.0 && top_p < 1.0) {
        return;
    }
    let threshold = nucleus_threshold(logprobs, top_p, scratch);
    for v in logprobs {
        if *v < threshold {
            *v = REMOVED;
        }
    }
}

/// Removes all entries likelier than `threshold` but the least likely of them ("exclude top choices"); ids in
/// `protected` stay.
pub fn xtc(logprobs: &mut [f32], threshold: f32, protected: &[u32]) {
    let total = math::log_sum_exp(logprobs);
    let floor = f64::from(total) + f64::from(threshold).ln();
    let above = logprobs.iter().copied().filter(|v| f64::from(*v) > floor);
    let least = above.fold(f32::INFINITY, f32::min);
    for (id, v) in logprobs.iter_mut().enumerate() {
        if *v > least && !protected.iter().any(|p| *p as usize == id) {
            *v = REMOVED;
        }
    }
}

/// The `n` largest entries with their indices, largest first, equal ones by index.
pub fn largest(values: &[f32], n: usize, scratch: &mut Scratch) -> Vec<(u32, f32)> {
    if n == 0 {
        return Vec::new();
    }
    let (threshold, mut ties) =
        if n >= values.len() { (f32::NEG_INFINITY, usize::MAX) } else { kth_largest(values, n, scratch) };
    let mut top = Vec::with_capacity(n.min(values.len()));
    for (id, v) in values.iter().enumerate() {
        let tie = *v == threshold && ties > 0;
        ties -= usize::from(tie);
        if tie || *v > threshold {
            top.push((id as u32, *v));
        }
    }
    top.sort_by(|a, b| b.1.total_cmp(&a.1));
    top
}

/// The value of rank `k` from above, and how many entries equal to it belong to the first `k`.
///
/// One pass over a buffer of candidates, which is cut to `k` when it is full: few entries get past the threshold.
fn kth_largest(values: &[f32], k: usize, scratch: &mut Scratch) -> (f32, usize) {
    let candidates = &mut scratch.values;
    candidates.clear();
    let full = 2 * k + 64;
    let mut threshold = f32::NEG_INFINITY;
    for v in values {
        if *v > threshold || candidates.len() < k {
            candidates.push(*v);
            if candidates.len() == full {
                candidates.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
                candidates.truncate(k);
                threshold = candidates[k - 1];
            }
        }
    }
    candidates.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let kth = candidates[k - 1];
    let greater = candidates.iter().filter(|v| **v > kth).count();
    (kth, k - greater)
}

const BUCKETS: usize = 256;
/// Candidates are sorted once there are no more than this.
const SORTABLE: usize = 512;

/// Masses of entries by value, from the largest value down.
struct Histogram {
    top: f32,
    per_unit: f32,
    mass: [f64; BUCKETS],
}

impl Histogram {
    fn bucket(&self, v: f32) -> usize {
        (((self.top - v) * self.per_unit) as usize).min(BUCKETS - 1)
    }

    /// Masses are relative to `e^max`, for they only matter in proportion.
    fn new(values: &[f32], top: f32, width: f32, max: f32) -> Self {
        let mut histogram = Histogram { top, per_unit: BUCKETS as f32 / width, mass: [0.0; BUCKETS] };
        for v in values {
            histogram.mass[histogram.bucket(*v)] += f64::from(math::exp(*v - max));
        }
        histogram
    }

    /// The bucket in which the sum from above, begun at `above`, reaches `limit`, and the sum before it.
    fn crossing(&self, mut above: f64, limit: f64) -> Option<(usize, f64)> {
        for (bucket, mass) in self.mass.iter().enumerate() {
            if above + mass >= limit {
                return Some((bucket, above));
            }
            above += mass;
        }
        None
    }
}

/// The smallest value that nucleus sampling keeps.
///
/// The limit is mostly reached among the entries near the maximum, and only where it is not are all looked at. The
/// place where the cumulated probability crosses the limit lies in one bucket of values; that bucket alone is divided
/// again until it is small enough to sort.
fn nucleus_threshold(logprobs: &[f32], top_p: f32, scratch: &mut Scratch) -> f32 {
    let max = math::max(logprobs);
    if max == REMOVED {
        return max;
    }
    let limit = f64::from(top_p) * math::sum_exp(logprobs, max, 1.0);
    let candidates = &mut scratch.values;
    for floor in [max - 8.0, REMOVED] {
        candidates.clear();
        candidates.extend(logprobs.iter().copied().filter(|v| *v > floor));
        if math::sum_exp(candidates, max, 1.0) > limit {
            break;
        }
    }
    let mut above = 0.0;
    while candidates.len() > SORTABLE {
        let (top, bottom) = (math::max(candidates), candidates.iter().copied().fold(f32::INFINITY, f32::min));
        let histogram = Histogram::new(candidates, top, top - bottom, max);
        let Some((bucket, before)) = histogram.crossing(above, limit) else { break };
        let count = candidates.len();
        candidates.retain(|v| histogram.bucket(*v) == bucket);
        above = before;
        // Equal values are kept or removed together.
        if candidates.len() == count {
            break;
        }
    }
    candidates.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut threshold = REMOVED;
    for v in candidates.iter() {
        if above >= limit {
            break;
        }
        threshold = *v;
        above += f64::from(math::exp(*v - max));
    }
    threshold
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(values: &[f32]) -> Vec<usize> {
        values.iter().enumerate().filter(|(_, v)| v.is_finite()).map(|(i, _)| i).collect()
    }

    fn order(values: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
        order
    }

    /// By sorting everything.
    fn top_p_reference(values: &[f32], p: f32) -> Vec<usize> {
        let probs: Vec<f64> = values.iter().map(|v| f64::from(*v).exp()).collect();
        let limit = f64::from(p) * probs.iter().sum::<f64>();
        let (mut above, mut threshold) = (0.0, f32::INFINITY);
        for i in order(values) {
            if above >= limit {
                break;
            }
            threshold = values[i];
            above += probs[i];
        }
        (0..values.len()).filter(|i| values[*i] >= threshold).collect()
    }

    proptest! {
        #[test]
        fn top_k_equals_sorting(values in prop::collection::vec(-8i8..8, 1..300), k in 1usize..320) {
            let mut filtered: Vec<f32> = values.iter().map(|v| f32::from(*v)).collect();
            let mut want = order(&filtered);
            want.truncate(k);
            let top = largest(&filtered, k, &mut Scratch::default());
            prop_assert_eq!(top.iter().map(|t| t.0 as usize).collect::<Vec<_>>(), want.clone());
            want.sort_unstable();
            top_k(&mut filtered, k, &mut Scratch::default());
            prop_assert_eq!(kept(&filtered), want);
        }

        #[test]
        fn top_p_equals_sorting(
            seed in 0u32..1000, n in 1usize..3000, spread in 0.001f32..30.0, p in 0.01f32..0.999,
        ) {
            let noise = |i: usize| ((i as f32 + 1.0) * (seed as f32 + 0.5) * 12.9898).sin() * 43758.547;
            let mut values: Vec<f32> = (0..n).map(|i| (noise(i) - noise(i).floor()) * -spread).collect();
            let want = top_p_reference(&values, p);
            top_p(&mut values, p, &mut Scratch::default());
            let got = kept(&values);
            // Sums in another order may decide one entry on the border differently.
            prop_assert!(got.len().abs_diff(want.len()) <= 1, "{} {}", got.len(), want.len());
        }
    }

    #[test]
    fn equal_values_stay_together_in_a_nucleus() {
        let mut values = vec![-5.0; 2000];
        values[7] = -1.0;
        top_p(&mut values, 0.1, &mut Scratch::default());
        assert_eq!(kept(&values).len(), 2000);
        let mut values = vec![f32::NEG_INFINITY; 2000];
        values[3] = -0.5;
        values[4] = -3.0;
        top_p(&mut values, 0.9, &mut Scratch::default());
        assert_eq!(kept(&values), [3]);
    }

    #[test]
    fn min_p_keeps_a_number_anyway() {
        let values = [0.0, -1.0, -2.0, -3.0, -3.0];
        for (p, keep, want) in [(0.5, 1, 1), (0.2, 1, 2), (0.9, 3, 3), (0.9, 4, 4), (0.9, 9, 5), (0.0, 1, 5)] {
            let mut filtered = values;
            min_p(&mut filtered, p, keep, &mut Scratch::default());
            assert_eq!(kept(&filtered).len(), want, "{p} {keep}");
        }
    }

    #[test]
    fn xtc_leaves_the_least_of_the_likely() {
        let values = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        for (threshold, protected, want) in [
            (0.15, &[][..], &[2usize, 3][..]),
            (0.15, &[0], &[0, 2, 3]),
            (0.35, &[], &[0, 1, 2, 3]),
            (0.5, &[], &[0, 1, 2, 3]),
        ] {
            let mut filtered = values;
            xtc(&mut filtered, threshold, protected);
            assert_eq!(kept(&filtered), want);
        }
    }
}
