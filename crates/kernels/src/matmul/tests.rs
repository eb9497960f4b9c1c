//! Products against sums in double precision, and against themselves: bit for bit whatever the company of a row.

use super::*;
use crate::Isa;
use crate::codec::element;
use crate::weights::{QuantFormat, QuantMode, Quantized};

#[path = "tests/tiles.rs"]
mod of_tiles;

/// Deterministic integers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// About one in size.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1 << 30) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    fn stored(&mut self, float: Float, n: usize) -> Vec<u8> {
        let store = |x: f32| match float {
            Float::F32 => x.to_le_bytes().to_vec(),
            Float::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
            Float::Bf16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
        };
        (0..n).flat_map(|_| store(self.float())).collect()
    }
}

/// The bytes of a matrix, one byte into their blocks so that nothing is aligned.
struct Owned {
    rows: usize,
    cols: usize,
    form: Form,
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Dense(Float),
    Quantized(QuantFormat, Float),
}

fn forms() -> Vec<Form> {
    let mut forms = vec![Form::Dense(Float::F32), Form::Dense(Float::F16), Form::Dense(Float::Bf16)];
    let affine = |bits, group| QuantFormat { mode: QuantMode::Affine, bits, group };
    for bits in [1, 2, 3, 4, 5, 6, 8] {
        for (group, scale) in [(16, Float::F32), (32, Float::F16), (64, Float::Bf16), (128, Float::F32)] {
            forms.push(Form::Quantized(affine(bits, group), scale));
        }
    }
    for (mode, bits, group) in [(QuantMode::Mxfp4, 4, 32), (QuantMode::Mxfp8, 8, 32), (QuantMode::Nvfp4, 4, 16)] {
        forms.push(Form::Quantized(QuantFormat { mode, bits, group }, Float::F32));
    }
    forms
}

impl Form {
    fn group(self) -> usize {
        match self {
            Form::Dense(_) => 1,
            Form::Quantized(format, _) => format.group,
        }
    }

    fn matrix(self, rows: usize, cols: usize, numbers: &mut Numbers) -> Owned {
        let skewed = |bytes: Vec<u8>| [vec![0], bytes].concat();
        let (codes, scales, biases) = match self {
            Form::Dense(float) => (numbers.stored(float, rows * cols), vec![], vec![]),
            Form::Quantized(format, float) => {
                let codes = (0..rows * format.row_bytes(cols)).map(|_| numbers.next() as u8).collect();
                let groups = rows * cols / format.group;
                match format.mode {
                    QuantMode::Affine => (codes, numbers.stored(float, groups), numbers.stored(float, groups)),
                    QuantMode::Nvfp4 => (codes, (0..groups).map(|_| (numbers.next() % 0x78) as u8).collect(), vec![]),
                    _ => (codes, (0..groups).map(|_| (120 + numbers.next() % 8) as u8).collect(), vec![]),
                }
            }
        };
        Owned { rows, cols, form: self, codes: skewed(codes), scales: skewed(scales), biases: skewed(biases) }
    }
}

impl Owned {
    fn matrix(&self) -> Matrix<'_> {
        let elements = match self.form {
            Form::Dense(float) => Elements::Dense(float, &self.codes[1..]),
            Form::Quantized(format, scale_type) => Elements::Quantized(Quantized {
                format,
                codes: &self.codes[1..],
                scales: &self.scales[1..],
                biases: &self.biases[1..],
                scale_type,
                multiplier: if format.mode == QuantMode::Nvfp4 { 0.37 } else { 1.0 },
            }),
        };
        Matrix { rows: self.rows, cols: self.cols, elements }
    }
}

fn cpus() -> Vec<Cpu> {
    Isa::available().into_iter().flat_map(|isa| [Cpu::new(isa, 1), Cpu::new(isa, 3)]).collect()
}

/// Most that a sum of `n` products in single precision may differ, as a part of the sum of their sizes: each of at most
/// `n / 8 + 16` additions and two roundings of the weight err by half a unit.
fn bound(n: usize) -> f64 {
    (n / 8 + 18) as f64 * f64::from(f32::EPSILON) / 2.0
}

/// Compares with the sum of `x(j) * w(j)`.
#[track_caller]
fn close(what: &str, got: f32, n: usize, bias: f32, x: impl Fn(usize) -> f32, w: impl Fn(usize) -> (f64, f64)) {
    let exact = f64::from(bias) + (0..n).map(|j| f64::from(x(j)) * w(j).0).sum::<f64>();
    let size = f64::from(bias.abs()) + (0..n).map(|j| f64::from(x(j).abs()) * w(j).1).sum::<f64>();
    let error = (f64::from(got) - exact).abs();
    assert!(error <= bound(n) * size, "{what}: {got} instead of {exact}, error {error:e} of {size}");
}

