//! Element-by-element arithmetic, in place.
//!
//! An element's bits depend on its operands alone: tails of a slice run the same vector code on a part of a vector.

use crate::simd::{Simd, SimdOp};
use crate::split::{self, GRAIN};
use crate::{Cpu, math};

/// A function of one number. Error bounds stand with the functions of [`crate::math`]; logarithm, sine, cosine and power are
/// computed lane by lane by `libm` (1 ULP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// `-x`.
    Neg,
    /// `|x|`.
    Abs,
    /// `e^x`.
    Exp,
    /// `ln x`.
    Log,
    /// `√x`.
    Sqrt,
    /// `1 / √x`.
    Rsqrt,
    /// `1 / x`.
    Reciprocal,
    /// `x²`.
    Square,
    /// `sin x`, in radians.
    Sin,
    /// `cos x`, in radians.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// Error function.
    Erf,
    /// `x sigmoid(x)`.
    Silu,
    /// `x Φ(x)`, with the exact error function.
    Gelu,
    /// `x Φ(x)`, with the approximation by tanh.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
    /// `ln(1 + e^x)`.
    Softplus,
    /// Largest integer not above `x`.
    Floor,
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// The larger; NaN if either is NaN.
    Max,
    /// The smaller; NaN if either is NaN.
    Min,
    /// `a^b`.
    Pow,
    /// 1 where `a < b`, else 0.
    Less,
    /// 1 where `a == b`, else 0.
    Equal,
}

/// A function of one vector, as a type: unlike a closure, its method can demand to be inlined, which is what puts the
/// intrinsics inside the function that has the instruction set's features.
trait Map1: Copy {
    fn at<S: Simd>(self, s: S, x: S::F) -> S::F;
}

/// Likewise, of two vectors.
trait Map2: Copy {
    fn at<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F;
}

macro_rules! map1 {
    ($($name:ident = |$s:ident, $x:ident| $body:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Map1 for $name {
            #[inline(always)]
            fn at<S: Simd>(self, $s: S, $x: S::F) -> S::F {
                $body
            }
        }
    )*};
}

macro_rules! map2 {
    ($($name:ident = |$s:ident, $a:ident, $b:ident| $body:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Map2 for $name {
            #[inline(always)]
            fn at<S: Simd>(self, $s: S, $a: S::F, $b: S::F) -> S::F {
                $body
            }
        }
    )*};
}

map1! {
    Neg = |s, x| s.mul(x, s.splat(-1.0));
    Abs = |s, x| s.abs(x);
    Exp = |s, x| math::exp(s, x);
    Log = |s, x| math::lanes(s, x, libm::logf);
    Sqrt = |s, x| s.sqrt(x);
    Rsqrt = |s, x| s.div(s.splat(1.0), s.sqrt(x));
    Reciprocal = |s, x| s.div(s.splat(1.0), x);
    Square = |s, x| s.mul(x, x);
    Sin = |s, x| math::lanes(s, x, libm::sinf);
    Cos = |s, x| math::lanes(s, x, libm::cosf);
    Tanh = |s, x| math::tanh(s, x);
    Sigmoid = |s, x| math::sigmoid(s, x);
    Erf = |s, x| math::erf(s, x);
    Silu = |s, x| math::silu(s, x);
    Gelu = |s, x| math::gelu(s, x);
    GeluTanh = |s, x| math::gelu_tanh(s, x);
    Relu = |s, x| math::relu(s, x);
    Relu2 = |s, x| { let r = math::relu(s, x); s.mul(r, r) };
    Softplus = |s, x| math::softplus(s, x);
    Floor = |s, x| math::floor(s, x);
}

map2! {
    Add = |s, a, b| s.add(a, b);
    Sub = |s, a, b| s.sub(a, b);
    Mul = |s, a, b| s.mul(a, b);
    Div = |s, a, b| s.div(a, b);
    Max = |s, a, b| math::maximum(s, a, b);
    Min = |s, a, b| math::minimum(s, a, b);
    Pow = |s, a, b| power(s, a, b);
    Less = |s, a, b| math::less(s, a, b);
    Equal = |s, a, b| math::equal(s, a, b);
}

#[inline(always)]
fn power<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    const { assert!(S::LANES <= 64) };
    let mut exponents = [0.0f32; 64];
    // SAFETY: the buffer holds at least LANES floats, as asserted.
    unsafe { s.store(exponents.as_mut_ptr(), b) };
    let next = std::cell::Cell::new(0);
    math::lanes(s, a, |a| libm::powf(a, exponents[next.replace(next.get() + 1)]))
}

