//! [`sdpa`] against a scalar reference in double precision.

use super::*;
use crate::check::{self, Random};
use crate::codec;
use crate::weights::{Elements, Float, QuantFormat, QuantMode, Quantized};

/// Keys or values in one of the storage forms, one byte off alignment.
struct Stored {
    rows: usize,
    cols: usize,
    form: Form,
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Dense(Float),
    Affine(u32, usize, Float),
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

const F32: Form = Form::Dense(Float::F32);

fn encode(float: Float, x: &[f32]) -> Vec<u8> {
    let one = |&x: &f32| match float {
        Float::F32 => x.to_le_bytes().to_vec(),
        Float::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
        Float::Bf16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
    };
    let mut bytes = vec![0];
    bytes.extend(x.iter().flat_map(one));
    bytes
}

impl Stored {
    /// Random numbers of magnitude below 3.
    fn new(random: &mut Random, form: Form, rows: usize, cols: usize) -> Self {
        let mut bytes = |n: usize, lo: u64, hi: u64| -> Vec<u8> {
            (0..n + 1).map(|_| (lo + random.bits() % (hi - lo)) as u8).collect()
        };
        let (codes, scales, biases) = match form {
            Form::Dense(float) => (encode(float, &random.floats(rows * cols, -1.5, 1.5)), vec![0], vec![0]),
            Form::Affine(bits, group, float) => {
                let codes = bytes(rows * cols * bits as usize / 8, 0, 256);
                let n = rows * cols / group;
                let step = 2.0 / ((1 << bits) - 1) as f32;
                (
                    codes,
                    encode(float, &random.floats(n, 0.8 * step, step)),
                    encode(float, &random.floats(n, -1.2, -0.8)),
                )
            }
            Form::Mxfp4 => (bytes(rows * cols / 2, 0, 256), bytes(rows * cols / 32, 122, 126), vec![0]),
            Form::Mxfp8 => (bytes(rows * cols, 0, 127), bytes(rows * cols / 32, 117, 119), vec![0]),
            Form::Nvfp4 => (bytes(rows * cols / 2, 0, 256), bytes(rows * cols / 16, 0x20, 0x30), vec![0]),
        };
        Self { rows, cols, form, codes, scales, biases }
    }

    fn matrix(&self) -> Matrix<'_> {
        let quantized = |mode, bits, group, scale_type| {
            let format = QuantFormat { mode, bits, group };
            let (codes, scales, biases) = (&self.codes[1..], &self.scales[1..], &self.biases[1..]);
            let multiplier = if mode == QuantMode::Nvfp4 { 0.75 } else { 1.0 };
            Elements::Quantized(Quantized { format, codes, scales, biases, scale_type, multiplier })
        };
        let elements = match self.form {
            Form::Dense(float) => Elements::Dense(float, &self.codes[1..]),
            Form::Affine(bits, group, float) => quantized(QuantMode::Affine, bits, group, float),
            Form::Mxfp4 => quantized(QuantMode::Mxfp4, 4, 32, Float::F32),
            Form::Mxfp8 => quantized(QuantMode::Mxfp8, 8, 32, Float::F32),
            Form::Nvfp4 => quantized(QuantMode::Nvfp4, 4, 16, Float::F32),
        };
        Matrix { rows: self.rows, cols: self.cols, elements }
    }

    fn f64(&self) -> Vec<f64> {
        let m = self.matrix();
        (0..m.rows).flat_map(|row| (0..m.cols).map(move |col| codec::element(&m, row, col))).collect()
    }
}

/// One call.
struct Case {
    args: Attention,
    q: Vec<f32>,
    k: Stored,
    v: Stored,
    sinks: Option<Vec<f32>>,
}

impl Case {
    fn new(random: &mut Random, args: Attention, (t, s): (usize, usize), forms: (Form, Form), sinks: bool) -> Self {
        let q = random.floats(t * args.heads * args.key_dim, -1.5, 1.5);
        let k = Stored::new(random, forms.0, s * args.kv_heads, args.key_dim);
        let v = Stored::new(random, forms.1, s * args.kv_heads, args.value_dim);
        let sinks = sinks.then(|| random.floats(args.heads, -2.0, 3.0));
        Self { args, q, k, v, sinks }
    }

    fn t(&self) -> usize {
        self.q.len() / (self.args.heads * self.args.key_dim)
    }

