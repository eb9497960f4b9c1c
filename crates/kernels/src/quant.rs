//! Quantizing and its inverse, with the arithmetic of MLX to the bit.

use std::ops::Range;

use half::{bf16, f16};

use crate::Cpu;
use crate::arch::portable::E4M3;
use crate::codec::{Codec, SCALES, Scales as GroupScales, View, Visitor, e8m0};
use crate::simd::{Simd, SimdOp};
use crate::weights::{Float, Matrix, QuantFormat, QuantMode};

/// Elements below which a thread is not worth waking.
const MIN_TASK: usize = 1 << 14;

/// The weights as floats `[rows, cols]`, rounded as MLX rounds when it computes in `rounding`: affine `code * scale` is rounded
/// before the bias is added, other modes once.
pub fn dequantize(cpu: &Cpu, w: &Matrix<'_>, rounding: Float, out: &mut [f32]) {
    let view = View::new(w);
    assert_eq!(out.len(), w.rows * w.cols, "elements of a {} x {} matrix", w.rows, w.cols);
    decode_rows(cpu, &view, w.rows, &|i| i, rounding, out);
}

/// Rows `ids` of the matrix as floats `[ids.len(), cols]`: an embedding look-up. Panics if a row does not exist.
pub fn gather_rows(cpu: &Cpu, w: &Matrix<'_>, ids: &[u32], out: &mut [f32]) {
    let view = View::new(w);
    assert_eq!(out.len(), ids.len() * w.cols, "{} rows of {}", ids.len(), w.cols);
    assert!(ids.iter().all(|&id| (id as usize) < w.rows), "a row of a matrix of {}", w.rows);
    decode_rows(cpu, &view, ids.len(), &|i| ids[i] as usize, Float::F32, out);
}

/// Where [`quantize`] puts what a group's elements have in common.
#[derive(Debug)]
pub enum Scales<'a> {
    /// For affine codes, `[rows, cols / group]` each, before any rounding to the model's type.
    Affine {
        /// Scales; they may be negative.
        scales: &'a mut [f32],
        /// Biases.
        biases: &'a mut [f32],
    },
    /// For the other modes, `[rows, cols / group]`.
    Bytes(&'a mut [u8]),
}

/// Quantizes `x [rows, cols]` into `codes [rows, cols * bits / 8]` and scales.
pub fn quantize(cpu: &Cpu, x: &[f32], cols: usize, format: QuantFormat, codes: &mut [u8], scales: Scales<'_>) {
    let group = format.group;
    assert!(cols.is_multiple_of(group) && x.len().is_multiple_of(cols.max(1)), "{} elements, {cols} columns", x.len());
    assert!(group.is_multiple_of(16) && group <= GROUP, "groups of {group}");
    assert!(matches!(format.bits, 1..=6 | 8), "codes of {} bits", format.bits);
    let groups = x.len() / group;
    let bytes = group * format.bits as usize / 8;
    assert_eq!(codes.len(), groups * bytes, "bytes of {} codes", x.len());
    let codes = Shared(codes.as_mut_ptr());
    let scales = match (scales, format.mode) {
        (Scales::Affine { scales, biases }, QuantMode::Affine) => {
            assert_eq!((scales.len(), biases.len()), (groups, groups), "scales and biases of {groups} groups");
            SharedScales::Affine(Shared(scales.as_mut_ptr()), Shared(biases.as_mut_ptr()))
        }
        (Scales::Bytes(scales), QuantMode::Mxfp4 | QuantMode::Mxfp8 | QuantMode::Nvfp4) => {
            assert_eq!(scales.len(), groups, "scales of {groups} groups");
            SharedScales::Bytes(Shared(scales.as_mut_ptr()))
        }
        _ => panic!("scales of another mode than {:?}", format.mode),
    };
    cpu.pool.chunks(groups, 1, MIN_TASK.div_ceil(group), |range| {
        // SAFETY: each group's codes and scales belong to the one task that has the group, and lie in the slices.
        let codes = unsafe { codes.part(range.start * bytes..range.end * bytes) };
        let x = &x[range.start * group..range.end * group];
        // SAFETY: as above.
        match unsafe { scales.part(range) } {
            Scales::Affine { scales, biases } => cpu.isa.run(QuantizeAffine { x, format, codes, scales, biases }),
            Scales::Bytes(scales) => quantize_microscaled(x, format, codes, scales),
        }
    });
}

