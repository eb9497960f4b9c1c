//! The input as integers: how rows are quantized, and where their parts lie.

mod mixed;

use super::panels::MOST_ROWS;
use super::{Form, Job, Unit, Way, Work};
use crate::dots::{BYTES, Dots, DotsOp, LANES};
use crate::{Cpu, scratch};

/// Below this largest size (of a group) activations count as zero: its inverse would overflow.
const TINY: f32 = 1e-36;
/// The largest integer: both its digits are at most 127.
const MOST: f32 = 32_639.0;
/// Elements below which handing rows to another thread costs more than it saves.
const MIN_TASK: usize = 1 << 14;

/// The rows of an input for products of few: each with its digits, for each vector of codes the high ones, plane after plane,
/// then the low ones, and after the digits lists of its groups' scales and of their sums times the scales. The lists go on with
/// zeros to whole vectors of codes and sixteen groups.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    memory: &'a [f32],
    layout: Layout,
}

/// Where the parts of a row lie, in units of four bytes.
#[derive(Clone, Copy)]
struct Layout {
    /// Length of the row.
    stride: usize,
    /// Where the groups' scales begin.
    scales: usize,
    /// Where the groups' sums begin.
    sums: usize,
}

impl Layout {
    fn new(cols: usize, form: Form) -> Layout {
        let digits = 2 * cols.next_multiple_of(BYTES * form.planes()) / 4;
        let groups = (cols / form.group).next_multiple_of(LANES);
        Layout { stride: digits + 2 * groups, scales: digits, sums: digits + groups }
    }
}

/// A quantized row.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) digits: *const i8,
    pub(super) scales: *const f32,
    pub(super) sums: *const f32,
}

impl Rows<'_> {
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> Row {
        let line = self.memory[row * self.layout.stride..][..self.layout.stride].as_ptr();
        // SAFETY: the parts lie in the line.
        unsafe { Row { digits: line.cast(), scales: line.add(self.layout.scales), sums: line.add(self.layout.sums) } }
    }
}

/// The rows of an input for products of many: those of each unit in tiles of [`Dots::TILE_ROWS`], which meet the weights together.
/// A tile has for each group of weights a [`Block`].
#[derive(Clone, Copy)]
pub(super) struct Tiles<'a> {
    memory: &'a [f32],
    /// Rows of a tile.
    rows: usize,
    /// Floats of a tile.
    stride: usize,
    pub(super) block: Block,
}

impl Tiles<'_> {
    /// The first block of the tile that has a unit's rows from position `at` on, a multiple of a tile's.
    #[inline(always)]
    pub(super) fn tile(&self, unit: Unit, at: usize) -> *const f32 {
        let tile = first_tile(unit, self.rows) + at / self.rows;
        self.memory[tile * self.stride..][..self.stride].as_ptr()
    }
}

/// Number of a unit's first tile: no two units' tiles are the same, and few numbers belong to none.
#[inline(always)]
fn first_tile(unit: Unit, tile_rows: usize) -> usize {
    unit.start / tile_rows + unit.index
}

/// How the groups of some rows lie together, in units of four bytes: four digits of a row next to the same of the other rows, all
/// high digits, plane after plane, before the low ones; then the rows' scales, and their sums times the scales.
///
/// If only some fours of each row have high digits, these come after one another, and behind them where the codes lie that they
/// meet, in bytes of a panel's group.
///
/// Numbers that are not taken apart ([`Dots::WORDS`]) lie there as two digits would: those for the even codes of a four first.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Whether numbers are not taken apart.
    pub(super) words: bool,
    /// Fours of a row that have high digits, if not all have.
    pub(super) large: Option<usize>,
    /// Where the fours' places begin.
    pub(super) places: usize,
    /// Where the low digits begin.
    pub(super) low: usize,
    /// Where the scales begin.
    pub(super) scales: usize,
    /// Where the sums begin.
    pub(super) sums: usize,
    /// Length of a block.
    pub(super) len: usize,
}

