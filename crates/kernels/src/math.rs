//! Elementary functions on vectors.
//!
//! Every function is a pure map of one lane to the same lane, so an element's bits do not depend on its place in a slice. NaN
//! comes out as NaN. Bounds are against the exact value, measured by the tests on dense sweeps; "abs" bounds hold for
//! functions that saturate, "rel" bounds where the result is a normal number. Polynomials are least-maximum fits of our own.

use crate::simd::Simd;

/// Polynomial with coefficients from the constant term up, by Horner's rule.
#[inline(always)]
pub fn poly<S: Simd, const N: usize>(s: S, c: &[f32; N], x: S::F) -> S::F {
    let mut r = s.splat(c[N - 1]);
    for &term in c[..N - 1].iter().rev() {
        r = s.fma(r, x, s.splat(term));
    }
    r
}

/// `x` kept within `lo..=hi`; NaN stays NaN.
#[inline(always)]
fn clamp<S: Simd>(s: S, x: S::F, lo: f32, hi: f32) -> S::F {
    let (lo, hi) = (s.splat(lo), s.splat(hi));
    let x = s.select_lt(x, lo, lo, x);
    s.select_lt(hi, x, hi, x)
}

/// Applies a scalar function to each lane: for functions too rare to deserve a vector form.
#[inline(always)]
pub fn lanes<S: Simd>(s: S, x: S::F, f: impl Fn(f32) -> f32) -> S::F {
    let mut buffer = [0.0f32; 64];
    const { assert!(S::LANES <= 64) };
    // SAFETY: the buffer holds at least LANES floats, as asserted.
    unsafe {
        s.store(buffer.as_mut_ptr(), x);
        for lane in &mut buffer[..S::LANES] {
            *lane = f(*lane);
        }
        s.load(buffer.as_ptr())
    }
}

/// `e^x`, rel 1.2e-7 (2 ULP); gradual underflow to 0 below -87.3, infinity above 88.72, `exp(-inf) = 0`.
///
/// Cody–Waite: `x = n ln 2 + r`, `|r| <= ln 2 / 2`, `e^r = 1 + r + r² P(r)`. The power of two is applied in two factors, so
/// that neither leaves the range of normal exponents while the product may.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const P: [f32; 5] = [0.49999994, 0.1666652, 0.04166846, 0.008368811, 0.0013810903];
    // Below -104 the exact result is less than half the least subnormal, at 89 above the largest number. What vanishes is
    // taken out first: processors take a hundred cycles for a product that underflows, and masked scores are -inf.
    let (all, zero, least, most) = (x, s.splat(0.0), s.splat(-104.0), s.splat(89.0));
    let x = s.select_lt(x, least, zero, x);
    let x = s.select_lt(most, x, most, x);
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts; the first has so few bits that its product with n is exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let e = s.add(s.fma(s.mul(r, r), poly(s, &P, r), r), s.splat(1.0));
    let half = s.round(s.mul(n, s.splat(0.5)));
    s.select_lt(all, least, zero, s.mul(s.mul(e, s.exp2i(half)), s.exp2i(s.sub(n, half))))
}

/// `1 / (1 + e^-x)`, rel 3e-7 for `x > -87`, abs 1e-38 below.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.mul(x, s.splat(-1.0)))))
}

/// Hyperbolic tangent, rel 4e-7 (6 ULP), never beyond ±1: `x P(x²) / Q(x²)`.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    const P: [f32; 6] = [1.0, 0.13680427, 0.0038689617, 2.8019755e-5, 3.061_257_6e-8, -1.222_206_1e-11];
    const Q: [f32; 5] = [1.0, 0.4701376, 0.02724818, 0.00039397314, 1.288199e-6];
    let x = clamp(s, x, -9.02, 9.02);
    let u = s.mul(x, x);
    clamp(s, s.div(s.mul(x, poly(s, &P, u)), poly(s, &Q, u)), -1.0, 1.0)
}

