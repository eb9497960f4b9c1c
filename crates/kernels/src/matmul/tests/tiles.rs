//! Products of bf16 tiles: every unit of the host against sums in double precision of the rounded operands, and of those not
//! rounded; bit for bit against the stand-in where the order of additions is the same.

use super::*;
use crate::arch::tiles::{DEPTH, SIDE, Scalar, TILE, TileOps, to_bf16};

fn units() -> Vec<TileUnit> {
    TileUnit::available(Isa::best())
}

fn rounded(x: f32) -> f64 {
    half::bf16::from_bits(to_bf16(x)).to_f64()
}

/// All weights as the stand-in decodes them, `[n, k]`.
fn decoded(w: &Matrix<'_>) -> Vec<f64> {
    let (steps, strips) = (w.cols.div_ceil(DEPTH), w.rows.div_ceil(SIDE));
    let mut tiles = vec![0u16; strips * steps * TILE];
    // SAFETY: the list has all strips of the matrix.
    unsafe { Scalar.decode(&View::new(w), 0..w.rows, 0..w.cols, steps, tiles.as_mut_ptr()) };
    let at = |row: usize, col: usize| (row / SIDE * steps + col / DEPTH) * TILE + row % SIDE * DEPTH + col % DEPTH;
    let value = |i: usize| half::bf16::from_bits(tiles[at(i / w.cols, i % w.cols)]).to_f64();
    (0..w.rows * w.cols).map(value).collect()
}

/// Checks a product against what the rounded operands give, within the rounding of sums, and against the exact one within
/// the bound that the module states.
#[track_caller]
fn check(what: &str, got: &[f32], x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>) {
    let (n, k) = (w.rows, w.cols);
    let weights = decoded(w);
    let unit = f64::from(f32::EPSILON) / 2.0;
    for (i, &got) in got.iter().enumerate() {
        let (row, col) = (i / n, i % n);
        let start = bias.map_or(0.0, |bias| f64::from(bias[col]));
        let (mut want, mut size, mut exact, mut exact_size) = (start, start.abs(), start, start.abs());
        for j in 0..k {
            let (x, product) = (x[row * k + j], rounded(x[row * k + j]) * weights[col * k + j]);
            let (value, terms) = weight(w, col, j);
            want += product;
            size += product.abs();
            exact += f64::from(x) * value;
            // What a weight is computed from is rounded in single precision, the weight itself to 8 bits.
            exact_size += f64::from(x).abs() * (value.abs() + terms * 2f64.powi(-15));
        }
        let error = (f64::from(got) - want).abs();
        assert!(error <= (k + 2) as f64 * unit * size, "{what} {row} {col}: {got} instead of {want} of {size}");
        let error = (f64::from(got) - exact).abs();
        let most = (2f64.powi(-7) + 2f64.powi(-16) + (k + 2) as f64 * unit) * exact_size;
        assert!(error <= most, "{what} {row} {col}: {got} instead of {exact} of {exact_size}");
    }
}

/// Columns of about a size that are whole groups.
fn whole(form: Form, cols: usize) -> usize {
    cols.next_multiple_of(form.group())
}

#[test]
fn every_form_and_edge() {
    let mut numbers = Numbers(11);
    for form in forms() {
        for (m, n, k) in [(1, 1, 1), (17, 33, 48), (49, 20, 130), (16, 64, 1100)] {
            let k = whole(form, k);
            let (owned, x, bias) = (form.matrix(n, k, &mut numbers), numbers.floats(m * k + 1), numbers.floats(n));
            let (w, x) = (owned.matrix(), &x[1..]);
            for unit in units() {
                for threads in [1, 2] {
                    let mut out = vec![f32::NAN; m * n];
                    matmul_on(unit, &Cpu::new(Isa::best(), threads), x, &w, Some(&bias), &mut out);
                    if threads == 1 || m == 17 {
                        check(&format!("{form:?} {} {m} {n} {k}", unit.name()), &out, x, &w, Some(&bias));
                    }
                }
            }
        }
    }
}

#[test]
fn every_length() {
    let mut numbers = Numbers(12);
    for float in [Float::F32, Float::F16, Float::Bf16] {
        for k in 0..=67 {
            let (m, n) = (1 + k * 7 % 35, 1 + k * 5 % 37);
            let (owned, x) = (Form::Dense(float).matrix(n, k, &mut numbers), numbers.floats(m * k));
            let w = owned.matrix();
            for unit in units() {
                let mut out = vec![f32::NAN; m * n];
                matmul_on(unit, &Cpu::new(Isa::best(), 2), &x, &w, None, &mut out);
                check(&format!("{float:?} {} {m} {n} {k}", unit.name()), &out, &x, &w, None);
            }
        }
    }
}