impl Block {
    #[inline(always)]
    fn new(group: usize, rows: usize, mixed: bool, words: bool) -> Block {
        let mixed = mixed && !words;
        let large = mixed.then_some(group / 4 / mixed::ONE_OF);
        let places = large.unwrap_or(group / 4) * rows;
        let low = if mixed { 2 * places } else { places };
        let scales = low + group / 4 * rows;
        Block { words, large, places, low, scales, sums: scales + rows, len: scales + 2 * rows }
    }
}

/// Memory whose parts are written by several threads.
struct Lines(*mut f32);

// SAFETY: tasks write disjoint lines of memory that the caller of the pool holds exclusively.
unsafe impl Sync for Lines {}

impl Lines {
    /// # Safety
    /// The part lies in the memory, and is this task's alone.
    #[allow(clippy::mut_from_ref, reason = "as the safety section says")]
    unsafe fn part(&self, start: usize, len: usize) -> &mut [f32] {
        // SAFETY: passed on.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Quantizes the rows of a product with few and passes them on.
pub(super) fn rows(way: Way, cpu: &Cpu, job: &Job<'_>, then: impl FnOnce(Rows<'_>)) {
    let (cols, form) = (job.view.cols, way.form);
    let layout = Layout::new(cols, form);
    // A matrix without columns has nothing to quantize, but its rows are read.
    let rows = job.x.len().checked_div(cols).unwrap_or(0);
    scratch::shared_floats(rows * layout.stride, |memory| {
        let lines = Lines(memory.as_mut_ptr());
        cpu.pool.chunks(rows, 1, MIN_TASK.div_ceil(cols.max(1)), |range| {
            for row in range {
                // SAFETY: each row is one task's, and its line lies in the memory.
                let line = unsafe { lines.part(row * layout.stride, layout.stride) };
                let target = Line { x: &job.x[row * cols..][..cols], line, layout };
                way.kernel.run(Quantize { form, groups: job.view.groups, target });
            }
        });
        then(Rows { memory, layout });
    });
}

/// Quantizes the rows of a product with many and passes them on.
pub(super) fn tiles(way: Way, cpu: &Cpu, job: &Job<'_>, work: &Work<'_>, then: impl FnOnce(Tiles<'_>)) {
    let (cols, tile_rows) = (job.view.cols, way.kernel.tile_rows());
    let block = Block::new(way.form.group, tile_rows, way.mixed, way.form.is_wide() && way.kernel.words());
    let (groups, group) = (job.view.groups, way.form.group);
    let stride = groups * block.len;
    let count = work.rows / tile_rows + work.units;
    // Few tiles are shared out in pieces, of whole steps of the targets.
    let least = (MIN_TASK / (group * tile_rows)).max(1);
    let piece = groups.div_ceil((cpu.pool.threads() / count).max(1)).max(least).next_multiple_of(LANES);
    let pieces = groups.div_ceil(piece).max(1);
    scratch::shared_floats(count * stride, |memory| {
        let lines = Lines(memory.as_mut_ptr());
        cpu.pool.chunks(count * pieces, 1, MIN_TASK.div_ceil(piece * group * tile_rows), |range| {
            let mut next = 0;
            for i in range {
                let (tile, part) = (i / pieces, i % pieces * piece..groups.min((i % pieces + 1) * piece));
                // The last unit that begins here or before; most often that of the tile before.
                next += (next..work.units).take_while(|&i| first_tile((work.unit)(i), tile_rows) <= tile).count();
                let unit = (work.unit)(next - 1);
                let at = (tile - first_tile(unit, tile_rows)) * tile_rows;
                let mut x = [const { &[] as &[f32] }; MOST_ROWS];
                for (i, x) in (at..unit.len).take(tile_rows).zip(&mut x) {
                    *x = &job.x[job.positions(unit, i).0 * cols..][part.start * group..part.end * group];
                }
                let (form, groups) = (way.form, part.len());
                // SAFETY: each part of a tile is one task's, and lies in the memory.
                let line = unsafe { lines.part(tile * stride + part.start * block.len, groups * block.len) };
                if way.mixed {
                    way.kernel.run(Quantize { form, groups, target: mixed::Tile { x, line, block } });
                } else {
                    way.kernel.run(Quantize { form, groups, target: Tile { x, line, block } });
                }
            }
        });
        then(Tiles { memory, rows: tile_rows, stride, block });
    });
}

/// What is quantized, and where it is put.
trait Target {
    /// Fills what so many groups leave.
    #[inline(always)]
    fn begin<const GROUP: usize, const PLANES: usize>(&mut self, _groups: usize) {}
    /// Takes over the group `g`, whose digits lie in so many planes, and the others of a step.
    fn group<D: Dots, const GROUP: usize, const PLANES: usize>(&mut self, d: D, g: usize);
    /// Groups that are taken over together.
    #[inline(always)]
    fn step<D: Dots>() -> usize {
        1
    }
}

/// Quantizes a row, or several.
struct Quantize<T> {
    form: Form,
    groups: usize,
    target: T,
}

impl<T: Target> DotsOp for Quantize<T> {
    #[inline(always)]
    fn eval<D: Dots>(self, d: D) {
        match self.form.group {
            16 => self.planes::<D, 16>(d),
            32 => self.planes::<D, 32>(d),
            64 => self.planes::<D, 64>(d),
            _ => self.planes::<D, 128>(d),
        }
    }
}

impl<T: Target> Quantize<T> {
    #[inline(always)]
    fn planes<D: Dots, const GROUP: usize>(self, d: D) {
        match self.form.planes() {
            1 => self.groups::<D, GROUP, 1>(d),
            2 => self.groups::<D, GROUP, 2>(d),
            _ => self.groups::<D, GROUP, 4>(d),
        }
    }

    #[inline(always)]
    fn groups<D: Dots, const GROUP: usize, const PLANES: usize>(mut self, d: D) {
        self.target.begin::<GROUP, PLANES>(self.groups);
        for g in (0..self.groups).step_by(T::step::<D>()) {
            self.target.group::<D, GROUP, PLANES>(d, g);
        }
    }
}

/// A row of [`Rows`].
struct Line<'a> {
    x: &'a [f32],
    line: &'a mut [f32],
    layout: Layout,
}

impl Line<'_> {
    #[inline(always)]
    fn parts(&mut self) -> (&mut [u8], &mut [f32], &mut [f32]) {
        let (digits, rest) = self.line.split_at_mut(self.layout.scales);
        let (scales, sums) = rest.split_at_mut(self.layout.sums - self.layout.scales);
        // SAFETY: floats are four bytes without padding, and any bytes are integers (and floats, afterwards).
        let digits = unsafe { std::slice::from_raw_parts_mut(digits.as_mut_ptr().cast::<u8>(), 4 * digits.len()) };
        (digits, scales, sums)
    }
}