    fn run(&self, cpu: &Cpu) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.t() * self.args.heads * self.args.value_dim];
        sdpa(cpu, &self.args, &self.q, &self.k.matrix(), &self.v.matrix(), self.sinks.as_deref(), &mut out);
        out
    }

    fn reference(&self) -> Vec<f64> {
        let Attention { heads, kv_heads, key_dim, value_dim, scale, softcap, window, causal, first: _ } = self.args;
        let (k, v, t, s) = (self.k.f64(), self.v.f64(), self.t(), self.k.rows / kv_heads);
        let mut out = Vec::new();
        for (j, h) in (0..t).flat_map(|j| (0..heads).map(move |h| (j, h))) {
            let (p, kv) = (s - t + j, h / (heads / kv_heads));
            let q = &self.q[(j * heads + h) * key_dim..][..key_dim];
            let sees = |i: usize| (!causal || i <= p) && window.is_none_or(|w| i + w > p);
            let score = |i: usize| {
                let key = &k[(i * kv_heads + kv) * key_dim..][..key_dim];
                let score = q.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum::<f64>() * f64::from(scale);
                softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let weights: Vec<f64> = (0..s).map(|i| if sees(i) { score(i).exp() } else { 0.0 }).collect();
            let sink = self.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[h]).exp());
            let sum = weights.iter().sum::<f64>() + sink;
            let value =
                |d: usize| (0..s).map(|i| weights[i] * v[(i * kv_heads + kv) * value_dim + d]).sum::<f64>() / sum;
            out.extend((0..value_dim).map(value));
        }
        out
    }
}

fn plain(heads: usize, kv_heads: usize, key_dim: usize, value_dim: usize) -> Attention {
    let scale = 1.0 / (key_dim as f32).sqrt();
    Attention { heads, kv_heads, key_dim, value_dim, scale, softcap: None, window: None, causal: true, first: 0 }
}

/// A case drawn at random among shapes at the edges of blocks, spans and tiles.
fn draw(random: &mut Random) -> Case {
    let mut pick = |from: &[usize]| from[random.bits() as usize % from.len()];
    let t = pick(&[1, 1, 2, 3, 5, 17, 33, 67]);
    let s = t + pick(&[0, 0, 1, 7, 62, 63, 64, 190, 255, 256, 300, 700]);
    let (kv_heads, group) = (pick(&[1, 1, 2, 3]), pick(&[1, 1, 2, 3, 4, 5, 8]));
    let dims = [16, 24, 32, 40, 64, 72, 80, 96, 128, 256];
    let (key_dim, value_dim) = (pick(&dims), pick(&dims));
    let window = pick(&[0, 0, 1, 2, 40, 64, 65, 300]);
    let softcap = pick(&[0, 0, 2, 30]);
    let (causal, sinks) = (pick(&[0, 1, 1]) == 1, pick(&[0, 1]) == 1);
    let args = Attention {
        softcap: (softcap > 0).then_some(softcap as f32),
        window: (window > 0).then_some(window),
        causal,
        first: pick(&[0, 0, 1, 63, 64, 200, 256, 1000]),
        ..plain(kv_heads * group, kv_heads, key_dim, value_dim)
    };
    Case::new(random, args, (t, s), (F32, F32), sinks)
}

/// Values reach 3, the stated bound is 2e-6 of that.
const BOUND: f64 = 6e-6;

#[test]
fn shapes_and_masks_agree_with_f64() {
    let mut random = Random::new(20);
    let cpus = check::cpus();
    for _ in 0..80 {
        let case = draw(&mut random);
        let want = case.reference();
        for cpu in &cpus {
            let what = format!("t {} s {} {:?} {:?}", case.t(), case.k.rows / case.args.kv_heads, case.args, cpu.isa);
            check::close(&case.run(cpu), &want, BOUND, what);
        }
    }
}

#[test]
fn every_head_dimension_of_the_tails_agrees_with_f64() {
    let mut random = Random::new(21);
    let cpus = check::cpus();
    for dim in 1..=67 {
        let case = Case::new(&mut random, plain(4, 2, dim, 68 - dim), (3, 70), (F32, F32), dim % 2 == 0);
        let want = case.reference();
        cpus.iter().for_each(|cpu| check::close(&case.run(cpu), &want, BOUND, dim));
    }
}