/// A weight and the size of the terms that it is computed from, which the rounding error is relative to.
fn weight(w: &Matrix<'_>, row: usize, col: usize) -> (f64, f64) {
    let value = element(w, row, col);
    let Elements::Quantized(q) = w.elements else { return (value, value.abs()) };
    (
        value,
        if q.format.mode == QuantMode::Affine {
            value.abs() + 2.0 * f64::from(1u32 << q.format.bits)
        } else {
            value.abs()
        },
    )
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn elements_depend_on_neither_rows_nor_threads() {
    let mut numbers = Numbers(1);
    for form in forms() {
        let (k, n, m) = (640, 21, 103);
        let (owned, x, bias) = (form.matrix(n, k, &mut numbers), numbers.floats(m * k), numbers.floats(n));
        let w = owned.matrix();
        for isa in Isa::available() {
            let alone = Cpu::new(isa, 1);
            let mut want = vec![0.0; m * n];
            for i in 0..m {
                matmul(&alone, &x[i * k..(i + 1) * k], &w, Some(&bias), &mut want[i * n..(i + 1) * n]);
            }
            for &(i, j) in &[(0, 0), (0, 20), (102, 19), (50, 1)] {
                let (row, what) = (&x[i * k..(i + 1) * k], format!("{form:?} {} {i} {j}", isa.name()));
                close(&what, want[i * n + j], k, bias[j], |l| row[l], |l| weight(&w, j, l));
            }
            for cpu in [alone, Cpu::new(isa, 3)] {
                for rows in [1, 2, 3, 4, 5, 7, 8, 9, 11, 64, 103] {
                    let mut out = vec![f32::NAN; rows * n];
                    matmul(&cpu, &x[..rows * k], &w, Some(&bias), &mut out);
                    assert_eq!(bits(&out), bits(&want[..rows * n]), "{form:?} {} {rows} rows", isa.name());
                }
            }
        }
    }
}

#[test]
fn every_length() {
    let mut numbers = Numbers(2);
    for float in [Float::F32, Float::F16, Float::Bf16] {
        for k in 0..=67 {
            let (n, m) = (1 + k % 5, 1 + k % 8);
            let owned = Form::Dense(float).matrix(n, k, &mut numbers);
            let (w, x) = (owned.matrix(), numbers.floats(m * k + 1));
            let x = &x[1..];
            for cpu in cpus() {
                let mut out = vec![f32::NAN; m * n];
                matmul(&cpu, x, &w, None, &mut out);
                for (i, &got) in out.iter().enumerate() {
                    let (row, what) = (&x[i / n * k..], format!("{float:?} {} k = {k}", cpu.isa.name()));
                    close(&what, got, k, 0.0, |l| row[l], |l| weight(&w, i % n, l));
                }
            }
        }
    }
}

#[test]
fn untransposed_products() {
    let mut numbers = Numbers(3);
    for form in forms() {
        for (m, r, blocks) in [(1, 5, 3), (7, 130, 2), (13, 65, 5), (200, 3, 1), (2, 0, 1)] {
            let c = if form.group() == 1 { 67 * blocks } else { form.group() * blocks };
            let (owned, x) = (form.matrix(r, c, &mut numbers), numbers.floats(m * r));
            let w = owned.matrix();
            for isa in Isa::available() {
                let mut want = vec![f32::NAN; m * c];
                matmul_n(&Cpu::new(isa, 1), &x, &w, &mut want);
                for i in (0..m * c).step_by(17) {
                    let (row, what) = (&x[i / c * r..], format!("{form:?} {} {i}", isa.name()));
                    close(
                        &what,
                        want[i],
                        8 * r,
                        0.0,
                        |j| if j < r { row[j] } else { 0.0 },
                        |j| {
                            if j < r { weight(&w, j, i % c) } else { (0.0, 0.0) }
                        },
                    );
                }
                let mut row = vec![f32::NAN; c];
                matmul_n(&Cpu::new(isa, 3), &x[(m - 1) * r..], &w, &mut row);
                assert_eq!(bits(&row), bits(&want[(m - 1) * c..]), "{form:?} {}", isa.name());
                let mut shared = vec![f32::NAN; m * c];
                matmul_n(&Cpu::new(isa, 3), &x, &w, &mut shared);
                assert_eq!(bits(&shared), bits(&want), "{form:?} {}", isa.name());
            }
        }
    }
}

#[test]
fn untransposed_every_width() {
    let mut numbers = Numbers(4);
    for c in 0..=67 {
        let (m, r) = (1 + c % 9, 1 + c % 4);
        let owned = Form::Dense(Float::F32).matrix(r, c, &mut numbers);
        let (w, x) = (owned.matrix(), numbers.floats(m * r));
        for cpu in cpus() {
            let mut out = vec![f32::NAN; m * c];
            matmul_n(&cpu, &x, &w, &mut out);
            for (i, &got) in out.iter().enumerate() {
                close(
                    &format!("{} c = {c}", cpu.isa.name()),
                    got,
                    r,
                    0.0,
                    |j| x[i / c * r + j],
                    |j| weight(&w, j, i % c),
                );
            }
        }
    }
}

#[test]
fn gathered_rows_equal_products_with_their_expert() {
    let mut numbers = Numbers(5);
    let (k, n, experts, tokens) = (256, 20, 5, 60);
    for form in forms() {
        let (owned, x) = (form.matrix(experts * n, k, &mut numbers), numbers.floats(tokens * k));
        let (w, bias) = (owned.matrix(), numbers.floats(experts * n));
        for count in [0, 1, 3, 150] {
            let x_rows: Vec<u32> = (0..count).map(|_| numbers.next() % tokens as u32).collect();
            // Expert 3 is chosen by none, expert 0 by most.
            let ids: Vec<u32> = (0..count).map(|_| [0, 0, 0, 0, 1, 2, 4][numbers.next() as usize % 7]).collect();
            for cpu in cpus() {
                let mut out = vec![f32::NAN; count * n];
                let pick = Gather { x_rows: &x_rows, ids: &ids, experts };
                gather_matmul(&cpu, &x, pick, &w, Some(&bias), &mut out);
                for i in 0..count {
                    let (expert, row) = (ids[i] as usize * n, x_rows[i] as usize * k);
                    let mut want = vec![0.0; n];
                    let matrix = w.slice_rows(expert, n);
                    matmul(&cpu, &x[row..row + k], &matrix, Some(&bias[expert..expert + n]), &mut want);
                    assert_eq!(bits(&out[i * n..(i + 1) * n]), bits(&want), "{form:?} {} {i}", cpu.isa.name());
                }
            }
        }
    }
}

#[test]
fn plain_floats() {
    let mut numbers = Numbers(6);
    let (m, k, n) = (9, 33, 21);
    let (a, b) = (numbers.floats(m * k), numbers.floats(k * n));
    for cpu in cpus() {
        for transpose_b in [false, true] {
            let mut out = vec![f32::NAN; m * n];
            gemm(&cpu, &a, &b, Gemm { m, k, n, transpose_b }, &mut out);
            for (i, &got) in out.iter().enumerate() {
                let at = |j: usize| f64::from(if transpose_b { b[i % n * k + j] } else { b[j * n + i % n] });
                close(
                    cpu.isa.name(),
                    got,
                    8 * k,
                    0.0,
                    |j| if j < k { a[i / n * k + j] } else { 0.0 },
                    |j| {
                        if j < k { (at(j), at(j).abs()) } else { (0.0, 0.0) }
                    },
                );
            }
        }
    }
}

#[test]
fn empty_products() {
    let cpu = Cpu::new(Isa::best(), 2);
    let w = Matrix { rows: 0, cols: 4, elements: Elements::Dense(Float::F32, &[]) };
    matmul(&cpu, &[1.0; 8], &w, None, &mut []);
    let w = Matrix { rows: 2, cols: 0, elements: Elements::Dense(Float::F32, &[]) };
    for m in [1, 9] {
        let mut out = vec![f32::NAN; 2 * m];
        matmul(&cpu, &[], &w, Some(&[1.0, 2.0]), &mut out);
        assert!(out.chunks(2).all(|row| row == [1.0, 2.0]));
    }
}

#[test]
#[should_panic(expected = "[1, 4] x [3, 4]")]
fn a_wrong_shape_is_named() {
    let w = Matrix { rows: 3, cols: 4, elements: Elements::Dense(Float::F32, &[0; 48]) };
    matmul(&Cpu::new(Isa::best(), 1), &[0.0; 5], &w, None, &mut [0.0; 3]);
}

#[test]
fn kernels_have_names() {
    let mut numbers = Numbers(7);
    let owned = Form::Quantized(QuantFormat { mode: QuantMode::Affine, bits: 4, group: 64 }, Float::Bf16).matrix(
        1,
        64,
        &mut numbers,
    );
    let cpu = Cpu::new(Isa::from_name("portable").unwrap(), 1);
    assert_eq!(kernel_name(&cpu, &owned.matrix(), 1), "portable-affine4g64-direct");
    assert_eq!(kernel_name(&cpu, &owned.matrix(), 64), "portable-affine4g64-blocked");
}