impl Target for Line<'_> {
    #[inline(always)]
    fn group<D: Dots, const GROUP: usize, const PLANES: usize>(&mut self, _: D, g: usize) {
        let codes = BYTES * PLANES;
        // Codes of a group that lie together.
        let part = codes.min(GROUP);
        let rounded = round::<GROUP>(self.x, g);
        let (digits, scales, sums) = self.parts();
        (scales[g], sums[g]) = (rounded.scale, rounded.sum);
        for (i, (high, low)) in rounded.high.chunks_exact(part).zip(rounded.low.chunks_exact(part)).enumerate() {
            let at = g * GROUP + i * part;
            let from = at / codes * codes * 2 + at % codes / PLANES;
            for (bytes, from) in [(high, from), (low, from + codes)] {
                for plane in 0..PLANES {
                    take_plane::<PLANES>(bytes, plane, &mut digits[from + plane * BYTES..][..part / PLANES]);
                }
            }
        }
    }

    #[inline(always)]
    fn begin<const GROUP: usize, const PLANES: usize>(&mut self, groups: usize) {
        let codes = BYTES * PLANES;
        let (digits, scales, sums) = self.parts();
        digits[groups * GROUP / codes * codes * 2..].fill(0);
        scales[groups..].fill(0.0);
        sums[groups..].fill(0.0);
    }
}

