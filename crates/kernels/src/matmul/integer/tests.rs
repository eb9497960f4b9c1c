//! Integer products against sums in double precision, against the stand-in and against themselves.

use super::*;
use crate::check::{Random, bits};
use crate::codec::element;
use crate::dots::{BYTES, LANES};
use crate::weights::{Elements, Float, QuantFormat, QuantMode, Quantized};

/// Every kernel of the host, the stand-in first.
fn kernels() -> Vec<Kernel> {
    let stand = std::iter::once(Kernel::Stand);
    #[cfg(target_arch = "x86_64")]
    let stand = {
        use crate::arch::x86_64::{Avx2, Avx512Vnni, AvxVnni};
        let narrow = Avx2::new().map(Kernel::Avx2).into_iter().chain(AvxVnni::new().map(Kernel::AvxVnni));
        stand.chain(narrow).chain(Avx512Vnni::new().map(Kernel::Avx512Vnni))
    };
    #[cfg(target_arch = "aarch64")]
    let stand = {
        use crate::arch::aarch64::{Neon, NeonDot, NeonI8mm};
        let narrow = Neon::new().map(Kernel::Neon).into_iter().chain(NeonDot::new().map(Kernel::NeonDot));
        stand.chain(narrow).chain(NeonI8mm::new().map(Kernel::NeonI8mm))
    };
    stand.collect()
}

fn forms() -> Vec<(QuantFormat, Float)> {
    let mut forms = Vec::new();
    for bits in [2, 3, 4, 5, 6, 8] {
        for (group, scale) in [(32, Float::F16), (64, Float::Bf16), (128, Float::F32)] {
            forms.push((QuantFormat { mode: QuantMode::Affine, bits, group }, scale));
        }
    }
    forms.push((QuantFormat { mode: QuantMode::Mxfp4, bits: 4, group: 32 }, Float::F32));
    forms.push((QuantFormat { mode: QuantMode::Nvfp4, bits: 4, group: 16 }, Float::F32));
    forms
}

/// The bytes of a matrix in blocks of exactly their sizes, `skew` bytes from their starts, so that nothing is aligned and
/// a sanitizer or valgrind sees a read beyond the end.
struct Owned {
    rows: usize,
    cols: usize,
    format: QuantFormat,
    float: Float,
    skew: usize,
    parts: [Box<[u8]>; 3],
}

impl Owned {
    fn new((format, float): (QuantFormat, Float), rows: usize, cols: usize, skew: usize, random: &mut Random) -> Owned {
        let groups = rows * cols / format.group;
        let codes: Vec<u8> = (0..rows * format.row_bytes(cols)).map(|_| random.bits() as u8).collect();
        let mut floats = |lo: f32, hi: f32| -> Vec<u8> {
            let store = |x: f32| match float {
                Float::F32 => x.to_le_bytes().to_vec(),
                Float::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
                Float::Bf16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
            };
            random.floats(groups, lo, hi).into_iter().flat_map(store).collect()
        };
        let (scales, biases) = match format.mode {
            QuantMode::Affine => (floats(-0.1, 0.1), floats(-0.5, 0.5)),
            QuantMode::Nvfp4 => ((0..groups).map(|_| (random.bits() % 0x78) as u8).collect(), vec![]),
            _ => ((0..groups).map(|_| (120 + random.bits() % 8) as u8).collect(), vec![]),
        };
        let skewed = |bytes: Vec<u8>| [vec![0xff; skew], bytes].concat().into_boxed_slice();
        Owned { rows, cols, format, float, skew, parts: [codes, scales, biases].map(skewed) }
    }

    fn matrix(&self) -> Matrix<'_> {
        let [codes, scales, biases] = self.parts.each_ref().map(|part| &part[self.skew..]);
        let multiplier = if self.format.mode == QuantMode::Nvfp4 { 0.37 } else { 1.0 };
        let (format, scale_type) = (self.format, self.float);
        let quantized = Quantized { format, codes, scales, biases, scale_type, multiplier };
        Matrix { rows: self.rows, cols: self.cols, elements: Elements::Quantized(quantized) }
    }
}