/// A slice of which each task takes its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: tasks take disjoint parts of a slice that the kernel's caller holds exclusively.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// The range lies in the slice, and nobody else has any of it while the part lives.
    unsafe fn part<'a>(self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: passed on.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

#[derive(Clone, Copy)]
enum SharedScales {
    Affine(Shared<f32>, Shared<f32>),
    Bytes(Shared<u8>),
}

impl SharedScales {
    /// # Safety
    /// As [`Shared::part`].
    unsafe fn part<'a>(self, range: Range<usize>) -> Scales<'a> {
        // SAFETY: passed on.
        unsafe {
            match self {
                SharedScales::Affine(scales, biases) => {
                    Scales::Affine { scales: scales.part(range.clone()), biases: biases.part(range) }
                }
                SharedScales::Bytes(scales) => Scales::Bytes(scales.part(range)),
            }
        }
    }
}

/// Largest group.
const GROUP: usize = 128;

struct QuantizeAffine<'a> {
    x: &'a [f32],
    format: QuantFormat,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    biases: &'a mut [f32],
}

impl SimdOp for QuantizeAffine<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let QuantFormat { bits, group, .. } = self.format;
        let levels = ((1u32 << bits) - 1) as f32;
        let mut numbers = [0.0f32; GROUP];
        for (i, x) in self.x.chunks_exact(group).enumerate() {
            let (scale, bias) = affine_scale(s, x, levels);
            (self.scales[i], self.biases[i]) = (scale, bias);
            let (scale, bias) = (s.splat(scale), s.splat(bias));
            for k in (0..group).step_by(S::LANES) {
                // SAFETY: a group is a whole number of vectors, at most `GROUP` long.
                unsafe {
                    let code = s.round(s.div(s.sub(s.load(x.as_ptr().add(k)), bias), scale));
                    s.store(numbers.as_mut_ptr().add(k), s.min(s.max(code, s.splat(0.0)), s.splat(levels)));
                }
            }
            pack(&numbers[..group], bits, &mut self.codes[i * group * bits as usize / 8..]);
        }
    }
}

/// Scale and bias of a group: the edge with the larger magnitude and zero are both representable, or, with codes of one bit,
/// both edges.
#[inline(always)]
fn affine_scale<S: Simd>(s: S, x: &[f32], levels: f32) -> (f32, f32) {
    let (mut high, mut low) = (s.splat(f32::NEG_INFINITY), s.splat(f32::NEG_INFINITY));
    for part in x.chunks_exact(S::LANES) {
        // SAFETY: the part has `LANES` floats.
        let v = unsafe { s.load(part.as_ptr()) };
        (high, low) = (s.max(high, v), s.max(low, s.sub(s.splat(0.0), v)));
    }
    let (max, min) = (s.max_lane(high), 0.0 - s.max_lane(low));
    let step = f32::max((max - min) / levels, 1e-7);
    if levels == 1.0 {
        return (step, min);
    }
    let (step, edge) = if min.abs() > max.abs() { (step, min) } else { (-step, max) };
    let at_edge = (edge / step).round_ties_even();
    if at_edge == 0.0 { (step, 0.0) } else { (edge / at_edge, edge) }
}

/// Writes codes, whole numbers below `2^bits`, as a little-endian bit stream.
#[inline(always)]
fn pack(numbers: &[f32], bits: u32, out: &mut [u8]) {
    for (eight, bytes) in numbers.chunks_exact(8).zip(out.chunks_exact_mut(bits as usize)) {
        let word = eight.iter().rev().fold(0u64, |word, &code| word << bits | u64::from(code as u8));
        bytes.copy_from_slice(&word.to_le_bytes()[..bits as usize]);
    }
}

fn quantize_microscaled(x: &[f32], format: QuantFormat, codes: &mut [u8], scales: &mut [u8]) {
    let mut numbers = [0.0f32; GROUP];
    let bytes = format.group * format.bits as usize / 8;
    for ((x, scale), codes) in x.chunks_exact(format.group).zip(scales).zip(codes.chunks_exact_mut(bytes)) {
        let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let unit = match format.mode {
            QuantMode::Nvfp4 => {
                *scale = to_e4m3(largest / 6.0);
                E4M3[*scale as usize]
            }
            mode => {
                *scale = to_e8m0(largest / if mode == QuantMode::Mxfp8 { 448.0 } else { 6.0 });
                e8m0(*scale)
            }
        };
        for (number, &v) in numbers.iter_mut().zip(x) {
            // A scale that rounded to zero leaves nothing to divide by: all codes are zero.
            let v = if unit == 0.0 { 0.0 } else { v / unit };
            *number = f32::from(if format.bits == 8 { to_e4m3(v) } else { to_e2m1(v) });
        }
        pack(&numbers[..format.group], format.bits, codes);
    }
}

