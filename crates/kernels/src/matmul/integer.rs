//! Products in integers: 8-bit activations meet the codes of quantized weights as they lie in the file.
//!
//! Each row of the input is quantized once a call, with a scale for every group of weights, and its elements are put in the
//! order in which masks and shifts take a vector of codes apart. A group then costs an exact integer sum, its conversion to
//! a float, and one fused multiply-add with the product of both scales; the weights' bias meets the group's sum of quantized
//! activations, so that the error is the weights' product with the rounding of the activations and nothing else.
//!
//! An element of the result is a sum in sixteen lanes: for each sixteen groups first their biases' terms, lane by lane, then
//! vector after vector of codes, lane `l` with the integers of its bytes `4 l .. 4 l + 4`. This order depends on neither the
//! rows nor the threads nor the instruction set, which all give the same bits.

use std::marker::PhantomData;

use super::{BLOCK_M, Gather, Job, Out, Tile, Unit, Work, rows_of, sort_by_expert};
use crate::codec::View;
use crate::dots::{BYTES, Dots, DotsOp, LANES, Stand};
use crate::weights::{Elements, Matrix, QuantMode};
use crate::{Cpu, Isa, scratch};

/// Multiplications below which handing a task to another thread costs more than it saves.
const MIN_TASK: usize = 1 << 18;
/// Tasks for each thread, so that a late one is made up for.
const TASKS: usize = 4;
/// Parts of a task that are read in turns, row after row: with one, a core has too few cache lines on their way (75 % of
/// what it can read, 97 % with four, on Sapphire Rapids).
const STREAMS: usize = 4;
/// How far ahead of those in use the next codes of a stream are asked for, in bytes.
const AHEAD: usize = 1024;
/// The same for scales.
const SCALES_AHEAD: usize = 256;
/// Weight rows that meet one batch of input rows before the next batch: they stay in the nearest cache.
const COLUMNS: usize = 8;
/// Below this largest size (of a group) activations count as zero: its inverse would overflow.
const TINY: f32 = 1e-36;