/// The way of a kernel with a matrix.
fn way(kernel: Kernel, w: &Matrix<'_>, mixed: bool) -> Way {
    Way { kernel, form: Form::of(w).unwrap(), mixed }
}

/// Half a step of a group's rounding: of two digits, or of one for what is not in the largest quarter of fours.
fn half_step(form: Form, x: &[f32], mixed: bool) -> f64 {
    let fours = |i: usize| i % form.planes() * (x.len() / form.planes() / 4) + i / form.planes() / 4;
    let mut sizes = vec![0f32; x.len() / 4];
    for (i, x) in x.iter().enumerate() {
        sizes[fours(i)] = sizes[fours(i)].max(x.abs());
    }
    sizes.sort_by(|a, b| b.total_cmp(a));
    let two_digits = sizes[0] / 32_639.0;
    let step = if mixed { two_digits.max(sizes[x.len() / 16] / 127.0) } else { two_digits };
    // The inverse and its product are rounded, so a number near a tie may fall on the wrong side.
    f64::from(step) * (0.5 + 0.02)
}

/// How far an element may be from the exact sum: half a step of the activations' rounding in each group times its weights,
/// and the rounding of the float operations, of which a lane has two for each vector and the rest are few.
fn bound(w: &Matrix<'_>, row: usize, x: &[f32], mixed: bool, code_size: f64) -> (f64, f64) {
    let form = Form::of(w).unwrap();
    let group = form.group;
    let (mut exact, mut allowed) = (0.0, 0.0);
    let mut terms = 0.0;
    for (g, x) in x.chunks(group).enumerate() {
        let most = f64::from(x.iter().fold(0.0f32, |m, x| m.max(x.abs())));
        let half_step = half_step(form, x, mixed);
        for (j, &x) in x.iter().enumerate() {
            let weight = element(w, row, g * group + j);
            exact += weight * f64::from(x);
            allowed += weight.abs() * half_step;
            terms += (weight.abs() + code_size) * most;
        }
    }
    (exact, allowed + terms * (x.len() / group + 16) as f64 * f64::from(f32::EPSILON))
}