/// Error function, abs 1.5e-7, exactly ±1 beyond ±4.
///
/// Below 0.9 an odd polynomial; above, `1 - e^-q(|x|)`, where the error of the polynomial `q` is damped by `erfc`.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    const SMALL: [f32; 6] =
        [std::f32::consts::FRAC_2_SQRT_PI, -0.37612528, 0.112821646, -0.0267796, 0.00501283, -0.0006094297];
    const LARGE: [f32; 7] =
        [0.00017622278, 1.1277552, 0.6370495, 0.104047045, -0.022282114, 0.0030569655, -0.00019733077];
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let y = s.abs(x);
    let small = s.mul(x, poly(s, &SMALL, s.mul(x, x)));
    let y4 = clamp(s, y, 0.0, 4.0);
    let large = s.sub(one, exp(s, s.mul(poly(s, &LARGE, y4), s.splat(-1.0))));
    let large = s.select_lt(x, zero, s.sub(zero, large), large);
    s.select_lt(y, s.splat(0.9), small, large)
}

/// `x sigmoid(x)`, rel 4e-7 for `x > -87`.
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    s.div(x, s.add(s.splat(1.0), exp(s, s.mul(x, s.splat(-1.0)))))
}

/// `x (1 + erf(x / √2)) / 2`, abs 1.5e-7 `max(1, |x|)`.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    let e = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    let half = s.mul(x, s.splat(0.5));
    s.fma(half, e, half)
}

/// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`, computed as `x sigmoid(2 √(2/π) (x + 0.044715 x³))`, which is the same
/// function without its cancellation; rel 3e-6 for `x > -5`, abs 1e-6 elsewhere below 0.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // -2 √(2/π) and that times 0.044715.
    let slope = s.fma(s.mul(x, x), s.splat(-0.071_354_814), s.splat(-1.595_769));
    s.div(x, s.add(s.splat(1.0), exp(s, s.mul(x, slope))))
}

/// `max(x, 0)`.
#[inline(always)]
pub fn relu<S: Simd>(s: S, x: S::F) -> S::F {
    let zero = s.splat(0.0);
    s.select_lt(x, zero, zero, x)
}

/// `ln(1 + e^x)`, rel 4e-7 for `x > -87`: `max(x, 0) + ln(1 + u)` with `u = e^-|x|`, the logarithm as
/// `2 artanh(u / (2 + u))`.
#[inline(always)]
pub fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    const P: [f32; 4] = [0.33333206, 0.20010856, 0.13999492, 0.14012522];
    let u = exp(s, s.mul(s.abs(x), s.splat(-1.0)));
    let a = s.div(u, s.add(s.splat(2.0), u));
    let a2 = s.mul(a, a);
    let artanh = s.fma(s.mul(a2, poly(s, &P, a2)), a, a);
    s.fma(artanh, s.splat(2.0), relu(s, x))
}

/// Largest integer not above `x`.
#[inline(always)]
pub fn floor<S: Simd>(s: S, x: S::F) -> S::F {
    let r = s.round(x);
    s.select_lt(x, r, s.sub(r, s.splat(1.0)), r)
}

/// The larger of each pair; NaN if either is NaN.
#[inline(always)]
pub fn maximum<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    s.select_lt(a, b, b, s.select_lt(b, a, a, equal_or_nan(s, a, b)))
}

/// The smaller of each pair; NaN if either is NaN.
#[inline(always)]
pub fn minimum<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    s.select_lt(a, b, a, s.select_lt(b, a, b, equal_or_nan(s, a, b)))
}

/// For a pair of which neither is less: their common value, or NaN if they are unordered.
#[inline(always)]
fn equal_or_nan<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    let inf = s.splat(f32::INFINITY);
    // A finite `a` that is not less nor greater than a `b` that is not finite means that `b` is NaN. An infinite `a` equals
    // `b` or meets NaN: the sum is right in both cases.
    s.select_lt(s.abs(a), inf, s.select_lt(s.abs(b), inf, a, b), s.add(a, b))
}

