//! [`sdpa`] against a scalar reference in double precision.

use super::*;
use crate::Isa;
use crate::check::{self, Random};
use crate::codec;
use crate::matmul::TileUnit;
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

/// What a call runs on, and the unit, if it is not [`sdpa`] that chooses.
type Way<'a> = (&'a Cpu, Option<TileUnit>);

/// Every unit with 1, 2 and 5 threads; the stand-in with portable code alone, for its time.
fn units() -> Vec<(Cpu, TileUnit)> {
    let units = |isa| TileUnit::available(isa).into_iter().map(move |unit| (isa, unit));
    let all = Isa::available().into_iter().flat_map(units);
    let suits = |(isa, unit): &(Isa, TileUnit)| (unit.name() == "scalar") == matches!(isa, Isa::Portable(_));
    all.filter(suits).flat_map(|(isa, unit)| [1, 2, 5].map(|threads| (Cpu::new(isa, threads), unit))).collect()
}

fn solve(
    (cpu, unit): Way<'_>,
    args: &Attention,
    q: &[f32],
    [k, v]: [Matrix<'_>; 2],
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    match unit {
        None => sdpa(cpu, args, q, &k, &v, sinks, out),
        Some(unit) => tiled::sdpa_on(unit, cpu, Problem::new(cpu.isa, args, q, &k, &v, sinks), out),
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
        self.run_on((cpu, None))
    }

    fn run_on(&self, way: Way<'_>) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.t() * self.args.heads * self.args.value_dim];
        solve(way, &self.args, &self.q, [self.k.matrix(), self.v.matrix()], self.sinks.as_deref(), &mut out);
        out
    }

    fn reference(&self) -> Vec<f64> {
        self.expected(|x| x)
    }

    /// The reference on operands that are rounded as tiles have them: what is left is the rounding of weights.
    fn rounded_reference(&self) -> Vec<f64> {
        self.expected(|x| half::bf16::from_f32(x as f32).to_f64())
    }

    fn expected(&self, round: impl Fn(f64) -> f64) -> Vec<f64> {
        let Attention { heads, kv_heads, key_dim, value_dim, scale, softcap, window, causal, .. } = self.args;
        let [k, v] = [&self.k, &self.v].map(|stored| stored.f64().into_iter().map(&round).collect::<Vec<_>>());
        let q: Vec<f64> = self.q.iter().map(|q| round(f64::from(*q) * f64::from(scale))).collect();
        let (t, s) = (self.t(), self.k.rows / kv_heads);
        let mut out = Vec::new();
        for (j, h) in (0..t).flat_map(|j| (0..heads).map(move |h| (j, h))) {
            let (p, kv) = (s - t + j, h / (heads / kv_heads));
            let q = &q[(j * heads + h) * key_dim..][..key_dim];
            let sees = |i: usize| (!causal || i <= p) && window.is_none_or(|w| i + w > p);
            let score = |i: usize| {
                let key = &k[(i * kv_heads + kv) * key_dim..][..key_dim];
                let score = q.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
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
    let (softcap, window, precision) = (None, None, Precision::Exact);
    Attention { heads, kv_heads, key_dim, value_dim, scale, softcap, window, causal: true, first: 0, precision }
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
    for isa in Isa::available() {
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

/// Asserts that queries of random calls have the bits that they have alone, however many threads there are.
fn alone_as_among_others(random: &mut Random, ways: &[Way<'_>], cases: usize) {
    for _ in 0..cases {
        let case = draw(random);
        let (args, t, s) = (case.args, case.t(), case.k.rows / case.args.kv_heads);
        let all = check::bits(&case.run_on(ways[0]));
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
            let parts = [&case.k, &case.v].map(|stored| stored.matrix().slice_rows(first, count));
            let args = Attention { first: args.first + from, ..args };
            let q = &case.q[j * args.heads * args.key_dim..][..args.heads * args.key_dim];
            let width = args.heads * args.value_dim;
            for &way in ways {
                let mut out = vec![0.0; width];
                solve(way, &args, q, parts, case.sinks.as_deref(), &mut out);
                assert_eq!(check::bits(&out), all[j * width..][..width], "{j} of {t}, {s}: {args:?}");
            }
        }
    }
}

#[test]
fn a_query_alone_has_the_bits_that_it_has_among_others() {
    let mut random = Random::new(24);
    for isa in Isa::available() {
        let cpus = [1, 3].map(|threads| Cpu::new(isa, threads));
        alone_as_among_others(&mut random, &cpus.each_ref().map(|cpu| (cpu, None)), 20);
    }
}

#[test]
fn a_query_alone_has_the_bits_that_it_has_in_tiles_with_others() {
    let mut random = Random::new(27);
    for of_unit in units().chunk_by(|a, b| a.1 == b.1) {
        let ways: Vec<Way<'_>> = of_unit.iter().map(|(cpu, unit)| (cpu, Some(*unit))).collect();
        alone_as_among_others(
            &mut random,
            &ways,
            if ways[0].1.is_some_and(|unit| unit.name() == "scalar") { 3 } else { 20 },
        );
    }
}

/// The weights' rounding: half of a unit in the last of 8 bits, times what values can be apart.
const TILES_BOUND: f64 = 3.0 / 512.0;

#[test]
fn shapes_and_masks_in_tiles_agree_with_f64() {
    let mut random = Random::new(28);
    let units = units();
    for i in 0..40 {
        let case = draw(&mut random);
        let want = case.rounded_reference();
        for (cpu, unit) in units.iter().filter(|(_, unit)| i < 8 || unit.name() != "scalar") {
            let what = format!("t {} s {} {:?} {unit:?}", case.t(), case.k.rows / case.args.kv_heads, case.args);
            check::close(&case.run_on((cpu, Some(*unit))), &want, TILES_BOUND, what);
        }
    }
}

#[test]
fn every_storage_form_and_odd_dimensions_in_tiles_agree_with_f64() {
    let mut random = Random::new(29);
    let units = units();
    let dense = [F32, Form::Dense(Float::F16), Form::Dense(Float::Bf16)];
    let packed =
        [Form::Affine(4, 32, Float::F16), Form::Affine(8, 32, Float::Bf16), Form::Mxfp4, Form::Mxfp8, Form::Nvfp4];
    let mut cases: Vec<Case> = (dense.into_iter().zip([7, 33, 67]))
        .map(|(form, dim)| Case::new(&mut random, plain(4, 2, dim, 68 - dim), (17, 70), (form, form), true))
        .collect();
    cases.extend(packed.map(|form| Case::new(&mut random, plain(4, 2, 64, 96), (16, 40), (form, form), false)));
    for case in cases {
        let want = case.rounded_reference();
        for (cpu, unit) in &units {
            let what = format!("{:?} {:?} {unit:?}", case.k.form, case.args);
            check::close(&case.run_on((cpu, Some(*unit))), &want, TILES_BOUND, what);
        }
    }
}

#[test]
fn many_queries_are_rounded_where_that_is_faster_and_few_never() {
    let mut random = Random::new(30);
    for cpu in check::cpus() {
        for t in [crate::matmul::FEW_ROWS, 15, 16] {
            let mut case = Case::new(&mut random, plain(4, 2, 32, 32), (t, 40), (F32, F32), false);
            let exact = case.run(&cpu);
            case.args.precision = Precision::Fast;
            let unit = TileUnit::best(cpu.isa).filter(|_| t == 16);
            let want = unit.map_or(exact, |unit| case.run_on((&cpu, Some(unit))));
            assert_eq!(check::bits(&case.run(&cpu)), check::bits(&want), "{t} queries, {unit:?}");
        }
    }
}

#[test]
fn nan_shows_where_it_is_seen_and_only_there() {
    let mut random = Random::new(25);
    let (cpus, units) = (check::cpus(), units());
    let ways = units.iter().map(|(cpu, unit)| (cpu, Some(*unit)));
    for way in cpus.iter().map(|cpu| (cpu, None)).chain(ways) {
        let mut case = Case::new(&mut random, plain(2, 2, 32, 32), (3, 70), (F32, F32), false);
        let clean = case.run_on(way);
        // The key of the last slot and head 1: only the last query sees it.
        let last = case.k.codes.len() - 4;
        case.k.codes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        let dirty = case.run_on(way);
        assert_eq!(check::bits(&dirty[..5 * 32]), check::bits(&clean[..5 * 32]));
        assert!(dirty[5 * 32..].iter().all(|x| x.is_nan()));
        case.q[..32].fill(f32::NAN);
        assert!(case.run_on(way)[..32].iter().all(|x| x.is_nan()));
    }
}

#[test]
fn large_scores_and_sinks_neither_overflow_nor_vanish() {
    let mut random = Random::new(26);
    let (cpus, units) = (check::cpus(), units());
    let ways = units.iter().map(|(cpu, unit)| (cpu, Some(*unit)));
    for way in cpus.iter().map(|cpu| (cpu, None)).chain(ways) {
        let mut case = Case::new(&mut random, plain(2, 1, 16, 16), (2, 300), (F32, F32), true);
        case.args.scale = 400.0;
        assert!(case.run_on(way).iter().all(|x| x.is_finite() && *x != 0.0));
        case.args.scale = 0.25;
        case.sinks = Some(vec![500.0, f32::NEG_INFINITY]);
        let with = case.run_on(way);
        case.sinks = None;
        let without = case.run_on(way);
        assert_eq!(with[..16], [0.0; 16]);
        assert_eq!(with[16..32], without[16..32]);
    }
}