#[test]
fn rounding_of_the_input_is_the_error() {
    let mut random = Random::new(1);
    for form in forms() {
        let group = form.0.group;
        for (cols, rows) in
            [group, 3 * group, 7 * group, 16 * group, 17 * group, 896].into_iter().zip([2, 10].repeat(3))
        {
            let owned = Owned::new(form, 9, cols, 1, &mut random);
            let (w, mut x) = (owned.matrix(), random.floats(rows * cols, -1.0, 1.0));
            // Sizes that differ from group to group.
            for (g, x) in x.chunks_mut(group).enumerate() {
                x.iter_mut().for_each(|x| *x *= [1.0, 100.0, 0.01, 0.0][g % 4]);
            }
            let bias = random.floats(9, -1.0, 1.0);
            for mixed in [false, true] {
                let mut out = vec![f32::NAN; rows * 9];
                let cpu = Cpu::new(Isa::best(), 1);
                matmul_by(way(Kernel::Stand, &w, mixed), &cpu, &x, &w, Some(&bias), &mut out);
                let code_size =
                    if form.0.mode == QuantMode::Affine { 0.1 * f64::from(1u32 << form.0.bits) + 0.5 } else { 0.0 };
                for (i, &got) in out.iter().enumerate() {
                    let mixed = mixed && rows > FEW_ROWS;
                    let (exact, allowed) = bound(&w, i % 9, &x[i / 9 * cols..][..cols], mixed, code_size);
                    let error = (f64::from(got) - exact - f64::from(bias[i % 9])).abs();
                    assert!(
                        error <= allowed,
                        "{form:?} {cols} {mixed} [{i}]: {got}, not {exact}, error {error:e}, bound {allowed:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn all_kernels_rows_and_threads_give_the_same_bits() {
    let mut random = Random::new(2);
    let cpus = [Cpu::new(Isa::best(), 1), Cpu::new(Isa::best(), 2)];
    for form in forms() {
        let group = form.0.group;
        for (i, cols) in [group, 3 * group, 5 * group, 16 * group, 21 * group, 896, 2432].into_iter().enumerate() {
            let (n, m) = ([1, 3, 21, 37][i % 4], 67);
            // A block of exactly the matrix: a vector beyond the last row would leave it.
            let owned = Owned::new(form, n, cols, i % 4, &mut random);
            let (w, x) = (owned.matrix(), random.floats(m * cols + 1, -2.0, 2.0));
            let (x, bias) = (&x[1..], random.floats(n, -1.0, 1.0));
            let product = |kernel, mixed, cpu, rows: usize| {
                let mut out = vec![f32::NAN; rows * n];
                matmul_by(way(kernel, &w, mixed), cpu, &x[..rows * cols], &w, Some(&bias), &mut out);
                out
            };
            let reference = |mixed, rows| product(Kernel::Stand, mixed, &cpus[0], rows);
            let (few, many, mixed) = (reference(false, FEW_ROWS), reference(false, m), reference(true, m));
            for kernel in kernels() {
                let alike = |is_mixed, rows: usize, want: &[f32]| {
                    for cpu in &cpus {
                        let out = bits(&product(kernel, is_mixed, cpu, rows));
                        let what = format!("{form:?} {cols} {kernel:?} {rows} rows, mixed: {is_mixed}");
                        assert_eq!(out, bits(&want[..rows * n]), "{what}");
                    }
                };
                for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, m] {
                    alike(false, rows, if rows <= FEW_ROWS { &few } else { &many });
                }
                // Few rows have two digits all the same.
                for rows in [FEW_ROWS, 13, m] {
                    alike(true, rows, if rows <= FEW_ROWS { &few } else { &mixed });
                }
            }
        }
    }
}

#[test]
fn extreme_codes_and_digits_are_multiplied_exactly() {
    struct Extreme<const WIDE: bool>(u8, i8);
    impl<const WIDE: bool> DotsOp for Extreme<WIDE> {
        #[inline(always)]
        fn eval<D: Dots>(self, d: D) {
            let Extreme(code, digit) = self;
            let (codes, digits, mut out) = ([code; BYTES], [digit; 4], [0.0; LANES]);
            // SAFETY: the lists are as long as what is read and written.
            unsafe {
                let sums = d.dot::<WIDE>(d.no_ints(), d.load(codes.as_ptr(), BYTES), d.quad(digits.as_ptr()));
                d.store_floats(out.as_mut_ptr(), d.convert(sums));
            }
            assert_eq!(out, [4.0 * f32::from(code) * f32::from(digit); LANES], "{} {code} {digit}", D::NAME);
        }
    }
    for kernel in kernels() {
        for digit in [-128, -1, 0, 1, 127] {
            [0, 1, 63].into_iter().for_each(|code| kernel.run(Extreme::<false>(code, digit)));
            [0, 1, 127, 128, 255].into_iter().for_each(|code| kernel.run(Extreme::<true>(code, digit)));
        }
    }
}

#[test]
fn the_largest_codes_and_digits_fit_into_sums() {
    let mut random = Random::new(7);
    let cpu = Cpu::new(Isa::best(), 1);
    for form in forms() {
        let (cols, n, m) = (5 * form.0.group, 33, 9);
        let mut owned = Owned::new(form, n, cols, 1, &mut random);
        // All codes are the largest; of E2M1 numbers that is 6.
        owned.parts[0].fill(if form.0.mode == QuantMode::Affine { 0xff } else { 0x77 });
        let w = owned.matrix();
        for (other, sign) in [(32_639.0, 1.0), (32_384.0, 1.0), (32_639.0, -1.0), (32_384.0, -1.0)] {
            // Digits 127 and 127, or 127 and -128, or their negatives as far as they go,, of all but the first number of a group.
            let group = |i: usize| if i.is_multiple_of(form.0.group) { sign } else { sign * other / 32_639.0 };
            let x: Vec<f32> = (0..m * cols).map(group).collect();
            let product = |kernel, mixed, rows: usize| {
                let mut out = vec![f32::NAN; rows * n];
                matmul_by(way(kernel, &w, mixed), &cpu, &x[..rows * cols], &w, None, &mut out);
                bits(&out)
            };
            for (mixed, rows) in [(false, 1), (false, 3), (false, m), (true, m)] {
                let want = product(Kernel::Stand, mixed, rows);
                for kernel in kernels() {
                    assert_eq!(product(kernel, mixed, rows), want, "{form:?} {kernel:?} {rows} rows, mixed: {mixed}");
                }
            }
        }
    }
}

#[test]
fn tasks_share_a_large_product() {
    let mut random = Random::new(3);
    let form = (QuantFormat { mode: QuantMode::Affine, bits: 4, group: 64 }, Float::Bf16);
    let owned = Owned::new(form, 3001, 896, 3, &mut random);
    let (w, x) = (owned.matrix(), random.floats(12 * 896, -2.0, 2.0));
    for kernel in kernels() {
        let product = |threads, rows: usize| {
            let mut out = vec![f32::NAN; rows * 3001];
            let cpu = Cpu::new(Isa::best(), threads);
            matmul_by(way(kernel, &w, true), &cpu, &x[..rows * 896], &w, None, &mut out);
            out
        };
        for rows in [1, 3, 12] {
            assert_eq!(bits(&product(2, rows)), bits(&product(1, rows)), "{kernel:?} {rows}");
        }
    }
}

#[test]
fn matrices_that_share_a_step_give_the_bits_of_each_alone() {
    let mut random = Random::new(71);
    for threads in [1, 3] {
        let cpu = Cpu::new(Isa::best(), threads);
        for (i, form) in forms().into_iter().enumerate() {
            let owned = [300, 9, 100].map(|rows| Owned::new(form, rows, 1024, 2, &mut random));
            let ws = owned.each_ref().map(Owned::matrix);
            // Several units of one form are enough: emulated processors take their time.
            for m in [1, 3, 4, 5].into_iter().chain((i == 0).then_some(UNIT_ROWS + 5)) {
                let x = random.floats(m * 1024, -2.0, 2.0);
                let mut together = ws.map(|w| vec![f32::NAN; m * w.rows]);
                let [a, b, c] = &mut together;
                if !matmul_together(&cpu, Precision::Mixed, &x, &ws, &mut [a, b, c]) {
                    assert!(Kernel::of(cpu.isa).is_none(), "{form:?}, {m} rows");
                    continue;
                }
                for (together, w) in together.iter().zip(&ws) {
                    let mut alone = vec![f32::NAN; m * w.rows];
                    assert!(matmul_fast(&cpu, Precision::Mixed, &x, w, None, &mut alone));
                    assert_eq!(bits(together), bits(&alone), "{form:?}, {m} rows of {}", w.rows);
                }
            }
        }
        let [a, b] = [0, 1].map(|i| Owned::new(forms()[i], 8, 256, 0, &mut random));
        let refused = matmul_together(
            &cpu,
            Precision::Fast,
            &[0.0; 256],
            &[a.matrix(), b.matrix()],
            &mut [&mut [0.0; 8], &mut [0.0; 8]],
        );
        assert!(!refused, "two forms cannot share an input");
    }
}

#[test]
fn gathered_rows_equal_products_with_their_expert() {
    let mut random = Random::new(4);
    let (k, n, experts, tokens, count) = (256, 20, 5, 60, 150);
    for form in forms() {
        let owned = Owned::new(form, experts * n, k, 1, &mut random);
        let (w, x, bias) =
            (owned.matrix(), random.floats(tokens * k, -1.0, 1.0), random.floats(experts * n, -1.0, 1.0));
        let x_rows: Vec<u32> = (0..count).map(|_| random.bits() as u32 % tokens as u32).collect();
        let ids: Vec<u32> = (0..count).map(|_| [0, 0, 0, 0, 1, 2, 4][random.bits() as usize % 7]).collect();
        let (cpu, mut out) = (Cpu::new(Isa::best(), 2), vec![f32::NAN; count * n]);
        let pick = Gather { x_rows: &x_rows, ids: &ids, experts };
        if !gather_matmul_fast(&cpu, Precision::Mixed, &x, pick, &w, Some(&bias), &mut out) {
            continue;
        }
        for expert in 0..experts {
            // The same number of rows, so that they go the same way.
            let rows: Vec<usize> = (0..count).filter(|&i| ids[i] as usize == expert).collect();
            let x: Vec<f32> = rows.iter().flat_map(|&i| &x[x_rows[i] as usize * k..][..k]).copied().collect();
            let (matrix, bias) = (w.slice_rows(expert * n, n), &bias[expert * n..][..n]);
            let mut want = vec![0.0; rows.len() * n];
            assert!(matmul_fast(&cpu, Precision::Mixed, &x, &matrix, Some(bias), &mut want));
            for (want, i) in want.chunks_exact(n).zip(rows) {
                assert_eq!(bits(&out[i * n..(i + 1) * n]), bits(want), "{form:?} {i}");
            }
        }
    }
}

#[test]
fn groups_that_are_not_finite_or_hardly_anything() {
    let mut random = Random::new(5);
    for form in forms() {
        let (group, cols) = (form.0.group, 16 * form.0.group);
        let owned = Owned::new(form, 3, cols, 1, &mut random);
        for kernel in kernels() {
            for (special, number) in [(f32::NAN, false), (f32::INFINITY, false), (-f32::INFINITY, false), (1e-40, true)]
            {
                let mut x = vec![0.0; cols];
                x[group + 3] = special;
                let (w, cpu) = (owned.matrix(), Cpu::new(Isa::best(), 1));
                // In one row, and as each of many.
                for rows in [1, FEW_ROWS + 1] {
                    let (x, mut out) = (x.repeat(rows), vec![1.0; 3 * rows]);
                    matmul_by(way(kernel, &w, true), &cpu, &x, &w, None, &mut out);
                    assert!(
                        out.iter().all(|y| if number { *y == 0.0 } else { y.is_nan() }),
                        "{form:?} {kernel:?} {special} {rows} {out:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn empty_products() {
    let cpu = Cpu::new(Isa::best(), 1);
    let format = QuantFormat { mode: QuantMode::Affine, bits: 4, group: 32 };
    let q = Quantized { format, codes: &[], scales: &[], biases: &[], scale_type: Float::F32, multiplier: 1.0 };
    let mut out = [f32::NAN; 4];
    let w = Matrix { rows: 2, cols: 0, elements: Elements::Quantized(q) };
    if matmul_fast(&cpu, Precision::Fast, &[], &w, Some(&[1.0, 2.0]), &mut out) {
        assert_eq!(out, [1.0, 2.0, 1.0, 2.0]);
    }
    let w = Matrix { rows: 0, cols: 32, elements: Elements::Quantized(q) };
    matmul_fast(&cpu, Precision::Fast, &[1.0; 64], &w, None, &mut []);
}

#[test]
fn forms_without_a_kernel_are_left_to_the_exact_path() {
    let cpu = Cpu::new(Isa::best(), 1);
    let mut out = [5.0];
    let dense = Matrix { rows: 1, cols: 32, elements: Elements::Dense(Float::F32, &[0; 128]) };
    assert!(!matmul_fast(&cpu, Precision::Fast, &[1.0; 32], &dense, None, &mut out));
    let mut random = Random::new(6);
    let owned =
        Owned::new((QuantFormat { mode: QuantMode::Mxfp8, bits: 8, group: 32 }, Float::F32), 1, 32, 0, &mut random);
    assert!(!matmul_fast(&cpu, Precision::Fast, &[1.0; 32], &owned.matrix(), None, &mut out));
    assert_eq!((out, fast_kernel_name(&cpu, Precision::Fast, &owned.matrix(), 1)), ([5.0], None));
    let owned =
        Owned::new((QuantFormat { mode: QuantMode::Affine, bits: 4, group: 64 }, Float::F32), 1, 64, 0, &mut random);
    let portable = Cpu::new(Isa::from_name("portable").unwrap(), 1);
    assert_eq!(fast_kernel_name(&portable, Precision::Fast, &owned.matrix(), 1), None);
    assert!(!matmul_fast(&portable, Precision::Fast, &[1.0; 64], &owned.matrix(), None, &mut out));
}