/// An implementation of [`Dots`] that this processor has.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    Stand,
    #[cfg(target_arch = "x86_64")]
    Avx2(crate::arch::x86_64::Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(crate::arch::x86_64::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(crate::arch::x86_64::Avx512Vnni),
}

impl Kernel {
    /// The best that an instruction set allows; none where exact products are faster.
    fn of(isa: Isa) -> Option<Kernel> {
        match isa {
            Isa::Portable(_) => Some(Kernel::Stand),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(token) => Some(Self::avx2(token)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => {
                use crate::arch::x86_64::{Avx2, Avx512Vnni};
                Avx512Vnni::new().map(Kernel::Avx512Vnni).or_else(|| Avx2::new().map(Self::avx2))
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => None,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2(token: crate::arch::x86_64::Avx2) -> Kernel {
        crate::arch::x86_64::AvxVnni::new().map_or(Kernel::Avx2(token), Kernel::AvxVnni)
    }

    fn run<Op: DotsOp>(self, op: Op) {
        match self {
            Kernel::Stand => Stand.run(op),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(token) => token.run(op),
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(token) => token.run(op),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(token) => token.run(op),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kernel::Stand => Stand::NAME,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => crate::arch::x86_64::Avx2::NAME,
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(_) => crate::arch::x86_64::AvxVnni::NAME,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(_) => crate::arch::x86_64::Avx512Vnni::NAME,
        }
    }
}

/// Name of the kernel that [`matmul_fast`] uses, as in `x86_64-avx512vnni-affine4g64-integer`; none where it returns `false`.
pub fn fast_kernel_name(cpu: &Cpu, w: &Matrix<'_>) -> Option<String> {
    Form::of(w)?;
    Some(format!("{}-{}-integer", Kernel::of(cpu.isa)?.name(), super::form_name(&w.elements)))
}

/// [`super::matmul`] with the input rounded to 8 bits, a scale for each group of weights: an element of `x` errs by at most
/// 1/254 of the largest in its group. Returns `false`, and writes nothing, where there is no kernel for the form of the
/// weights or the instruction set.
pub fn matmul_fast(cpu: &Cpu, x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) -> bool {
    let Some(kernel) = Kernel::of(cpu.isa) else { return false };
    matmul_with(kernel, cpu, x, w, bias, out)
}

/// [`matmul_fast`] with a kernel of choice.
fn matmul_with(kernel: Kernel, cpu: &Cpu, x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) -> bool {
    let Some(form) = Form::of(w) else { return false };
    let view = View::new(w);
    let m = rows_of(out.len(), w.rows, x.len(), w.cols);
    assert_eq!((x.len(), out.len()), (m * w.cols, m * w.rows), "[{m}, {}] x [{}, {}]", w.cols, w.rows, w.cols);
    assert!(bias.is_none_or(|b| b.len() == w.rows), "a bias per row of the matrix");
    let job = Job { view, x, x_rows: None, order: None, bias, n: w.rows, out: Out(out.as_mut_ptr()) };
    let unit = |i: usize| Unit { matrix: 0, start: i * BLOCK_M, len: BLOCK_M.min(m - i * BLOCK_M) };
    run(kernel, form, cpu, &job, &Work { rows: m, units: m.div_ceil(BLOCK_M), unit: &unit });
    true
}

/// [`super::gather_matmul`] with the input rounded as in [`matmul_fast`], and `false` as there.
pub fn gather_matmul_fast(
    cpu: &Cpu,
    x: &[f32],
    pick: Gather<'_>,
    w: &Matrix<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> bool {
    let (Some(kernel), Some(form)) = (Kernel::of(cpu.isa), Form::of(w)) else { return false };
    let n = pick.check(x.len(), w, bias, out.len());
    let view = View::new(w);
    scratch::indices(|list| {
        let (order, units) = sort_by_expert(list, pick.ids, pick.experts);
        let (x_rows, order) = (Some(pick.x_rows), Some(order));
        let job = Job { view, x, x_rows, order, bias, n, out: Out(out.as_mut_ptr()) };
        let unit = |i: usize| Unit::of(&units[3 * i..]);
        run(kernel, form, cpu, &job, &Work { rows: pick.ids.len(), units: units.len() / 3, unit: &unit });
    });
    true
}

/// Forms of weights that have kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    mode: QuantMode,
    bits: u32,
    group: usize,
}

impl Form {
    fn of(w: &Matrix<'_>) -> Option<Form> {
        let Elements::Quantized(q) = w.elements else { return None };
        let (mode, bits, group) = (q.format.mode, q.format.bits, q.format.group);
        let has = match mode {
            QuantMode::Affine => matches!(bits, 2..=6 | 8) && matches!(group, 32 | 64 | 128),
            QuantMode::Mxfp4 => group == 32,
            QuantMode::Nvfp4 => group == 16,
            QuantMode::Mxfp8 => false,
        };
        has.then_some(Form { mode, bits, group })
    }

    /// Codes of a byte, which masks and shifts separate; one if codes straddle bytes.
    fn planes(self) -> usize {
        planes(self.bits)
    }
}

const fn planes(bits: u32) -> usize {
    match bits {
        2 => 4,
        4 => 2,
        _ => 1,
    }
}

/// A form of codes, as integers.
trait Codes: Copy + Send + Sync + 'static {
    const BITS: u32;
    /// Whether codes are 64 and more.
    const WIDE: bool;
    /// Whether weights are `scale * code + bias`; else they are `scale / 2 * (code - 12)`.
    const AFFINE: bool;
    /// One plane of a vector.
    fn plane<D: Dots>(d: D, raw: D::Bytes, plane: usize) -> D::Bytes;
}

#[derive(Clone, Copy)]
struct Affine<const BITS: u32>;
#[derive(Clone, Copy)]
struct Fp4;

impl<const BITS: u32> Codes for Affine<BITS> {
    const BITS: u32 = BITS;
    const WIDE: bool = BITS > 6;
    const AFFINE: bool = true;
    #[inline(always)]
    fn plane<D: Dots>(d: D, raw: D::Bytes, plane: usize) -> D::Bytes {
        match (BITS, plane) {
            (2, 0) => d.field::<0>(raw, 3),
            (2, 1) => d.field::<2>(raw, 3),
            (2, 2) => d.field::<4>(raw, 3),
            (2, _) => d.field::<6>(raw, 3),
            (4, 0) => d.field::<0>(raw, 15),
            (4, _) => d.field::<4>(raw, 15),
            _ => raw,
        }
    }
}

/// Twice the E2M1 numbers, plus 12 so that none is negative.
const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl Codes for Fp4 {
    const BITS: u32 = 4;
    const WIDE: bool = false;
    const AFFINE: bool = false;
    #[inline(always)]
    fn plane<D: Dots>(d: D, raw: D::Bytes, plane: usize) -> D::Bytes {
        let codes = if plane == 0 { d.field::<0>(raw, 15) } else { d.field::<4>(raw, 15) };
        d.lookup(codes, &FP4)
    }
}

/// Where the parts of a quantized row of the input lie, in units of four bytes.
#[derive(Clone, Copy)]
struct Layout {
    /// Length of the row: first the integers, plane after plane of each vector of codes.
    stride: usize,
    /// Where the groups' scales begin.
    scales: usize,
    /// Where the groups' sums, times their scales, begin.
    sums: usize,
}

impl Layout {
    fn new(cols: usize, form: Form) -> Layout {
        let codes = cols.next_multiple_of(BYTES * form.planes()) / 4;
        let groups = (cols / form.group).next_multiple_of(LANES);
        Layout { stride: codes + 2 * groups, scales: codes, sums: codes + groups }
    }
}

/// Quantizes the rows of the input, then shares the product out.
fn run(kernel: Kernel, form: Form, cpu: &Cpu, job: &Job<'_>, work: &Work<'_>) {
    if work.rows == 0 || job.n == 0 {
        return;
    }
    let cols = job.view.cols;
    let layout = Layout::new(cols, form);
    let rows = job.x.len().checked_div(cols).unwrap_or(0);
    // A matrix without columns has nothing to quantize, but its rows are read.
    scratch::floats(rows * layout.stride, |memory| {
        if layout.stride > 0 {
            for (x, line) in job.x.chunks_exact(cols).zip(memory.chunks_exact_mut(layout.stride)) {
                kernel.run(Quantize { x, line, layout, form });
            }
        }
        let memory = &*memory;
        job.run(cpu, work, columns(cpu.pool.threads(), job, work), &|tile| {
            multiply(kernel, form, Input { job, memory, layout, tile })
        });
    });
}

/// Columns of a task: few tasks, because each begins with cold streams, and as many for each thread as for the others.
fn columns(threads: usize, job: &Job<'_>, work: &Work<'_>) -> usize {
    let total = job.n.saturating_mul(job.view.cols).saturating_mul(work.rows) / MIN_TASK;
    let across = match threads {
        1 => 1,
        _ => total.min(TASKS * threads) / work.units,
    };
    let across = if across > threads { across / threads * threads } else { across.max(1) };
    job.n.div_ceil(across)
}

/// Quantizes a row.
struct Quantize<'a> {
    x: &'a [f32],
    line: &'a mut [f32],
    layout: Layout,
    form: Form,
}

impl DotsOp for Quantize<'_> {
    #[inline(always)]
    fn eval<D: Dots>(self, _: D) {
        match self.form.group {
            16 => self.planes::<16>(),
            32 => self.planes::<32>(),
            64 => self.planes::<64>(),
            _ => self.planes::<128>(),
        }
    }
}

impl Quantize<'_> {
    #[inline(always)]
    fn planes<const GROUP: usize>(self) {
        match self.form.planes() {
            1 => self.groups::<GROUP, 1>(),
            2 => self.groups::<GROUP, 2>(),
            _ => self.groups::<GROUP, 4>(),
        }
    }

    #[inline(always)]
    fn groups<const GROUP: usize, const PLANES: usize>(self) {
        let (codes, rest) = self.line.split_at_mut(self.layout.scales);
        let (scales, sums) = rest.split_at_mut(self.layout.sums - self.layout.scales);
        // SAFETY: floats are four bytes without padding, and any bytes are integers (and floats, afterwards).
        let codes = unsafe { std::slice::from_raw_parts_mut(codes.as_mut_ptr().cast::<u8>(), 4 * codes.len()) };
        let groups = self.x.len() / GROUP;
        codes[(self.x.len() / (BYTES * PLANES)) * BYTES * PLANES..].fill(0);
        scales[groups..].fill(0.0);
        sums[groups..].fill(0.0);
        for (g, x) in self.x.as_chunks::<GROUP>().0.iter().enumerate() {
            let (scale, inverse) = scale_of(x);
            let vector = g * GROUP / (BYTES * PLANES);
            let from = vector * BYTES * PLANES + g * GROUP % (BYTES * PLANES) / PLANES;
            let mut ints = [0u8; GROUP];
            for (out, x) in ints.iter_mut().zip(x) {
                // Adding 1.5 * 2^23 rounds to nearest and leaves the integer in the low bits.
                *out = (x * inverse + 12_582_912.0).to_bits() as u8;
            }
            let sum = ints.iter().map(|&a| i32::from(a as i8)).sum::<i32>();
            (scales[g], sums[g]) = (scale, scale * sum as f32);
            for plane in 0..PLANES {
                // A group of several vectors has one plane.
                let line = &mut codes[from + plane * BYTES..][..GROUP / PLANES];
                // Shifts of words, because compilers make vectors of them.
                match PLANES {
                    1 => line.copy_from_slice(&ints),
                    2 => {
                        for (out, pair) in line.iter_mut().zip(ints.as_chunks().0) {
                            *out = (u16::from_le_bytes(*pair) >> (8 * plane)) as u8;
                        }
                    }
                    _ => {
                        for (out, four) in line.iter_mut().zip(ints.as_chunks().0) {
                            *out = (u32::from_le_bytes(*four) >> (8 * plane)) as u8;
                        }
                    }
                }
            }
        }
    }
}

/// The step with which a group is rounded to integers of at most 127, and its inverse. NaN, and with it all products of the
/// group, if an element is not finite.
#[inline(always)]
fn scale_of<const GROUP: usize>(x: &[f32; GROUP]) -> (f32, f32) {
    // The order of the bits is that of the sizes, with infinities and then what is no number at the end.
    let most = x.iter().fold(0, |most: u32, x| most.max(x.to_bits() & 0x7fff_ffff));
    let most = f32::from_bits(most);
    if !most.is_finite() {
        (f32::NAN, 0.0)
    } else if most < TINY {
        (0.0, 0.0)
    } else {
        (most / 127.0, 127.0 / most)
    }
}

/// What a task needs.
#[derive(Clone, Copy)]
struct Input<'a> {
    job: &'a Job<'a>,
    /// The quantized rows.
    memory: &'a [f32],
    layout: Layout,
    tile: Tile,
}