/// The power of two at or above `x`, as an exponent with bias 127; 127 for zero.
fn to_e8m0(x: f32) -> u8 {
    if x == 0.0 {
        return 127;
    }
    // The logarithm is rounded to single precision, as MLX has it: a number just above a power of two takes that power.
    let exponent = (libm::log2(f64::from(x)) as f32).ceil();
    (exponent.clamp(-127.0, 127.0) + 127.0) as u8
}

/// The nearest E2M1 number; of two, the one nearer to zero. Zero has no sign.
fn to_e2m1(x: f32) -> u8 {
    const MIDDLES: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let size = x.abs();
    let magnitude = MIDDLES.iter().filter(|&&middle| size > middle).count() as u8;
    magnitude | u8::from(x < 0.0 && magnitude > 0) << 3
}

/// The nearest E4M3 number, ties to even, at most 448.
fn to_e4m3(x: f32) -> u8 {
    let size = x.abs();
    let magnitude = if size < 1.0 / 64.0 {
        // Denormals are multiples of 2^-9; eight of them are the smallest normal number, whose code is 8.
        (size * 512.0).round_ties_even() as u8
    } else if size < 448.0 {
        let bits = size.to_bits() - (120 << 23);
        ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) as u8
    } else {
        0x7e
    };
    magnitude | u8::from(x.is_sign_negative()) << 7
}

/// Decodes rows of a matrix, `row(0)` … `row(count - 1)`, one after the other.
fn decode_rows(
    cpu: &Cpu,
    view: &View<'_>,
    count: usize,
    row: &(dyn Fn(usize) -> usize + Sync),
    rounding: Float,
    out: &mut [f32],
) {
    let cols = view.cols;
    let out = Shared(out.as_mut_ptr());
    cpu.pool.chunks(count, 1, MIN_TASK.div_ceil(cols.max(1)), |range| {
        for i in range {
            // SAFETY: this task alone has line `i`, which lies in the slice, whose length was checked.
            let line = unsafe { out.part(i * cols..(i + 1) * cols) };
            view.visit(DecodeRow { cpu, view, row: row(i), rounding, out: line });
        }
    });
}

struct DecodeRow<'a> {
    cpu: &'a Cpu,
    view: &'a View<'a>,
    row: usize,
    rounding: Float,
    out: &'a mut [f32],
}

impl Visitor for DecodeRow<'_> {
    type Output = ();
    fn visit<C: Codec>(self, _: C) {
        struct Op<'a, C>(DecodeRow<'a>, std::marker::PhantomData<C>);
        impl<C: Codec> SimdOp for Op<'_, C> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd>(self, s: S) {
                let DecodeRow { view, row, rounding, out, .. } = self.0;
                if C::GROUPED {
                    grouped::<C, S>(s, view, row, rounding, out)
                } else {
                    dense::<C, S>(s, view, row, out)
                }
                if rounding != Float::F32 {
                    round(out, rounding);
                }
            }
        }
        self.cpu.isa.run(Op::<C>(self, std::marker::PhantomData));
    }
}

#[inline(always)]
fn dense<C: Codec, S: Simd>(s: S, view: &View<'_>, row: usize, out: &mut [f32]) {
    let (group, codes) = (C::group(s, 1.0, 0.0), view.row(row));
    let size = C::BITS as usize / 8;
    let whole = out.len() / S::LANES * S::LANES;
    assert_eq!(out.len(), view.cols);
    // SAFETY: the row and the line have `cols` elements, and the last vector is cut to what is left of them.
    unsafe {
        for k in (0..whole).step_by(S::LANES) {
            s.store(out.as_mut_ptr().add(k), C::load(s, codes.add(k * size), &group));
        }
        if whole < out.len() {
            let left = out.len() - whole;
            s.store_part(out.as_mut_ptr().add(whole), C::load_part(s, codes.add(whole * size), left), left);
        }
    }
}