/// A tile of [`Tiles`]. Rows that it lacks are empty, and become zeros.
struct Tile<'a> {
    x: [&'a [f32]; MOST_ROWS],
    line: &'a mut [f32],
    block: Block,
}

impl Target for Tile<'_> {
    #[inline(always)]
    fn group<D: Dots, const GROUP: usize, const PLANES: usize>(&mut self, _: D, g: usize) {
        let at = self.block;
        let block = &mut self.line[g * at.len..][..at.len];
        let mut digits = [[[0u8; GROUP]; MOST_ROWS]; 2];
        let [high, low] = &mut digits;
        for (i, x) in self.x.iter().enumerate().take(D::TILE_ROWS) {
            let rounded = if x.is_empty() { Rounded::zero() } else { round::<GROUP>(x, g) };
            for (bytes, digits) in [(&rounded.high, &mut high[i]), (&rounded.low, &mut low[i])] {
                for (plane, digits) in digits.chunks_exact_mut(GROUP / PLANES).enumerate() {
                    take_plane::<PLANES>(bytes, plane, digits);
                }
            }
            (block[at.scales + i], block[at.sums + i]) = (rounded.scale, rounded.sum);
        }
        if at.words {
            digits = words::<GROUP>(digits);
        }
        for (digits, block) in digits.iter().zip(block.chunks_exact_mut(at.places)) {
            for (quad, block) in block.chunks_exact_mut(D::TILE_ROWS).enumerate() {
                for (digits, out) in digits.iter().zip(block) {
                    *out = f32::from_ne_bytes(digits.as_chunks().0[quad]);
                }
            }
        }
    }
}

/// From high and low digits of fours of numbers the numbers, two of each four: those at even places, then those at odd ones.
#[inline(always)]
fn words<const GROUP: usize>([high, low]: [[[u8; GROUP]; MOST_ROWS]; 2]) -> [[[u8; GROUP]; MOST_ROWS]; 2] {
    let mut words = [high, low];
    for row in 0..MOST_ROWS {
        for i in 0..GROUP {
            let number = (i16::from(high[row][i] as i8) << 8).wrapping_add(i16::from(low[row][i] as i8)).to_le_bytes();
            words[i % 2][row][i / 4 * 4 + i % 4 / 2 * 2..][..2].copy_from_slice(&number);
        }
    }
    words
}

/// A group of a row as integers.
struct Rounded<const GROUP: usize> {
    high: [u8; GROUP],
    low: [u8; GROUP],
    scale: f32,
    /// The sum of the integers, times the scale.
    sum: f32,
}

impl<const GROUP: usize> Rounded<GROUP> {
    fn zero() -> Self {
        Rounded { high: [0; GROUP], low: [0; GROUP], scale: 0.0, sum: 0.0 }
    }
}

/// Rounds the group `g` of a row.
#[inline(always)]
fn round<const GROUP: usize>(x: &[f32], g: usize) -> Rounded<GROUP> {
    let x = &x.as_chunks().0[g];
    let (scale, inverse) = scale_of::<GROUP>(x);
    let (mut high, mut low, mut sum) = ([0u8; GROUP], [0u8; GROUP], 0i32);
    for ((x, high), low) in x.iter().zip(&mut high).zip(&mut low) {
        // Adding 1.5 * 2^23 rounds to nearest and leaves the integer in the low bits.
        let int = (x * inverse + 12_582_912.0).to_bits() as u16;
        (*high, *low) = ((int.wrapping_add(128) >> 8) as u8, int as u8);
        sum += i32::from(int as i16);
    }
    Rounded { high, low, scale, sum: scale * sum as f32 }
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