/// Computes a tile.
fn multiply(kernel: Kernel, form: Form, input: Input<'_>) {
    fn groups<C: Codes>(kernel: Kernel, form: Form, input: Input<'_>) {
        match form.group {
            32 => kernel.run(Multiply::<C, 32>(input, PhantomData)),
            64 => kernel.run(Multiply::<C, 64>(input, PhantomData)),
            _ => kernel.run(Multiply::<C, 128>(input, PhantomData)),
        }
    }
    match (form.mode, form.bits) {
        (QuantMode::Mxfp4, _) => kernel.run(Multiply::<Fp4, 32>(input, PhantomData)),
        (QuantMode::Nvfp4, _) => kernel.run(Multiply::<Fp4, 16>(input, PhantomData)),
        (_, 2) => groups::<Affine<2>>(kernel, form, input),
        (_, 3) => groups::<Affine<3>>(kernel, form, input),
        (_, 4) => groups::<Affine<4>>(kernel, form, input),
        (_, 5) => groups::<Affine<5>>(kernel, form, input),
        (_, 6) => groups::<Affine<6>>(kernel, form, input),
        _ => groups::<Affine<8>>(kernel, form, input),
    }
}

struct Multiply<'a, C, const GROUP: usize>(Input<'a>, PhantomData<C>);