struct UnaryOp<'a>(Unary, &'a mut [f32]);

impl SimdOp for UnaryOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        macro_rules! arms {
            ($($name:ident)*) => { match self.0 { $(Unary::$name => map(s, self.1, $name),)* } };
        }
        arms!(Neg Abs Exp Log Sqrt Rsqrt Reciprocal Square Sin Cos Tanh Sigmoid Erf Silu Gelu GeluTanh Relu Relu2
            Softplus Floor)
    }
}

#[inline(always)]
fn map<S: Simd>(s: S, x: &mut [f32], f: impl Map1) {
    let mut vectors = x.chunks_exact_mut(S::LANES);
    for part in &mut vectors {
        let p = part.as_mut_ptr();
        // SAFETY: the part has LANES elements.
        unsafe { s.store(p, f.at(s, s.load(p))) };
    }
    let tail = vectors.into_remainder();
    if !tail.is_empty() {
        let (p, n) = (tail.as_mut_ptr(), tail.len());
        // SAFETY: the tail has n < LANES elements.
        unsafe { s.store_part(p, f.at(s, s.load_part(p, n)), n) };
    }
}

#[inline(always)]
fn zip<S: Simd>(s: S, a: &mut [f32], b: &[f32], f: impl Map2) {
    debug_assert_eq!(a.len(), b.len());
    let mut left = a.chunks_exact_mut(S::LANES);
    let mut right = b.chunks_exact(S::LANES);
    for (a, b) in (&mut left).zip(&mut right) {
        let p = a.as_mut_ptr();
        // SAFETY: both parts have LANES elements.
        unsafe { s.store(p, f.at(s, s.load(p), s.load(b.as_ptr()))) };
    }
    let (a, b) = (left.into_remainder(), right.remainder());
    let n = a.len().min(b.len());
    if n > 0 {
        let p = a.as_mut_ptr();
        // SAFETY: both tails have at least n < LANES elements.
        unsafe { s.store_part(p, f.at(s, s.load_part(p, n), s.load_part(b.as_ptr(), n)), n) };
    }
}

#[inline(always)]
fn zip_scalar<S: Simd>(s: S, a: &mut [f32], b: f32, f: impl Map2) {
    #[derive(Clone, Copy)]
    struct With<F>(F, f32);
    impl<F: Map2> Map1 for With<F> {
        #[inline(always)]
        fn at<S: Simd>(self, s: S, x: S::F) -> S::F {
            self.0.at(s, x, s.splat(self.1))
        }
    }
    map(s, a, With(f, b));
}

/// The second operand of a binary operation.
#[derive(Clone, Copy)]
enum Operand<'a> {
    /// One number per element.
    Same(&'a [f32]),
    /// One number per element of the last axis.
    Row(&'a [f32]),
    /// One number.
    Scalar(f32),
    /// One number per row of the given length.
    Column(usize, &'a [f32]),
}

struct BinaryOp<'a>(Binary, &'a mut [f32], Operand<'a>);

impl SimdOp for BinaryOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        macro_rules! arms {
            ($($name:ident)*) => { match self.0 { $(Binary::$name => broadcast(s, self.1, self.2, $name),)* } };
        }
        arms!(Add Sub Mul Div Max Min Pow Less Equal)
    }
}

#[inline(always)]
fn broadcast<S: Simd>(s: S, a: &mut [f32], b: Operand<'_>, f: impl Map2) {
    match b {
        Operand::Same(b) => zip(s, a, b, f),
        Operand::Row(row) => a.chunks_exact_mut(row.len()).for_each(|a| zip(s, a, row, f)),
        Operand::Scalar(b) => zip_scalar(s, a, b, f),
        Operand::Column(dim, column) => {
            a.chunks_exact_mut(dim).zip(column).for_each(|(a, &b)| zip_scalar(s, a, b, f));
        }
    }
}

/// `x = op(x)`.
pub fn unary(cpu: &Cpu, op: Unary, x: &mut [f32]) {
    split::chunks(cpu, x, GRAIN, |_, x| cpu.isa.run(UnaryOp(op, x)));
}

/// `a = op(a, b)` for slices of equal lengths.
pub fn binary(cpu: &Cpu, op: Binary, a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "operands of {op:?} have the same length");
    split::chunks(cpu, a, GRAIN, |at, a| {
        let b = &b[at..at + a.len()];
        cpu.isa.run(BinaryOp(op, a, Operand::Same(b)));
    });
}

