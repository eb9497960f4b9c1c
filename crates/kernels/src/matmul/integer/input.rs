//! The input as integers: how rows are quantized, and where their parts lie.

use super::{Form, Job, Kernel};
use crate::dots::{BYTES, Dots, DotsOp, LANES};
use crate::{Cpu, scratch};

/// Below this largest size (of a group) activations count as zero: its inverse would overflow.
const TINY: f32 = 1e-36;
/// The largest integer: both its digits are at most 127.
const MOST: f32 = 32_639.0;
/// Elements below which handing rows to another thread costs more than it saves.
const MIN_TASK: usize = 1 << 14;

/// The order of a quantized row's digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// For each vector of codes the high digits, plane after plane, then the low ones.
    Vectors,
    /// For each group the high digits, plane after plane, then the low ones.
    Groups,
}

/// Where the parts of a quantized row lie, in units of four bytes. First come the digits.
#[derive(Clone, Copy)]
struct Layout {
    order: Order,
    /// Length of the row.
    stride: usize,
    /// Where the groups' scales begin.
    scales: usize,
    /// Where the groups' sums, times their scales, begin.
    sums: usize,
}

impl Layout {
    fn new(cols: usize, form: Form, order: Order) -> Layout {
        let digits = 2 * cols.next_multiple_of(BYTES * form.planes()) / 4;
        let groups = (cols / form.group).next_multiple_of(LANES);
        Layout { order, stride: digits + 2 * groups, scales: digits, sums: digits + groups }
    }
}

/// All rows of an input, quantized.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    memory: &'a [f32],
    layout: Layout,
}

/// A quantized row. The lists go on with zeros to whole vectors of codes and sixteen groups.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) digits: *const i8,
    pub(super) scales: *const f32,
    pub(super) sums: *const f32,
}

impl Input<'_> {
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> Row {
        let line = self.memory[row * self.layout.stride..][..self.layout.stride].as_ptr();
        // SAFETY: the parts lie in the line.
        unsafe { Row { digits: line.cast(), scales: line.add(self.layout.scales), sums: line.add(self.layout.sums) } }
    }
}

/// Quantizes all rows of a product's input and passes them on.
pub(super) fn quantize(
    (kernel, form): (Kernel, Form),
    order: Order,
    cpu: &Cpu,
    job: &Job<'_>,
    then: impl FnOnce(Input<'_>),
) {
    struct Lines(*mut f32);
    // SAFETY: tasks write disjoint lines of memory that the caller of the pool holds exclusively.
    unsafe impl Sync for Lines {}
    impl Lines {
        fn at(&self, element: usize) -> *mut f32 {
            self.0.wrapping_add(element)
        }
    }
    let cols = job.view.cols;
    let layout = Layout::new(cols, form, order);
    // A matrix without columns has nothing to quantize, but its rows are read.
    let rows = job.x.len().checked_div(cols).unwrap_or(0);
    scratch::shared_floats(rows * layout.stride, |memory| {
        let lines = Lines(memory.as_mut_ptr());
        cpu.pool.chunks(rows, 1, MIN_TASK.div_ceil(cols.max(1)), |range| {
            for row in range {
                let x = &job.x[row * cols..][..cols];
                // SAFETY: each row is one task's, and its line lies in the memory.
                let line = unsafe { std::slice::from_raw_parts_mut(lines.at(row * layout.stride), layout.stride) };
                kernel.run(Quantize { x, line, layout, form });
            }
        });
        then(Input { memory, layout });
    });
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
        let codes = BYTES * PLANES;
        // Codes of a group that lie together, and the distances of their planes and of the low digits from the high ones.
        let (part, plane_stride, low_digits) = match self.layout.order {
            Order::Vectors => (codes.min(GROUP), BYTES, codes),
            Order::Groups => (GROUP, GROUP / PLANES, GROUP),
        };
        let (digits, rest) = self.line.split_at_mut(self.layout.scales);
        let (scales, sums) = rest.split_at_mut(self.layout.sums - self.layout.scales);
        // SAFETY: floats are four bytes without padding, and any bytes are integers (and floats, afterwards).
        let digits = unsafe { std::slice::from_raw_parts_mut(digits.as_mut_ptr().cast::<u8>(), 4 * digits.len()) };
        let groups = self.x.len() / GROUP;
        digits[self.x.len() / codes * codes * 2..].fill(0);
        scales[groups..].fill(0.0);
        sums[groups..].fill(0.0);
        for (g, x) in self.x.as_chunks::<GROUP>().0.iter().enumerate() {
            let (scale, inverse) = scale_of(x);
            let (mut high, mut low, mut sum) = ([0u8; GROUP], [0u8; GROUP], 0i32);
            for ((x, high), low) in x.iter().zip(&mut high).zip(&mut low) {
                // Adding 1.5 * 2^23 rounds to nearest and leaves the integer in the low bits.
                let int = (x * inverse + 12_582_912.0).to_bits() as u16;
                (*high, *low) = ((int.wrapping_add(128) >> 8) as u8, int as u8);
                sum += i32::from(int as i16);
            }
            (scales[g], sums[g]) = (scale, scale * sum as f32);
            for (i, (high, low)) in high.chunks_exact(part).zip(low.chunks_exact(part)).enumerate() {
                let at = g * GROUP + i * part;
                let from = match self.layout.order {
                    Order::Vectors => at / codes * codes * 2 + at % codes / PLANES,
                    Order::Groups => 2 * at,
                };
                for (bytes, from) in [(high, from), (low, from + low_digits)] {
                    for plane in 0..PLANES {
                        let out = &mut digits[from + plane * plane_stride..][..part / PLANES];
                        take_plane::<PLANES>(bytes, plane, out);
                    }
                }
            }
        }
    }
}

/// Byte `plane` of every `PLANES` bytes, by shifts of words: strided reads of single bytes are not vectorized.
#[inline(always)]
fn take_plane<const PLANES: usize>(bytes: &[u8], plane: usize, out: &mut [u8]) {
    match PLANES {
        1 => out.copy_from_slice(bytes),
        2 => {
            for (out, word) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = (u16::from_le_bytes(*word) >> (8 * plane)) as u8;
            }
        }
        _ => {
            for (out, word) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = (u32::from_le_bytes(*word) >> (8 * plane)) as u8;
            }
        }
    }
}

/// The step with which a group is rounded to integers of at most [`MOST`], and its inverse. NaN, and with it all products of
/// the group, if an element is not finite.
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
        (most / MOST, MOST / most)
    }
}
