//! Every method of every instruction set of the host against plain scalar code.

use crate::Isa;
use crate::arch::portable::{E2M1, E4M3};
use crate::simd::{Simd, SimdOp};

/// Deterministic floats with all signs and many magnitudes.
fn floats(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2654435761).wrapping_add(12345);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..n).map(|_| (next() as f32 / u32::MAX as f32 - 0.5) * 2f32.powi(next() as i32 % 12)).collect()
}

fn bytes(n: usize, seed: u32) -> Vec<u8> {
    floats(n, seed).iter().map(|x| (x.to_bits() >> 7) as u8).collect()
}

/// The vector as a list.
#[inline(always)]
fn list<S: Simd>(s: S, v: S::F) -> Vec<f32> {
    let mut out = vec![0.0; S::LANES];
    // SAFETY: the list has `LANES` floats.
    unsafe { s.store(out.as_mut_ptr(), v) };
    out
}

/// Bytes in a heap block of exactly that size, so that a sanitizer sees a read beyond it; `skew` misaligns the start.
fn exact(data: &[u8], skew: usize) -> Vec<u8> {
    [&vec![0; skew][..], data].concat().into_boxed_slice().into_vec()
}

#[track_caller]
fn same(what: &str, name: &str, got: &[f32], want: &[f32]) {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(got), bits(want), "{name} {what}: {got:?} instead of {want:?}");
}

struct Loads;

impl Loads {
    #[inline(always)]
    fn codes<S: Simd, const BITS: u32>(s: S) {
        let n = S::LANES;
        for skew in 0..4 {
            let data = exact(&bytes(n * BITS as usize / 8, skew as u32 + BITS), skew);
            let codes: Vec<f32> = (0..n)
                .map(|i| {
                    let bit = |j: usize| u32::from(data[skew + j / 8] >> (j % 8) & 1);
                    (0..BITS as usize).map(|b| bit(i * BITS as usize + b) << b).sum::<u32>() as f32
                })
                .collect();
            // SAFETY: the block has `LANES * BITS / 8` bytes after `skew`.
            let got = list(s, unsafe { s.load_codes::<BITS>(data.as_ptr().add(skew)) });
            same(&format!("codes of {BITS}"), S::NAME, &got, &codes);
            let (scale, bias) = (-0.37f32, 1.61f32);
            // SAFETY: as above.
            let got =
                list(s, unsafe { s.load_affine::<BITS>(data.as_ptr().add(skew), &s.affine::<BITS>(scale, bias)) });
            let want: Vec<_> = codes.iter().map(|&c| c * scale + bias).collect();
            same(&format!("affine of {BITS}"), S::NAME, &got, &want);
            if BITS == 4 {
                let table: [f32; 16] = floats(16, 5).try_into().unwrap();
                let want: Vec<_> = codes.iter().map(|&c| table[c as usize]).collect();
                // SAFETY: as above.
                let got = list(s, unsafe { s.load_table16(data.as_ptr().add(skew), &table) });
                same("table", S::NAME, &got, &want);
                let want: Vec<_> = codes.iter().map(|&c| E2M1[c as usize] * scale).collect();
                // SAFETY: as above.
                let got = list(s, unsafe { s.load_fp4(data.as_ptr().add(skew), &s.fp4(scale)) });
                same("fp4", S::NAME, &got, &want);
            }
        }
    }

    #[inline(always)]
    fn parts<S: Simd>(s: S) {
        for n in 0..S::LANES {
            let source = floats(n, 3);
            // SAFETY: the source has `n` floats.
            let v = unsafe { s.load_part(source.as_ptr(), n) };
            let mut want = source.clone();
            want.resize(S::LANES, 0.0);
            same("load_part", S::NAME, &list(s, v), &want);
            let mut out = vec![7.0; n + 1];
            // SAFETY: the list has more than `n` floats.
            unsafe { s.store_part(out.as_mut_ptr(), s.splat(2.0), n) };
            assert!(out[..n].iter().all(|&x| x == 2.0) && out[n] == 7.0, "{} store_part {n}", S::NAME);
        }
    }
}

