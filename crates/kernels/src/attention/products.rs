//! Register tiles of scores and of weighted values: single precision, with keys and values converted on their way from memory.

use super::kernel::BLOCK;
use crate::codec::Codec;
use crate::simd::Simd;

/// Lines of floats at a fixed distance.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) first: *const f32,
    pub(super) stride: usize,
}

impl Lines {
    /// # Safety
    /// The line exists.
    #[inline(always)]
    unsafe fn line(self, i: usize) -> *const f32 {
        // SAFETY: inside or just behind the lines, as the caller promises.
        unsafe { self.first.add(i * self.stride) }
    }
}

/// Lines of keys or values in a storage form, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) first: *const u8,
    pub(super) stride: usize,
    /// Bytes ahead that memory is asked for.
    pub(super) ahead: usize,
}

impl Stored {
    /// The lines from one on.
    #[inline(always)]
    pub(super) fn from(self, i: usize) -> Self {
        Self { first: self.first.wrapping_add(i * self.stride), ..self }
    }

    /// Asks for some bytes of the line that is as far ahead as was chosen.
    #[inline(always)]
    fn prefetch<S: Simd>(self, s: S, bytes: usize) {
        (0..bytes).step_by(64).for_each(|at| s.prefetch_far(self.first.wrapping_add(self.ahead + at)));
    }
}

/// `out[r * BLOCK + c] = Σ q[r] k[c]`. Each product has one accumulator, whatever the block, so blocking leaves no trace.
///
/// # Safety
/// `R` lines of `q`, `N` lines of `k` in the form `C` with `depth` numbers, a multiple of LANES; `R` lines of `out` with `N`
/// floats.
#[inline(always)]
pub(super) unsafe fn dots<S: Simd, C: Codec, const R: usize, const N: usize>(
    s: S,
    q: Lines,
    k: Stored,
    depth: usize,
    out: *mut f32,
) {
    let (mut sums, group) = ([[s.splat(0.0); N]; R], C::group(s, 1.0, 0.0));
    // SAFETY: the caller's promise.
    let queries: [_; R] = std::array::from_fn(|r| unsafe { q.line(r) });
    (0..N).for_each(|c| k.from(c).prefetch(s, depth * C::BITS as usize / 8));
    let mut at = 0;
    while at < depth {
        // SAFETY: the caller's promise.
        unsafe {
            let mut key = [s.splat(0.0); N];
            for (c, key) in key.iter_mut().enumerate() {
                *key = C::load(s, k.from(c).first.add(at * C::BITS as usize / 8), &group);
            }
            for (sums, p) in sums.iter_mut().zip(queries) {
                let query = s.load(p.add(at));
                for (sum, key) in sums.iter_mut().zip(key) {
                    *sum = s.fma(query, key, *sum);
                }
            }
        }
        at += S::LANES;
    }
    if N == 4 && R > 1 {
        for r in (0..R).step_by(4) {
            // Rows that do not exist have the sums of the first.
            let mut all = [sums[0][0]; 16];
            for (i, sum) in all.iter_mut().enumerate().take(4 * (R - r)) {
                *sum = sums[r + i / 4][i % 4];
            }
            let four = s.sum16(all);
            for (i, four) in four.as_chunks::<4>().0.iter().enumerate().take(R - r) {
                // SAFETY: the caller's promise; an array of floats is aligned as its elements are.
                unsafe { out.add((r + i) * BLOCK).cast::<[f32; 4]>().write(*four) };
            }
        }
        return;
    }
    for (r, sums) in sums.iter().enumerate() {
        let (fours, ones) = sums.as_chunks::<4>();
        for (i, &four) in fours.iter().enumerate() {
            // SAFETY: as above.
            unsafe { out.add(r * BLOCK + 4 * i).cast::<[f32; 4]>().write(s.sum4(four)) };
        }
        for (i, &one) in ones.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { out.add(r * BLOCK + 4 * fours.len() + i).write(s.sum(one)) };
        }
    }
}

/// `sums[r] += Σ weights[r][c] values[c]`, `c` rising.
///
/// # Safety
/// `R` lines of weights with `count` columns; `count` lines of values in the form `C` with as many numbers as `sums` has for
/// each of `R` rows, a multiple of LANES.
#[inline(always)]
pub(super) unsafe fn axpy<S: Simd, C: Codec, const R: usize>(
    s: S,
    weights: Lines,
    values: Stored,
    count: usize,
    sums: &mut [f32],
) {
    let line = sums.len() / R;
    let p = sums.as_mut_ptr();
    let mut at = 0;
    // SAFETY: passed on; columns `at` to `at + width` lie in the lines.
    unsafe {
        while at < line {
            let values = Stored { first: values.first.add(at * C::BITS as usize / 8), ..values };
            if at + 4 * S::LANES <= line {
                axpy_columns::<S, C, R, 4>(s, weights, values, count, (p.add(at), line));
                at += 4 * S::LANES;
            } else {
                axpy_columns::<S, C, R, 1>(s, weights, values, count, (p.add(at), line));
                at += S::LANES;
            }
        }
    }
}

/// [`axpy`] for `V` vectors of columns; `sums` is the first and the distance of its lines.
///
/// # Safety
/// As for [`axpy`], with `V * LANES` columns.
#[inline(always)]
unsafe fn axpy_columns<S: Simd, C: Codec, const R: usize, const V: usize>(
    s: S,
    weights: Lines,
    values: Stored,
    count: usize,
    (sums, line): (*mut f32, usize),
) {
    let (mut totals, group) = ([[s.splat(0.0); V]; R], C::group(s, 1.0, 0.0));
    let vector = S::LANES * C::BITS as usize / 8;
    // SAFETY: the caller's promise.
    unsafe {
        for (r, totals) in totals.iter_mut().enumerate() {
            for (v, total) in totals.iter_mut().enumerate() {
                *total = s.load(sums.add(r * line + v * S::LANES));
            }
        }
        for c in 0..count {
            let values = values.from(c);
            values.prefetch(s, V * vector);
            let mut value = [s.splat(0.0); V];
            for (v, value) in value.iter_mut().enumerate() {
                *value = C::load(s, values.first.add(v * vector), &group);
            }
            for (r, totals) in totals.iter_mut().enumerate() {
                let weight = s.splat(weights.line(r).add(c).read());
                for (total, value) in totals.iter_mut().zip(value) {
                    *total = s.fma(weight, value, *total);
                }
            }
        }
        for (r, totals) in totals.into_iter().enumerate() {
            for (v, total) in totals.into_iter().enumerate() {
                s.store(sums.add(r * line + v * S::LANES), total);
            }
        }
    }
}