#[inline(always)]
fn grouped<C: Codec, S: Simd>(s: S, view: &View<'_>, row: usize, rounding: Float, out: &mut [f32]) {
    assert_eq!(out.len(), view.cols);
    let codes = view.row(row);
    let mut scales = GroupScales::new();
    // A group with scale 1 and bias 0 gives the codes themselves, so that each step of affine arithmetic can be rounded.
    let plain = C::group(s, 1.0, 0.0);
    for (first, chunk) in out.chunks_mut(SCALES * view.group).enumerate().map(|(i, chunk)| (i * SCALES, chunk)) {
        view.scales(s, row, first..first + chunk.len() / view.group, &mut scales);
        for (g, line) in chunk.chunks_exact_mut(view.group).enumerate() {
            let (scale, bias) = (s.splat(scales.scale[g]), s.splat(scales.bias[g]));
            let start = (first + g) * view.group;
            for (i, part) in line.chunks_exact_mut(S::LANES).enumerate() {
                // SAFETY: the vector lies in the row and in the part of the line.
                unsafe {
                    let code = C::load(s, codes.add((start + i * S::LANES) * C::BITS as usize / 8), &plain);
                    s.store(part.as_mut_ptr(), s.mul(code, scale));
                }
            }
            if view.is_affine() {
                if rounding != Float::F32 {
                    round(line, rounding);
                }
                for part in line.chunks_exact_mut(S::LANES) {
                    // SAFETY: the part has `LANES` floats.
                    unsafe { s.store(part.as_mut_ptr(), s.add(s.load(part.as_ptr()), bias)) };
                }
            }
        }
    }
}

