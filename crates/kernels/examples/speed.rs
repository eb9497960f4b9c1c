//! Prints what the products reach on this machine: GB/s for one row, exact and fast, and the fraction of the memory bandwidth
//! measured in the same run; milliseconds for few rows, GFLOP/s for many rows.
//!
//! `cargo run --release -p mlxengine-kernels --example speed [isa] [part of a form's name] [decode]`

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::time::Instant;

use mlxengine_kernels::matmul::{fast_kernel_name, kernel_name, matmul, matmul_fast, matmul_n};
use mlxengine_kernels::simd::{Simd, SimdOp};
use mlxengine_kernels::weights::{Elements, Float, Matrix, QuantFormat, QuantMode, Quantized};
use mlxengine_kernels::{Cpu, Isa};

/// More than the caches hold.
const BYTES: usize = 384 << 20;

fn main() {
    let mut args = std::env::args().skip(1);
    let isa = args.next().map_or(Isa::best(), |name| Isa::from_name(&name).unwrap_or_else(|e| panic!("{e}")));
    let only = args.next().unwrap_or_default();
    let decode_only = args.next().is_some_and(|what| what == "decode");
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    // Neither denormal nor infinite in any of the types.
    let memory: Vec<u8> = (0..BYTES / 2).flat_map(|i| [(i as u8).wrapping_mul(167) & 0x3f | 0x40, 0x3c]).collect();
    let scales = vec![0x3c; BYTES / 8];
    for threads in if threads > 1 { vec![1, threads] } else { vec![1] } {
        let cpu = Cpu::new(isa, threads);
        let limit = BYTES as f64 / best(8, || read_all(&cpu, &memory)) / 1e9;
        println!("{threads} threads, {}: memory reads at {limit:.1} GB/s", isa.name());
        for (name, elements) in forms() {
            if name.contains(&only) {
                decode(&cpu, elements, (&memory, &scales));
                if decode_only {
                    continue;
                }
                one_row(&cpu, elements, &memory, &scales);
                many_rows(&cpu, elements, &memory, &scales);
            }
        }
    }
}

type Form = Result<Float, QuantFormat>;

fn forms() -> Vec<(&'static str, Form)> {
    let quantized = |mode, bits, group| Err(QuantFormat { mode, bits, group });
    vec![
        ("bf16", Ok(Float::Bf16)),
        ("f16", Ok(Float::F16)),
        ("f32", Ok(Float::F32)),
        ("affine2g64", quantized(QuantMode::Affine, 2, 64)),
        ("affine3g64", quantized(QuantMode::Affine, 3, 64)),
        ("affine4g64", quantized(QuantMode::Affine, 4, 64)),
        ("affine4g32", quantized(QuantMode::Affine, 4, 32)),
        ("affine5g64", quantized(QuantMode::Affine, 5, 64)),
        ("affine6g64", quantized(QuantMode::Affine, 6, 64)),
        ("affine8g64", quantized(QuantMode::Affine, 8, 64)),
        ("mxfp4", quantized(QuantMode::Mxfp4, 4, 32)),
        ("mxfp8", quantized(QuantMode::Mxfp8, 8, 32)),
        ("nvfp4", quantized(QuantMode::Nvfp4, 4, 16)),
    ]
}

fn matrix<'a>(rows: usize, cols: usize, form: Form, codes: &'a [u8], scales: &'a [u8]) -> (Matrix<'a>, usize) {
    let (elements, bytes) = match form {
        Ok(float) => (Elements::Dense(float, &codes[..rows * cols * float.size()]), rows * cols * float.size()),
        Err(format) => {
            let affine = format.mode == QuantMode::Affine;
            let scale_bytes = rows * cols / format.group * if affine { 2 } else { 1 };
            let code_bytes = rows * format.row_bytes(cols);
            let q = Quantized {
                format,
                codes: &codes[..code_bytes],
                scales: &scales[..scale_bytes],
                biases: if affine { &scales[..scale_bytes] } else { &[] },
                scale_type: Float::Bf16,
                multiplier: 1.0,
            };
            (Elements::Quantized(q), code_bytes + scale_bytes * if affine { 2 } else { 1 })
        }
    };
    (Matrix { rows, cols, elements }, bytes)
}

/// One row with as many weights as there are.
fn one_row(cpu: &Cpu, form: Form, memory: &[u8], scales: &[u8]) {
    let cols = 4096;
    let (_, row) = matrix(1, cols, form, memory, scales);
    let rows = (BYTES / row).min(BYTES / 8 * 7 / (cols * form.map_or_else(|f| f.bits as usize, |f| 8 * f.size()) / 8));
    let (w, bytes) = matrix(rows, cols, form, memory, scales);
    let (x, mut out) = (vec![0.5; cols], vec![0.0; rows]);
    let time = best(4, || matmul(cpu, &x, &w, None, &mut out));
    let (small, small_bytes) = matrix(1024.min(rows), cols, form, memory, scales);
    let cached = best(20, || matmul(cpu, &x, &small, None, &mut out[..1024.min(rows)]));
    println!(
        "  {:44} {:6.1} GB/s from memory, {:6.1} from cache",
        kernel_name(cpu, &w, 1),
        bytes as f64 / time / 1e9,
        small_bytes as f64 / cached / 1e9
    );
}