/// 1 where `a < b`, else 0.
#[inline(always)]
pub fn less<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    s.select_lt(a, b, s.splat(1.0), s.splat(0.0))
}

/// 1 where `a == b`, else 0.
#[inline(always)]
pub fn equal<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    let (zero, one, inf) = (s.splat(0.0), s.splat(1.0), s.splat(f32::INFINITY));
    // Neither less: equal or unordered. Equal infinities have the product +inf, NaN none that compares.
    let infinite = s.select_lt(zero, s.mul(a, b), one, zero);
    let same = s.select_lt(s.abs(a), inf, s.select_lt(s.abs(b), inf, one, zero), infinite);
    s.select_lt(a, b, zero, s.select_lt(b, a, zero, same))
}

/// `v` in the first `n` lanes, `other` in the rest.
#[inline(always)]
pub fn keep<S: Simd>(s: S, v: S::F, n: usize, other: S::F) -> S::F {
    const MASK: [f32; 128] = {
        let mut mask = [0.0; 128];
        let mut i = 0;
        while i < 64 {
            mask[i] = 1.0;
            i += 1;
        }
        mask
    };
    const { assert!(S::LANES <= 64) };
    debug_assert!(n <= S::LANES);
    // SAFETY: `n <= LANES <= 64`, so the load stays inside the 128 floats.
    let mask = unsafe { s.load(MASK.as_ptr().add(64 - n)) };
    s.select_lt(s.splat(0.0), mask, v, other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::SimdOp;

    #[derive(Clone, Copy)]
    enum F {
        Exp,
        Sigmoid,
        Tanh,
        Erf,
        Silu,
        Gelu,
        GeluTanh,
        Softplus,
    }

    struct Map<'a>(F, &'a mut [f32]);

    impl SimdOp for Map<'_> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd>(self, s: S) {
            for x in self.1.chunks_exact_mut(S::LANES) {
                // SAFETY: the chunk has LANES elements.
                unsafe {
                    let v = s.load(x.as_ptr());
                    let y = match self.0 {
                        F::Exp => exp(s, v),
                        F::Sigmoid => sigmoid(s, v),
                        F::Tanh => tanh(s, v),
                        F::Erf => erf(s, v),
                        F::Silu => silu(s, v),
                        F::Gelu => gelu(s, v),
                        F::GeluTanh => gelu_tanh(s, v),
                        F::Softplus => softplus(s, v),
                    };
                    s.store(x.as_mut_ptr(), y);
                }
            }
        }
    }

    /// Worst error over a sweep, as `|got - want| / max(floor(x), |want|)`.
    fn worst(f: F, (lo, hi): (f32, f32), exact: impl Fn(f64) -> f64, floor: impl Fn(f64) -> f64) -> (f64, f32) {
        let n = 1 << 18;
        let xs: Vec<f32> = (0..n).map(|i| lo + (hi - lo) * (i as f32 / (n - 1) as f32)).collect();
        let mut worst = (0.0, 0.0);
        for isa in crate::Isa::available() {
            let mut ys = xs.clone();
            isa.run(Map(f, &mut ys));
            for (&x, &y) in xs.iter().zip(&ys) {
                let want = exact(f64::from(x));
                let error = (f64::from(y) - want).abs() / want.abs().max(floor(f64::from(x)));
                if error > worst.0 || error.is_nan() {
                    worst = (error, x);
                }
            }
        }
        worst
    }

    #[track_caller]
    fn within(name: &str, bound: f64, worst: (f64, f32)) {
        assert!(worst.0 <= bound, "{name}: error {:e} at {} exceeds {bound:e}", worst.0, worst.1);
    }

    fn sigmoid64(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn gelu_tanh64(x: f64) -> f64 {
        x * sigmoid64(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x))
    }

    #[test]
    fn dense_sweeps_stay_within_the_stated_bounds() {
        let tiny = |_: f64| 1e-37;
        within("exp", 1.2e-7, worst(F::Exp, (-85.0, 88.7), f64::exp, tiny));
        within("exp subnormal", 2e-45, worst(F::Exp, (-110.0, -87.0), f64::exp, |_| 1.0));
        within("sigmoid", 3e-7, worst(F::Sigmoid, (-85.0, 100.0), sigmoid64, tiny));
        within("tanh", 4e-7, worst(F::Tanh, (-12.0, 12.0), f64::tanh, tiny));
        within("tanh near 0", 4e-7, worst(F::Tanh, (-0.01, 0.01), f64::tanh, tiny));
        within("erf", 1.5e-7, worst(F::Erf, (-5.0, 5.0), libm::erf, |_| 1.0));
        within("silu", 4e-7, worst(F::Silu, (-85.0, 100.0), |x| x * sigmoid64(x), tiny));
        let gelu64 = |x: f64| x * 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        within("gelu", 1.5e-7, worst(F::Gelu, (-20.0, 20.0), gelu64, |x| x.abs().max(1.0)));
        within("gelu_tanh", 3e-6, worst(F::GeluTanh, (-5.0, 20.0), gelu_tanh64, tiny));
        within("gelu_tanh far", 1e-6, worst(F::GeluTanh, (-50.0, 0.0), gelu_tanh64, |_| 1.0));
        let softplus64 = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        within("softplus", 4e-7, worst(F::Softplus, (-85.0, 100.0), softplus64, tiny));
    }

    #[test]
    fn several_sums_have_the_bits_of_one() {
        struct Sums<'a>(&'a [f32; 256]);
        impl SimdOp for Sums<'_> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd>(self, s: S) {
                // SAFETY: sixteen times LANES are at most 256.
                let v: [_; 16] = std::array::from_fn(|i| unsafe { s.load(self.0.as_ptr().add(i * S::LANES)) });
                let each = v.map(|v| s.sum(v).to_bits());
                assert_eq!(s.sum4([v[0], v[1], v[2], v[3]]).map(f32::to_bits), each[..4]);
                assert_eq!(s.sum16(v).map(f32::to_bits), each);
            }
        }
        let mut random = crate::check::Random::new(17);
        for isa in crate::Isa::available() {
            for _ in 0..100 {
                let x = random.floats(256, -1.0, 1.0);
                isa.run(Sums(x.first_chunk().unwrap()));
            }
        }
    }

    #[test]
    fn ends_and_nan() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let cases = [
            (F::Exp, -inf, 0.0),
            (F::Exp, -104.0, 0.0),
            (F::Exp, -1e30, 0.0),
            (F::Exp, 0.0, 1.0),
            (F::Exp, 88.8, inf),
            (F::Exp, inf, inf),
            (F::Sigmoid, -inf, 0.0),
            (F::Sigmoid, inf, 1.0),
            (F::Tanh, -inf, -1.0),
            (F::Tanh, inf, 1.0),
            (F::Tanh, 0.0, 0.0),
            (F::Erf, -inf, -1.0),
            (F::Erf, 4.0, 1.0),
            (F::Silu, -200.0, 0.0),
            (F::Silu, inf, inf),
            (F::Gelu, -1e4, 0.0),
            (F::Gelu, 1e4, 1e4),
            (F::GeluTanh, -1e4, 0.0),
            (F::GeluTanh, 1e4, 1e4),
            (F::Softplus, -inf, 0.0),
            (F::Softplus, 1e4, 1e4),
        ];
        for isa in crate::Isa::available() {
            for (i, &(f, x, want)) in cases.iter().enumerate() {
                let mut y = [x; 64];
                isa.run(Map(f, &mut y));
                assert_eq!(y, [want; 64], "case {i}, {isa:?}");
                let mut y = [nan; 64];
                isa.run(Map(f, &mut y));
                assert!(y.iter().all(|y| y.is_nan()), "case {i}, {isa:?}");
            }
        }
    }
}