/// Rounds to the nearest number of a type, ties to even.
#[inline(always)]
fn round(values: &mut [f32], float: Float) {
    for x in values {
        *x = match float {
            Float::F32 => *x,
            Float::F16 => f16::from_f32(*x).to_f32(),
            Float::Bf16 => bf16::from_f32(*x).to_f32(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::arch::portable::E2M1;
    use crate::codec::element;
    use crate::weights::{Elements, Quantized};

    fn formats() -> Vec<QuantFormat> {
        let mut formats: Vec<_> = [1, 2, 3, 4, 5, 6, 8]
            .into_iter()
            .flat_map(|bits| [32, 64, 128].map(|group| QuantFormat { mode: QuantMode::Affine, bits, group }))
            .collect();
        formats.push(QuantFormat { mode: QuantMode::Mxfp4, bits: 4, group: 32 });
        formats.push(QuantFormat { mode: QuantMode::Mxfp8, bits: 8, group: 32 });
        formats.push(QuantFormat { mode: QuantMode::Nvfp4, bits: 4, group: 16 });
        formats
    }

    /// Codes, scales and biases as they would be stored in single precision.
    fn stored(cpu: &Cpu, x: &[f32], cols: usize, format: QuantFormat) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let groups = x.len() / format.group;
        let mut codes = vec![0xaa; x.len() * format.bits as usize / 8];
        if format.mode == QuantMode::Affine {
            let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
            quantize(cpu, x, cols, format, &mut codes, Scales::Affine { scales: &mut scales, biases: &mut biases });
            let bytes = |v: Vec<f32>| v.iter().flat_map(|x| x.to_le_bytes()).collect();
            return (codes, bytes(scales), bytes(biases));
        }
        let mut scales = vec![0; groups];
        quantize(cpu, x, cols, format, &mut codes, Scales::Bytes(&mut scales));
        (codes, scales, vec![])
    }

    fn sample(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1009) as f32 / 500.0 - 1.0) * if i % 61 == 0 { 4.0 } else { 1.0 }).collect()
    }

    #[test]
    fn a_round_trip_errs_by_half_a_step_on_every_instruction_set() {
        let (rows, cols) = (70, 384);
        let x = sample(rows * cols);
        for format in formats() {
            let reference = stored(&Cpu::new(Isa::available()[0], 1), &x, cols, format);
            for isa in Isa::available() {
                let cpu = Cpu::new(isa, 2);
                let (codes, scales, biases) = stored(&cpu, &x, cols, format);
                assert_eq!(
                    (&codes, &scales, &biases),
                    (&reference.0, &reference.1, &reference.2),
                    "{format:?} {}",
                    isa.name()
                );
                let q = Quantized {
                    format,
                    codes: &codes,
                    scales: &scales,
                    biases: &biases,
                    scale_type: Float::F32,
                    multiplier: 1.0,
                };
                let w = Matrix { rows, cols, elements: Elements::Quantized(q) };
                let mut out = vec![f32::NAN; x.len()];
                dequantize(&cpu, &w, Float::F32, &mut out);
                for (i, (&got, &want)) in out.iter().zip(&x).enumerate() {
                    let exact = element(&w, i / cols, i % cols);
                    assert!((f64::from(got) - exact).abs() <= exact.abs().max(1.0) * 1e-5, "{format:?} {got} {exact}");
                    let step = match format.mode {
                        QuantMode::Affine => 10.0 / ((1 << format.bits) - 1) as f32,
                        QuantMode::Mxfp8 => 0.07 * want.abs() + 0.01,
                        _ => 0.5 * want.abs() + 1.0,
                    };
                    assert!((got - want).abs() <= step, "{format:?} {i}: {got} for {want}");
                }
                let ids = [69, 0, 3, 3];
                let mut rows = vec![f32::NAN; 4 * cols];
                gather_rows(&cpu, &w, &ids, &mut rows);
                for (line, id) in rows.chunks(cols).zip(ids) {
                    assert_eq!(line, &out[id as usize * cols..(id as usize + 1) * cols]);
                }
            }
        }
    }

    #[test]
    fn affine_rounding_happens_twice() {
        let format = QuantFormat { mode: QuantMode::Affine, bits: 8, group: 32 };
        let codes: Vec<u8> = (0..32).map(|i| 255 - i).collect();
        let (scale, bias) = (bf16::from_f32(0.0123), bf16::from_f32(-1.7));
        let q = Quantized {
            format,
            codes: &codes,
            scales: &scale.to_le_bytes(),
            biases: &bias.to_le_bytes(),
            scale_type: Float::Bf16,
            multiplier: 1.0,
        };
        let w = Matrix { rows: 1, cols: 32, elements: Elements::Quantized(q) };
        for isa in Isa::available() {
            let mut out = [f32::NAN; 32];
            dequantize(&Cpu::new(isa, 1), &w, Float::Bf16, &mut out);
            for (code, got) in codes.iter().zip(out) {
                let product = bf16::from_f32(f32::from(*code) * scale.to_f32());
                assert_eq!(got, bf16::from_f32(product.to_f32() + bias.to_f32()).to_f32());
            }
        }
    }

    #[test]
    fn dense_rows_of_every_length() {
        for cols in 0..=67 {
            let x = sample(3 * cols);
            let bytes: Vec<u8> =
                [0].into_iter().chain(x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())).collect();
            let w = Matrix { rows: 3, cols, elements: Elements::Dense(Float::F16, &bytes[1..]) };
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; 2 * cols];
                gather_rows(&Cpu::new(isa, 1), &w, &[2, 1], &mut out);
                let want = |i: usize| f16::from_f32(x[(2 - i / cols) * cols + i % cols]).to_f32();
                assert!(out.iter().enumerate().all(|(i, &got)| got == want(i)), "{cols} {}", isa.name());
            }
        }
    }

    #[test]
    fn small_floats_round_to_the_nearest() {
        for (i, &x) in E4M3.iter().enumerate().filter(|(i, _)| i & 127 != 127) {
            assert_eq!(to_e4m3(x), i as u8, "{x}");
        }
        for (i, pair) in E4M3[..0x7f].windows(2).enumerate() {
            let even = i + i % 2;
            assert_eq!(to_e4m3((pair[0] + pair[1]) / 2.0), even as u8, "between {pair:?}");
        }
        assert_eq!((to_e4m3(1e9), to_e4m3(-1e9), to_e4m3(f32::NAN) & 127), (0x7e, 0xfe, 0x7e));
        for (i, &x) in E2M1.iter().enumerate() {
            assert_eq!(to_e2m1(x), if i == 8 { 0 } else { i as u8 });
        }
        for (i, pair) in E2M1[..8].windows(2).enumerate() {
            assert_eq!(to_e2m1((pair[0] + pair[1]) / 2.0), i as u8, "a tie goes toward zero");
        }
        assert_eq!((to_e8m0(0.0), to_e8m0(1.0), to_e8m0(1.5), to_e8m0(0.25)), (127, 127, 128, 125));
    }
}