#[test]
fn units_decode_and_lay_out_as_the_stand_in() {
    let mut numbers = Numbers(13);
    for form in forms() {
        let (n, k) = (21, whole(form, 300));
        let owned = form.matrix(n, k, &mut numbers);
        let (w, x) = (owned.matrix(), numbers.floats(n * k));
        let view = View::new(&w);
        for unit in units() {
            struct Both<'a>(&'a View<'a>, &'a [f32], [Vec<u16>; 2]);
            impl tiles::WithUnit for Both<'_> {
                type Output = [Vec<u16>; 2];
                fn call<T: TileOps>(self, unit: T) -> [Vec<u16>; 2] {
                    let Both(view, x, [mut weights, mut inputs]) = self;
                    let from = crate::arch::tiles::Inputs { x: x.as_ptr(), stride: view.cols, rows: 13, cols: 27 };
                    let start = view.group % view.cols;
                    // SAFETY: the lists have two strips of all columns and one tile; the input has 13 rows.
                    unsafe {
                        unit.decode(
                            view,
                            2..view.rows,
                            start..view.cols,
                            weights.len() / TILE / 2,
                            weights.as_mut_ptr(),
                        );
                        unit.pack(from, inputs.as_mut_ptr());
                    }
                    [weights, inputs]
                }
            }
            let empty = || [vec![7; 2 * k.div_ceil(DEPTH) * TILE], vec![7; TILE]];
            let want = TileUnit::Scalar(Scalar).with(Both(&view, &x, empty()));
            assert!(unit.with(Both(&view, &x, empty())) == want, "{form:?} {}", unit.name());
        }
    }
}

#[test]
fn rows_depend_on_neither_company_nor_threads() {
    let mut numbers = Numbers(14);
    for form in [Form::Dense(Float::Bf16), forms()[18]] {
        let (k, n) = (1152, 150);
        let most = 530;
        let (owned, x, bias) = (form.matrix(n, k, &mut numbers), numbers.floats(most * k), numbers.floats(n));
        let w = owned.matrix();
        for unit in units().into_iter().filter(|unit| unit.name() != "scalar" || !cfg!(debug_assertions)) {
            let mut want = vec![0.0; most * n];
            matmul_on(unit, &Cpu::new(Isa::best(), 1), &x, &w, Some(&bias), &mut want);
            for threads in [1, 2, 3] {
                let cpu = Cpu::new(Isa::best(), threads);
                for (start, rows) in [(0, 1), (5, 16), (500, 30), (17, 100), (0, 513)] {
                    let mut out = vec![f32::NAN; rows * n];
                    matmul_on(unit, &cpu, &x[start * k..(start + rows) * k], &w, Some(&bias), &mut out);
                    assert_eq!(
                        bits(&out),
                        bits(&want[start * n..(start + rows) * n]),
                        "{} {start} {rows}",
                        unit.name()
                    );
                }
                let mut part = vec![f32::NAN; 20 * 40];
                matmul_on(unit, &cpu, &x[..20 * k], &w.slice_rows(90, 40), Some(&bias[90..130]), &mut part);
                for (i, row) in part.chunks(40).enumerate() {
                    assert_eq!(bits(row), bits(&want[i * n + 90..i * n + 130]), "{} of other rows", unit.name());
                }
            }
        }
    }
}

#[test]
fn tile_registers_equal_the_stand_in() {
    let mut numbers = Numbers(15);
    let (m, n, k) = (40, 70, 1000);
    let (owned, x) = (Form::Dense(Float::F32).matrix(n, k, &mut numbers), numbers.floats(m * k));
    let cpu = Cpu::new(Isa::best(), 2);
    let product = |unit| {
        let mut out = vec![f32::NAN; m * n];
        matmul_on(unit, &cpu, &x, &owned.matrix(), None, &mut out);
        out
    };
    let want = product(TileUnit::Scalar(Scalar));
    for unit in units().into_iter().filter(|unit| unit.name() == "amx") {
        assert_eq!(bits(&product(unit)), bits(&want));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn vectors_of_bf16_add_pair_after_pair() {
    let Some(token) = crate::arch::x86_64::Avx512Bf16::new() else { return };
    let mut numbers = Numbers(16);
    let (m, n, k) = (33, 18, 1000);
    let (owned, x) = (Form::Dense(Float::Bf16).matrix(n, k, &mut numbers), numbers.floats(m * k));
    let w = owned.matrix();
    let mut out = vec![f32::NAN; m * n];
    matmul_on(TileUnit::Bf16(token), &Cpu::new(Isa::best(), 2), &x, &w, None, &mut out);
    let weights = decoded(&w);
    for (i, &got) in out.iter().enumerate() {
        let product = |j: usize| (rounded(x[i / n * k + j]) * weights[i % n * k + j]) as f32;
        let sum = (0..k).step_by(2).fold(0f32, |sum, j| sum + product(j + 1) + product(j));
        assert_eq!(got.to_bits(), sum.to_bits(), "{i}");
    }
}

#[test]
fn few_rows_go_another_way() {
    let w = Matrix { rows: 2, cols: 2, elements: Elements::Dense(Float::Bf16, &[0; 8]) };
    let cpu = Cpu::new(Isa::best(), 1);
    assert!(!matmul_tiles(&cpu, &[0.0; 6], &w, None, &mut [0.0; 6]));
    assert_eq!(matmul_tiles(&cpu, &[0.0; 64], &w, None, &mut [1.0; 64]), TileUnit::best(cpu.isa).is_some());
    let floats = Matrix { elements: Elements::Dense(Float::F32, &[0; 16]), ..w };
    assert!(!matmul_tiles(&cpu, &[0.0; 64], &floats, None, &mut [1.0; 64]));
    let portable = Cpu::new(Isa::from_name("portable").unwrap(), 1);
    assert!(!matmul_tiles(&portable, &[0.0; 64], &w, None, &mut [0.0; 64]));
    assert_eq!(TileUnit::available(portable.isa).len(), 1);
}