impl SimdOp for Loads {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let n = S::LANES;
        for start in (0..65536u32).step_by(n) {
            let halves: Vec<u8> = (0..n as u32).flat_map(|i| ((start + i) as u16).to_le_bytes()).collect();
            let data = exact(&halves, 1);
            let numbers = || (0..n as u32).map(|i| (start + i) as u16);
            // SAFETY: the block has `2 * LANES` bytes after the first.
            let got = list(s, unsafe { s.load_f16(data.as_ptr().add(1)) });
            let want: Vec<_> = numbers().map(|h| half::f16::from_bits(h).to_f32()).collect();
            if want.iter().all(|x| !x.is_nan()) {
                same("f16", S::NAME, &got, &want);
            }
            // SAFETY: as above.
            let got = list(s, unsafe { s.load_bf16(data.as_ptr().add(1)) });
            let want: Vec<_> = numbers().map(|h| f32::from_bits(u32::from(h) << 16)).collect();
            if want.iter().all(|x| !x.is_nan()) {
                same("bf16", S::NAME, &got, &want);
            }
        }
        for start in (0..256).step_by(n) {
            let data: Vec<u8> = (0..n).map(|i| (start + i) as u8).collect();
            // SAFETY: the list has `LANES` bytes.
            let got = list(s, unsafe { s.load_e4m3(data.as_ptr()) });
            same("e4m3", S::NAME, &got, &E4M3[start..start + n]);
        }
        Self::codes::<S, 1>(s);
        Self::codes::<S, 2>(s);
        Self::codes::<S, 3>(s);
        Self::codes::<S, 4>(s);
        Self::codes::<S, 5>(s);
        Self::codes::<S, 6>(s);
        Self::codes::<S, 8>(s);
        Self::parts(s);
    }
}

struct Arithmetic;

impl SimdOp for Arithmetic {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let n = S::LANES;
        for seed in 0..50 {
            let (a, b, c) = (floats(n, seed), floats(n, seed + 100), floats(n, seed + 200));
            // SAFETY: each list has `LANES` floats.
            let (va, vb, vc) = unsafe { (s.load(a.as_ptr()), s.load(b.as_ptr()), s.load(c.as_ptr())) };
            let check = |what: &str, got: S::F, want: &dyn Fn(usize) -> f32| {
                same(what, S::NAME, &list(s, got), &(0..n).map(want).collect::<Vec<_>>());
            };
            check("splat", s.splat(a[0]), &|_| a[0]);
            check("add", s.add(va, vb), &|i| a[i] + b[i]);
            check("sub", s.sub(va, vb), &|i| a[i] - b[i]);
            check("mul", s.mul(va, vb), &|i| a[i] * b[i]);
            check("div", s.div(va, vb), &|i| a[i] / b[i]);
            let unfused = S::NAME == "portable";
            check("fma", s.fma(va, vb, vc), &|i| if unfused { a[i] * b[i] + c[i] } else { a[i].mul_add(b[i], c[i]) });
            check("max", s.max(va, vb), &|i| a[i].max(b[i]));
            check("min", s.min(va, vb), &|i| a[i].min(b[i]));
            check("sqrt", s.sqrt(s.abs(va)), &|i| a[i].abs().sqrt());
            check("round", s.round(va), &|i| a[i].round_ties_even());
            check("select_lt", s.select_lt(va, vb, vc, va), &|i| if a[i] < b[i] { c[i] } else { a[i] });
            let exact: f64 = a.iter().map(|&x| f64::from(x)).sum();
            let size: f32 = a.iter().map(|x| x.abs()).sum();
            assert!((f64::from(s.sum(va)) - exact).abs() <= f64::from(size) * 3e-7, "{} sum", S::NAME);
            assert_eq!(s.max_lane(va), a.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{} max_lane", S::NAME);
        }
        for exponent in -126..=127 {
            let got = list(s, s.exp2i(s.splat(exponent as f32)));
            assert!(got.iter().all(|&x| x == 2f32.powi(exponent)), "{} exp2i {exponent}", S::NAME);
        }
        for half in -9..9 {
            let x = half as f32 + 0.5;
            assert!(list(s, s.round(s.splat(x))).iter().all(|&y| y == x.round_ties_even()), "{} round {x}", S::NAME);
        }
        s.prefetch(std::ptr::null());
    }
}

#[test]
fn loads_equal_scalar_code() {
    Isa::available().into_iter().for_each(|isa| isa.run(Loads));
}

#[test]
fn arithmetic_equals_scalar_code() {
    Isa::available().into_iter().for_each(|isa| isa.run(Arithmetic));
}

#[test]
fn e4m3_is_what_mlx_reads() {
    assert_eq!((E4M3[0x7f], E4M3[0xff], E4M3[0x7e], E4M3[0x38], E4M3[1]), (480.0, -480.0, 448.0, 1.0, 1.0 / 512.0));
}