impl<C: Codes, const GROUP: usize> DotsOp for Multiply<'_, C, GROUP> {
    #[inline(always)]
    fn eval<D: Dots>(self, d: D) {
        let Tile { unit, start, end } = self.0.tile;
        assert!(unit.matrix * self.0.job.n + end <= self.0.job.view.rows && self.0.job.view.group == GROUP);
        // Many rows: a few columns stay in the nearest cache for all of them. Few: the columns are met once.
        let step = if unit.len > D::MOST_ROWS { COLUMNS } else { end - start };
        for first in (start..end).step_by(step) {
            let mut row = 0;
            while row < unit.len {
                let (left, cols) = ((unit.len - row).min(D::MOST_ROWS), (first, end.min(first + step)));
                // Conditions on constants keep rows that an implementation does not take from being compiled.
                // SAFETY: the columns lie in the tile, checked above; positions in the unit.
                unsafe {
                    if left == 1 {
                        self.columns::<D, 1>(d, cols, row, left);
                    } else if const { D::MOST_ROWS > 1 } {
                        if left == 2 {
                            self.columns::<D, 2>(d, cols, row, left);
                        } else if left <= 4 {
                            self.columns::<D, 4>(d, cols, row, left);
                        } else if const { D::MOST_ROWS > 4 } {
                            self.columns::<D, 8>(d, cols, row, left);
                        }
                    }
                }
                row += left;
            }
        }
    }
}