/// Prompts.
fn many_rows(cpu: &Cpu, form: Form, memory: &[u8], scales: &[u8]) {
    let (cols, rows) = (2048, 2048);
    let (w, _) = matrix(rows, cols, form, memory, scales);
    let x: Vec<f32> = (0..256 * cols).map(|i| (i % 7) as f32 - 3.0).collect();
    let mut out = vec![0.0; 256 * rows];
    print!("  {:44}", kernel_name(cpu, &w, 256));
    for m in [4, 8, 32, 256] {
        let time = best(3, || matmul(cpu, &x[..m * cols], &w, None, &mut out[..m * rows]));
        print!(" m={m}: {:.0}", 2.0 * (m * rows * cols) as f64 / time / 1e9);
    }
    let time = best(2, || matmul_n(cpu, &x, &w, &mut out));
    println!(" | untransposed m=256: {:.0} GFLOP/s", 2.0 * (256 * rows * cols) as f64 / time / 1e9);
}

/// Seconds of the fastest of some runs.
fn best(runs: usize, mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min)
}

/// The sum of all memory, taken as floats: wide loads from four places at a time, each far enough ahead for the caches.
fn read_all(cpu: &Cpu, memory: &[u8]) {
    struct Read<'a>(&'a [u8]);
    impl SimdOp for Read<'_> {
        type Output = f32;
        #[inline(always)]
        fn eval<S: Simd>(self, s: S) -> f32 {
            let quarter = self.0.len() / 4;
            let mut sums = [s.splat(0.0); 16];
            for at in (0..quarter).step_by(256) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let p = self.0[i / 4 * quarter + at..][i % 4 * 64..][..64].as_ptr();
                    s.prefetch(p.wrapping_add(2048));
                    for vector in 0..16 / S::LANES {
                        // SAFETY: the 64 bytes at `p` lie in the slice.
                        *sum = s.add(*sum, unsafe { s.load(p.cast::<f32>().add(vector * S::LANES)) });
                    }
                }
            }
            sums.into_iter().map(|sum| s.sum(sum)).sum()
        }
    }
    let part = 1 << 20;
    cpu.pool.run(memory.len() / part, &|i| {
        std::hint::black_box(cpu.isa.run(Read(&memory[i * part..(i + 1) * part])));
    });
}

/// The layers of Qwen2.5-0.5B, each from memory: as many copies as the memory holds take turns.
const LAYERS: [(usize, usize); 5] = [(896, 896), (128, 896), (4864, 896), (896, 4864), (151_936, 896)];

fn decode(cpu: &Cpu, form: Form, (memory, scales): (&[u8], &[u8])) {
    let Some(name) = fast_kernel_name(cpu, &matrix(128, 4096, form, memory, scales).0) else { return };
    println!("  {name}");
    for (rows, cols) in LAYERS {
        let (one, bytes) = matrix(rows, cols, form, memory, scales);
        let Elements::Quantized(q) = one.elements else { return };
        // Scales come from memory as well: the second half of it.
        let copies = (BYTES / 2 / bytes).clamp(1, 400);
        let half = &memory[BYTES / 2..];
        let stacked: Vec<Matrix<'_>> = (0..copies)
            .map(|i| {
                let (codes, len) = (&memory[i * q.codes.len()..][..q.codes.len()], q.scales.len());
                let scales = &half[2 * i * len..][..len];
                let biases = &half[(2 * i + 1) * len..][..q.biases.len()];
                Matrix { rows, cols, elements: Elements::Quantized(Quantized { codes, scales, biases, ..q }) }
            })
            .collect();
        let x: Vec<f32> = (0..8 * cols).map(|i| (i % 13) as f32 - 6.5).collect();
        let mut out = vec![0.0; 8 * rows];
        // The limit again for each layer: other work on the machine comes and goes.
        let limit = BYTES as f64 / best(2, || read_all(cpu, memory)) / 1e9;
        let exact = best(2, || stacked.iter().for_each(|w| matmul(cpu, &x[..cols], w, None, &mut out[..rows])));
        let rate = |seconds: f64| (copies * bytes) as f64 / seconds / 1e9;
        print!("    [{rows:6} x {cols:4}] exact {:5.1} GB/s {:3.0} %, fast", rate(exact), 100.0 * rate(exact) / limit);
        for m in [1, 2, 4, 8] {
            let (x, out) = (&x[..m * cols], &mut out[..m * rows]);
            let time = best(if m == 1 { 6 } else { 2 }, || {
                stacked.iter().for_each(|w| assert!(matmul_fast(cpu, x, w, None, out)))
            });
            print!(" m={m}: {:5.1} {:3.0} %", rate(time), 100.0 * rate(time) / limit);
        }
        println!();
    }
}