#[test]
fn every_storage_form_agrees_with_f64() {
    let mut random = Random::new(22);
    let cpus = check::cpus();
    let affine = [2, 3, 4, 5, 6, 8].into_iter().zip([Float::F32, Float::F16, Float::Bf16].into_iter().cycle());
    let mut forms: Vec<Form> = affine.map(|(bits, float)| Form::Affine(bits, 32, float)).collect();
    forms.extend([Form::Affine(4, 64, Float::Bf16), Form::Affine(8, 128, Float::F16)]);
    forms.extend([Form::Mxfp4, Form::Mxfp8, Form::Nvfp4]);
    forms.extend([F32, Form::Dense(Float::F16), Form::Dense(Float::Bf16)]);
    for (i, &form) in forms.iter().enumerate() {
        let values = forms[(i + 3) % forms.len()];
        for (heads, t, s) in [(4, 1, 300), (4, 9, 75), (2, 1, 40)] {
            let case = Case::new(&mut random, plain(heads, 2, 128, 128), (t, s), (form, values), false);
            let want = case.reference();
            for cpu in &cpus {
                check::close(&case.run(cpu), &want, BOUND, format_args!("{form:?} {values:?} {:?}", cpu.isa));
            }
        }
    }
    for float in [Float::F16, Float::Bf16] {
        let form = Form::Dense(float);
        let case = Case::new(&mut random, plain(3, 3, 72, 40), (4, 90), (form, form), true);
        let want = case.reference();
        cpus.iter().for_each(|cpu| check::close(&case.run(cpu), &want, BOUND, format_args!("{form:?}")));
    }
}

#[test]
fn threads_leave_the_bits_alone() {
    let mut random = Random::new(23);
    for isa in crate::Isa::available() {
        let cpus = [1, 2, 3, 7].map(|threads| Cpu::new(isa, threads));
        for _ in 0..20 {
            let case = draw(&mut random);
            let want = check::bits(&case.run(&cpus[0]));
            for cpu in &cpus[1..] {
                assert_eq!(check::bits(&case.run(cpu)), want, "{:?}", case.args);
            }
        }
    }
}

#[test]
fn a_query_alone_has_the_bits_that_it_has_among_others() {
    let mut random = Random::new(24);
    for isa in crate::Isa::available() {
        let cpus = [1, 3].map(|threads| Cpu::new(isa, threads));
        for _ in 0..20 {
            let case = draw(&mut random);
            let (args, t, s) = (case.args, case.t(), case.k.rows / case.args.kv_heads);
            let all = check::bits(&case.run(&cpus[0]));
            for j in [0, 1.min(t - 1), t / 2, t - 1] {
                // The slots that a query sees: under a causal mask up to its own, else all, which only the last query can
                // have alone if a window counts from its place.
                if !args.causal && args.window.is_some() && j + 1 != t {
                    continue;
                }
                let end = if args.causal { s - t + j + 1 } else { s };
                // What is before the window may be there or not, if the slots keep their numbers.
                let from = args.window.map_or(0, |w| end.saturating_sub(w)) * (j % 2);
                let (first, count) = (from * args.kv_heads, (end - from) * args.kv_heads);
                let (k, v) = (case.k.matrix().slice_rows(first, count), case.v.matrix().slice_rows(first, count));
                let args = Attention { first: args.first + from, ..args };
                let q = &case.q[j * args.heads * args.key_dim..][..args.heads * args.key_dim];
                let width = args.heads * args.value_dim;
                for cpu in &cpus {
                    let mut out = vec![0.0; width];
                    sdpa(cpu, &args, q, &k, &v, case.sinks.as_deref(), &mut out);
                    assert_eq!(check::bits(&out), all[j * width..][..width], "{j} of {t}, {s}: {args:?}");
                }
            }
        }
    }
}

#[test]
fn nan_shows_where_it_is_seen_and_only_there() {
    let mut random = Random::new(25);
    for cpu in check::cpus() {
        let mut case = Case::new(&mut random, plain(2, 2, 32, 32), (3, 70), (F32, F32), false);
        let clean = case.run(&cpu);
        // The key of the last slot and head 1: only the last query sees it.
        let last = case.k.codes.len() - 4;
        case.k.codes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        let dirty = case.run(&cpu);
        assert_eq!(check::bits(&dirty[..5 * 32]), check::bits(&clean[..5 * 32]));
        assert!(dirty[5 * 32..].iter().all(|x| x.is_nan()));
        case.q[..32].fill(f32::NAN);
        assert!(case.run(&cpu)[..32].iter().all(|x| x.is_nan()));
    }
}

#[test]
fn large_scores_and_sinks_neither_overflow_nor_vanish() {
    let mut random = Random::new(26);
    for cpu in check::cpus() {
        let mut case = Case::new(&mut random, plain(2, 1, 16, 16), (2, 300), (F32, F32), true);
        case.args.scale = 400.0;
        assert!(case.run(&cpu).iter().all(|x| x.is_finite() && *x != 0.0));
        case.args.scale = 0.25;
        case.sinks = Some(vec![500.0, f32::NEG_INFINITY]);
        let with = case.run(&cpu);
        case.sinks = None;
        let without = case.run(&cpu);
        assert_eq!(with[..16], [0.0; 16]);
        assert_eq!(with[16..32], without[16..32]);
    }
}