/// A quantized row of the input.
#[derive(Clone, Copy)]
struct Row {
    ints: *const i8,
    scales: *const f32,
    sums: *const f32,
}

/// A row of weights.
#[derive(Clone, Copy)]
struct Line {
    codes: *const u8,
    scales: *const u8,
    biases: *const u8,
    /// Bytes that are readable from the scales on, and from the biases.
    left: usize,
}

impl Line {
    fn new(view: &View<'_>, row: usize) -> Line {
        let (scales, biases, left) = view.scale_row(row);
        Line { codes: view.row(row), scales, biases, left }
    }
}

impl<C: Codes, const GROUP: usize> Multiply<'_, C, GROUP> {
    const PLANES: usize = planes(C::BITS);
    /// Codes of a vector, and their bytes.
    const CODES: usize = BYTES * Self::PLANES;
    const CODE_BYTES: usize = Self::CODES * C::BITS as usize / 8;
    /// Vectors whose integers are summed before they are converted: those of one group.
    const VECTORS: usize = if GROUP > Self::CODES { GROUP / Self::CODES } else { 1 };
    /// Groups in that many vectors.
    const GROUPS: usize = Self::VECTORS * Self::CODES / GROUP;

    /// The products of some weight rows with the `count` input rows from position `first` on; the last is repeated up to
    /// `M`.
    ///
    /// # Safety
    /// The columns lie in the tile, the positions in its unit; this task alone writes them.
    #[inline(always)]
    unsafe fn columns<D: Dots, const M: usize>(&self, d: D, cols: (usize, usize), first: usize, count: usize) {
        let Input { job, memory, layout, tile } = self.0;
        let rows: [_; M] = std::array::from_fn(|i| job.positions(tile.unit, first + i.min(count - 1)));
        let x = rows.map(|(x_row, _)| {
            let line = memory[x_row * layout.stride..][..layout.stride].as_ptr();
            // SAFETY: the parts lie in the line.
            unsafe { Row { ints: line.cast(), scales: line.add(layout.scales), sums: line.add(layout.sums) } }
        });
        let stream = (cols.1 - cols.0).div_ceil(STREAMS);
        for step in 0..stream {
            let starts = (cols.0 + step..cols.1).step_by(stream);
            let mut lines =
                [Line { codes: std::ptr::null(), scales: std::ptr::null(), biases: std::ptr::null(), left: 0 };
                    STREAMS];
            for (line, col) in lines.iter_mut().zip(starts.clone()) {
                *line = Line::new(&job.view, tile.unit.matrix * job.n + col);
            }
            let mut acc = [[d.no_floats(); M]; STREAMS];
            for group in (0..job.view.groups).step_by(LANES) {
                for (line, acc) in lines.iter().zip(&mut acc).take(starts.len()) {
                    // SAFETY: the line lies in the matrix, the input rows were quantized for it.
                    unsafe { self.block::<D, M>(d, line, group, &x, acc) };
                }
            }
            for (acc, col) in acc.iter().zip(starts) {
                let sums = sums::<D, M>(d, acc);
                for (&sum, &(_, row)) in sums.iter().zip(&rows).take(count) {
                    // SAFETY: passed on.
                    unsafe { job.write(tile.unit, row, col, sum) };
                }
            }
        }
    }

    /// Adds the products of sixteen groups of a weight row, or as many as are left, from `first` on.
    ///
    /// # Safety
    /// `line` is a row of the matrix, `first` a multiple of 16 below its groups; the input rows have the layout of its
    /// columns.
    #[inline(always)]
    unsafe fn block<D: Dots, const M: usize>(
        &self,
        d: D,
        line: &Line,
        first: usize,
        x: &[Row; M],
        acc: &mut [D::Floats; M],
    ) {
        let view = &self.0.job.view;
        let (kind, code_end) = (view.scale_type(), view.code_end());
        let count = (view.groups - first).min(LANES);
        let offset = first * kind.size();
        let (scales, biases, left) =
            (line.scales.wrapping_add(offset), line.biases.wrapping_add(offset), line.left - offset);
        let mut parts = [d.parts(d.no_floats()); M];
        let mut sums = *acc;
        // SAFETY: the row has `count` more groups; the lists of the input are filled up to whole lanes.
        unsafe {
            d.prefetch(scales.wrapping_add(SCALES_AHEAD));
            let scale = d.scales(kind, scales, count, left);
            let (scale, bias) = if C::AFFINE {
                d.prefetch(biases.wrapping_add(SCALES_AHEAD));
                (scale, d.scales(kind, biases, count, left))
            } else {
                let half = d.mul(scale, d.splat(view.multiplier() * 0.5));
                (half, d.mul(half, d.splat(-12.0)))
            };
            for i in 0..M {
                parts[i] = d.parts(d.mul(scale, d.floats(x[i].scales.add(first))));
                sums[i] = d.fma(bias, d.floats(x[i].sums.add(first)), sums[i]);
            }
        }
        let mut at = first * GROUP / Self::CODES;
        for group in (0..count).step_by(Self::GROUPS) {
            let mut ints = [d.no_ints(); M];
            for _ in 0..Self::VECTORS {
                let p = line.codes.wrapping_add(at * Self::CODE_BYTES);
                d.prefetch(p.wrapping_add(AHEAD));
                // SAFETY: the vector begins in the row, and what the row lacks of it is read up to the matrix's end at most;
                // the integers of the input are filled up to whole vectors with zeros.
                unsafe {
                    let there = code_end as usize - p as usize;
                    let raw = if matches!(C::BITS, 3 | 5 | 6) { unpack::<D, C>(d, p, there) } else { d.load(p, there) };
                    for plane in 0..Self::PLANES {
                        let codes = C::plane(d, raw, plane);
                        for i in 0..M {
                            let a = x[i].ints.add(at * Self::CODES + plane * BYTES);
                            ints[i] = if C::WIDE {
                                d.dot::<true>(ints[i], codes, a)
                            } else {
                                d.dot::<false>(ints[i], codes, a)
                            };
                        }
                    }
                }
                at += 1;
            }
            for i in 0..M {
                let scale = match Self::GROUPS {
                    1 => d.spread::<16>(&parts[i], group),
                    2 => d.spread::<8>(&parts[i], group),
                    4 => d.spread::<4>(&parts[i], group),
                    _ => d.spread::<2>(&parts[i], group),
                };
                sums[i] = d.fma(d.convert(ints[i]), scale, sums[i]);
            }
        }
        *acc = sums;
    }
}

/// [`Dots::sum`] of each. A loop, not `map`: closures do not inherit the instructions of the function around them.
#[inline(always)]
fn sums<D: Dots, const M: usize>(d: D, acc: &[D::Floats; M]) -> [f32; M] {
    let mut sums = [0.0; M];
    for i in (0..M).step_by(4) {
        if i + 4 <= M {
            sums[i..i + 4].copy_from_slice(&d.sum4([acc[i], acc[i + 1], acc[i + 2], acc[i + 3]]));
        } else {
            for i in i..M {
                sums[i] = d.sum(acc[i]);
            }
        }
    }
    sums
}

/// [`Dots::unpack`] of a form's bits.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn unpack<D: Dots, C: Codes>(d: D, p: *const u8, n: usize) -> D::Bytes {
    // SAFETY: passed on.
    unsafe {
        match C::BITS {
            3 => d.unpack::<3>(p, n),
            5 => d.unpack::<5>(p, n),
            _ => d.unpack::<6>(p, n),
        }
    }
}

#[cfg(test)]
mod tests;