/// `a = op(a, row)` for each row of `a`: `row` repeats along the last axis.
pub fn binary_row(cpu: &Cpu, op: Binary, a: &mut [f32], row: &[f32]) {
    if a.is_empty() {
        return;
    }
    assert!(!row.is_empty() && a.len().is_multiple_of(row.len()), "{} is no number of rows of {}", a.len(), row.len());
    split::chunks(cpu, a, split::row_chunk(row.len()), |_, a| cpu.isa.run(BinaryOp(op, a, Operand::Row(row))));
}

/// `a = op(a, b)` for one number `b`.
pub fn binary_scalar(cpu: &Cpu, op: Binary, a: &mut [f32], b: f32) {
    split::chunks(cpu, a, GRAIN, |_, a| cpu.isa.run(BinaryOp(op, a, Operand::Scalar(b))));
}

/// `a = op(a, column)`: `a` is `[column.len(), dim]`, row `i` meets the number `column[i]`.
pub fn binary_column(cpu: &Cpu, op: Binary, a: &mut [f32], dim: usize, column: &[f32]) {
    assert_eq!(a.len(), dim * column.len(), "rows of {dim} and one number for each");
    split::chunks(cpu, a, split::row_chunk(dim), |at, a| {
        cpu.isa.run(BinaryOp(op, a, Operand::Column(dim, &column[at / dim..])));
    });
}

/// Gated linear unit: `gate = act(gate) * up`.
pub fn glu(cpu: &Cpu, act: Unary, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up have the same length");
    split::chunks(cpu, gate, GRAIN, |at, gate| {
        // Two passes over a piece that stays in the nearest cache, rather than one compiled loop per activation.
        for (gate, up) in gate.chunks_mut(1024).zip(up[at..].chunks(1024)) {
            let up = &up[..gate.len()];
            cpu.isa.run(UnaryOp(act, gate));
            cpu.isa.run(BinaryOp(Binary::Mul, gate, Operand::Same(up)));
        }
    });
}

/// `x = cap tanh(x / cap)`.
pub fn softcap(cpu: &Cpu, x: &mut [f32], cap: f32) {
    split::chunks(cpu, x, GRAIN, |_, x| cpu.isa.run(SoftcapOp(x, cap)));
}

struct SoftcapOp<'a>(&'a mut [f32], f32);

impl SimdOp for SoftcapOp<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        #[derive(Clone, Copy)]
        struct Softcap(f32);
        impl Map1 for Softcap {
            #[inline(always)]
            fn at<S: Simd>(self, s: S, x: S::F) -> S::F {
                let cap = s.splat(self.0);
                s.mul(cap, math::tanh(s, s.div(x, cap)))
            }
        }
        map(s, self.0, Softcap(self.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Random};

    const UNARY: [Unary; 20] = {
        use Unary::*;
        [
            Neg, Abs, Exp, Log, Sqrt, Rsqrt, Reciprocal, Square, Sin, Cos, Tanh, Sigmoid, Erf, Silu, Gelu, GeluTanh,
            Relu, Relu2, Softplus, Floor,
        ]
    };
    const BINARY: [Binary; 9] = {
        use Binary::*;
        [Add, Sub, Mul, Div, Max, Min, Pow, Less, Equal]
    };

    fn unary64(op: Unary, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match op {
            Unary::Neg => -x,
            Unary::Abs => x.abs(),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Rsqrt => 1.0 / x.sqrt(),
            Unary::Reciprocal => 1.0 / x,
            Unary::Square => x * x,
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Tanh => x.tanh(),
            Unary::Sigmoid => sigmoid(x),
            Unary::Erf => libm::erf(x),
            Unary::Silu => x * sigmoid(x),
            Unary::Gelu => x * 0.5 * (1.0 + libm::erf(x / 2f64.sqrt())),
            Unary::GeluTanh => {
                x * 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
            }
            Unary::Relu => x.max(0.0),
            Unary::Relu2 => x.max(0.0) * x.max(0.0),
            Unary::Softplus => x.exp().ln_1p(),
            Unary::Floor => x.floor(),
        }
    }

    fn binary64(op: Binary, a: f64, b: f64) -> f64 {
        match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Max => a.max(b),
            Binary::Min => a.min(b),
            Binary::Pow => a.powf(b),
            Binary::Less => f64::from(u8::from(a < b)),
            Binary::Equal => f64::from(u8::from(a == b)),
        }
    }

    #[test]
    fn unary_agrees_with_f64_at_all_lengths() {
        let mut random = Random::new(1);
        for cpu in check::cpus() {
            for op in UNARY {
                for n in check::lengths() {
                    let lo = if matches!(op, Unary::Log | Unary::Sqrt | Unary::Rsqrt) { 0.1 } else { -6.0 };
                    let mut x = random.floats(n + 1, lo, 6.0);
                    let want: Vec<f64> = x[1..].iter().map(|&x| unary64(op, f64::from(x))).collect();
                    let first = x[0];
                    unary(&cpu, op, &mut x[1..]);
                    check::close(&x[1..], &want, 1e-6, format_args!("{op:?} {n} {cpu:?}"));
                    assert_eq!(x[0], first);
                }
            }
        }
    }

    #[test]
    fn binary_agrees_with_f64_in_every_broadcast() {
        let mut random = Random::new(2);
        for cpu in check::cpus() {
            for op in BINARY {
                for n in check::lengths() {
                    let what = format!("{op:?} {n} {cpu:?}");
                    let rows = 3;
                    let lo = if op == Binary::Pow { 0.1 } else { -2.0 };
                    // Halves, so that comparisons meet equal numbers.
                    let halves = |x: f32| (x * 2.0).round().max(lo * 2.0) / 2.0;
                    let a: Vec<f32> = random.floats(rows * n + 1, lo, 2.0).into_iter().map(halves).collect();
                    let b: Vec<f32> = random.floats(rows * n + 1, -2.0, 2.0).into_iter().map(halves).collect();
                    let run = |b_of: &dyn Fn(usize) -> f32, f: &dyn Fn(&mut [f32])| {
                        let want = (0..rows * n).map(|i| binary64(op, f64::from(a[i + 1]), f64::from(b_of(i))));
                        let want: Vec<f64> = want.collect();
                        let mut got = a.clone();
                        f(&mut got[1..]);
                        check::close(&got[1..], &want, 3e-7, &what);
                    };
                    run(&|i| b[i + 1], &|a| binary(&cpu, op, a, &b[1..]));
                    run(&|_| 1.5, &|a| binary_scalar(&cpu, op, a, 1.5));
                    if n > 0 {
                        run(&|i| b[i % n + 1], &|a| binary_row(&cpu, op, a, &b[1..=n]));
                        run(&|i| b[i / n + 1], &|a| binary_column(&cpu, op, a, n, &b[1..=rows]));
                    }
                }
            }
        }
    }

    #[test]
    fn comparisons_and_extrema_of_special_numbers() {
        let special = [0.0, -0.0, 1.0, -1.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let pairs: Vec<(f32, f32)> = special.iter().flat_map(|&a| special.map(|b| (a, b))).collect();
        for cpu in check::cpus() {
            let run = |op| {
                let (mut a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
                binary(&cpu, op, &mut a, &b);
                a
            };
            let got = [run(Binary::Max), run(Binary::Min), run(Binary::Less), run(Binary::Equal)];
            for (i, &(a, b)) in pairs.iter().enumerate() {
                let nan = a.is_nan() || b.is_nan();
                let (max, min) = if nan { (f32::NAN, f32::NAN) } else { (a.max(b), a.min(b)) };
                let want = [max, min, f32::from(u8::from(a < b)), f32::from(u8::from(a == b))];
                for (got, want) in got.iter().zip(want) {
                    assert!(got[i] == want || (got[i].is_nan() && want.is_nan()), "{a} {b}: {} {want}", got[i]);
                }
            }
        }
    }

    #[test]
    fn threads_and_position_leave_the_bits_alone() {
        let x = Random::new(3).floats(3 * GRAIN + 5, -4.0, 4.0);
        let up = Random::new(4).floats(x.len(), -1.0, 1.0);
        for isa in crate::Isa::available() {
            let run = |threads, from: usize| {
                let cpu = Cpu::new(isa, threads);
                let mut y = x[from..].to_vec();
                glu(&cpu, Unary::Silu, &mut y, &up[from..]);
                softcap(&cpu, &mut y, 3.0);
                y
            };
            let whole = run(1, 0);
            assert_eq!(check::bits(&whole), check::bits(&run(2, 0)));
            assert_eq!(check::bits(&whole), check::bits(&run(3, 0)));
            assert_eq!(check::bits(&whole[40001..]), check::bits(&run(1, 40001)));
            let column = |threads| {
                let mut y = x[..48000].to_vec();
                binary_column(&Cpu::new(isa, threads), Binary::Mul, &mut y, 12, &up[..4000]);
                y
            };
            assert_eq!(check::bits(&column(1)), check::bits(&column(2)));
            let want: Vec<f64> = (48500..49000)
                .map(|i| (unary64(Unary::Silu, f64::from(x[i])) * f64::from(up[i]) / 3.0).tanh() * 3.0)
                .collect();
            check::close(&whole[48500..49000], &want, 2e-6, "glu and softcap");
        }
    }
}
