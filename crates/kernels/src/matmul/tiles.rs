//! Prompts on units that multiply tiles of bf16: AMX, or vectors of bf16 where there is no AMX.
//!
//! The weights are the left operand, because sixteen rows of 32 consecutive columns are a tile as they lie: decoding needs no
//! transposition. The input is the right operand; it is rounded to bf16 and laid out once per call, for all threads. So the sums
//! come out with a line for each row of weights, and are transposed on their way to the result.
//!
//! A task takes some rows of weights and keeps their sums with all input rows in the second cache. Columns go by in panels: a
//! strip of weights is decoded into the first cache for one panel and meets all input rows from there.
//!
//! Sums over columns are in one order whatever the number of input rows and threads. Operands are rounded to 8 bits of
//! precision, products and sums are single precision: an element errs by at most
//! `(2⁻⁷ + 2⁻¹⁶ + (k + 2) · 2⁻²⁴) · Σ |x| |w|`, and subnormal numbers count as zero.

use std::ops::Range;

use super::Out;
use crate::arch::tiles::{Block, DEPTH, Inputs, SIDE, SUMS, Scalar, TILE, Target, TileOps};
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::{Amx, Avx512Bf16};
use crate::codec::View;
use crate::weights::{Elements, Float, Matrix};
use crate::{Cpu, Isa, scratch};

/// Input rows that are laid out at a time: a panel of them stays in the second cache while weights go by.
const BLOCK_M: usize = 512;
/// Weight rows of a task while all columns of the input rows fit into the second cache.
const ROWS: usize = 128;
/// Weight rows of a task beyond: it reads the whole input from the third cache, which the multiplications must outweigh.
const MOST_ROWS: usize = 512;
/// Bytes of input that the second cache holds besides the sums.
const CACHED: usize = 1 << 20;
/// Fewest input rows that are worth the decoding and a tile's rows.
const LEAST_ROWS: usize = 16;
const _: () = assert!(LEAST_ROWS > super::FEW_ROWS, "few rows are computed as one is");

/// A unit that multiplies tiles: each variant holds a token that exists only if the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileUnit {
    /// Plain loops that add in the order of AMX; slow, for tests of the arrangement.
    Scalar(Scalar),
    /// AVX-512 with BF16.
    #[cfg(target_arch = "x86_64")]
    Bf16(Avx512Bf16),
    /// AMX with bf16.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
}

impl TileUnit {
    /// The fastest unit that belongs to the instruction set, if there is one that is faster than single precision.
    pub fn best(isa: Isa) -> Option<Self> {
        Self::detect(isa).into_iter().flatten().rfind(|unit| match unit {
            Self::Scalar(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(unit) => unit.pays(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => true,
        })
    }

    /// All units that belong to the instruction set, slowest first.
    pub fn available(isa: Isa) -> Vec<Self> {
        Self::detect(isa).into_iter().flatten().collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn detect(isa: Isa) -> [Option<Self>; 3] {
        let wide = matches!(isa, Isa::Avx512(_));
        let bf16 = Avx512Bf16::new().filter(|_| wide).map(Self::Bf16);
        [Some(Self::Scalar(Scalar)), bf16, Amx::new().filter(|_| wide).map(Self::Amx)]
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect(_: Isa) -> [Option<Self>; 1] {
        [Some(Self::Scalar(Scalar))]
    }

    /// Whether it multiplies whole tiles at a time, many times as fast as vectors.
    fn is_matrix_unit(self) -> bool {
        match self {
            Self::Scalar(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => true,
        }
    }

    /// Short name: `scalar`, `bf16` or `amx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(_) => "bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_) => "amx",
        }
    }

    /// Multiplies in registers alone, `rounds` times on every thread, and returns the floating-point operations of all: what
    /// the products' speed is compared with.
    pub fn spin(self, cpu: &Cpu, rounds: usize) -> f64 {
        struct Spin<'a>(&'a Cpu, usize);
        impl WithUnit for Spin<'_> {
            type Output = f64;
            fn call<T: TileOps>(self, unit: T) -> f64 {
                // Many short tasks, so that all threads end together.
                let tasks = 32 * self.0.pool.threads();
                self.0.pool.run(tasks, &|_| {
                    let mut session = unit.begin();
                    std::hint::black_box(unit.spin(&mut session, self.1.div_ceil(32)));
                });
                tasks as f64 * unit.spin(&mut unit.begin(), self.1.div_ceil(32))
            }
        }
        self.with(Spin(cpu, rounds))
    }

    /// Calls the computation with the unit's token.
    pub(super) fn with<W: WithUnit>(self, work: W) -> W::Output {
        match self {
            Self::Scalar(unit) => work.call(unit),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(unit) => work.call(unit),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(unit) => work.call(unit),
        }
    }
}

/// A computation written once for every unit.
pub(super) trait WithUnit {
    type Output;
    fn call<T: TileOps>(self, unit: T) -> Self::Output;
}

/// The unit that [`matmul_tiles`] uses for `rows` input rows. Weights of `f32` would lose too much, and quantized ones meet
/// integers, which are more exact, at no less than the speed of vectors.
pub(super) fn unit_for(cpu: &Cpu, w: &Matrix<'_>, rows: usize) -> Option<TileUnit> {
    let best = TileUnit::best(cpu.isa).filter(|_| rows >= LEAST_ROWS)?;
    let pays = match w.elements {
        Elements::Dense(Float::F32, _) => false,
        Elements::Dense(..) => true,
        Elements::Quantized(_) => best.is_matrix_unit(),
    };
    pays.then_some(best)
}

/// Name of the kernel that [`matmul_tiles`] uses, as in `x86_64-amx-affine4g64-tiles`; none where it returns `false`.
pub(super) fn kernel_name(cpu: &Cpu, w: &Matrix<'_>, rows: usize) -> Option<String> {
    let unit = unit_for(cpu, w, rows)?;
    Some(format!("{}-{}-{}-tiles", std::env::consts::ARCH, unit.name(), super::form_name(&w.elements)))
}

/// [`super::matmul`] with operands rounded to bf16, or `false` and nothing done where the processor has no unit that is faster
/// so, the input has too few rows, or the weights are `f32`: the caller takes another way then.
pub fn matmul_tiles(cpu: &Cpu, x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) -> bool {
    let rows = super::rows_of(out.len(), w.rows, x.len(), w.cols);
    let Some(unit) = unit_for(cpu, w, rows) else { return false };
    matmul_on(unit, cpu, x, w, bias, out);
    true
}

/// [`matmul_tiles`] on a unit of choice, for any number of rows.
pub fn matmul_on(unit: TileUnit, cpu: &Cpu, x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    struct Run<'a>(Job<'a>, &'a Cpu, usize);
    impl WithUnit for Run<'_> {
        type Output = ();
        fn call<T: TileOps>(self, unit: T) {
            for start in (0..self.2).step_by(BLOCK_M) {
                self.0.block(unit, self.1, start..self.2.min(start + BLOCK_M));
            }
        }
    }
    let view = View::new(w);
    let m = super::rows_of(out.len(), w.rows, x.len(), w.cols);
    assert_eq!((x.len(), out.len()), (m * w.cols, m * w.rows), "[{m}, {}] x [{}, {}]", w.cols, w.rows, w.cols);
    assert!(bias.is_none_or(|b| b.len() == w.rows), "a bias per row of the matrix");
    if m > 0 && w.rows > 0 {
        unit.with(Run(Job { view, x, bias, out: Out(out.as_mut_ptr()) }, cpu, m));
    }
}

/// One product; the sizes of its slices have been checked.
struct Job<'a> {
    view: View<'a>,
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    out: Out,
}

/// The input rows of one block, laid out: a strip of tiles for each 16 of them.
struct Packed<'a> {
    tiles: &'a [u16],
    rows: Range<usize>,
    /// Tiles of a strip.
    steps: usize,
}

impl Packed<'_> {
    fn strips(&self) -> usize {
        self.rows.len().div_ceil(SIDE)
    }
}

impl Job<'_> {
    /// Computes some input rows.
    fn block<T: TileOps>(&self, unit: T, cpu: &Cpu, rows: Range<usize>) {
        let (strips, steps) = (rows.len().div_ceil(SIDE), self.view.cols.div_ceil(DEPTH));
        scratch::shared_floats(strips * steps * TILE / 2, |memory| {
            let to = Tiles16(memory.as_mut_ptr().cast());
            cpu.pool.run(strips, &|strip| {
                let first = rows.start + strip * SIDE;
                // SAFETY: each task has a strip of its own in the memory.
                unsafe { self.pack(unit, first..rows.end.min(first + SIDE), to.at(strip * steps * TILE)) };
            });
            // SAFETY: the strips have all been written, and floats and pairs of bf16 have the same size.
            let tiles = unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), 2 * memory.len()) };
            let packed = Packed { tiles, rows: rows.clone(), steps };
            let chunk = self.chunk::<T>(cpu.pool.threads(), size_of_val(tiles));
            cpu.pool.run(self.view.rows.div_ceil(chunk), &|task| {
                let start = task * chunk;
                self.task(unit, &packed, start..self.view.rows.min(start + chunk));
            });
        });
    }

    /// Lays out a strip of input rows.
    ///
    /// # Safety
    /// `to` is writable for all tiles of the strip, and no other thread has them.
    unsafe fn pack<T: TileOps>(&self, unit: T, rows: Range<usize>, to: *mut u16) {
        let k = self.view.cols;
        for (step, col) in (0..k).step_by(DEPTH).enumerate() {
            let x = self.x[rows.start * k + col..].as_ptr();
            let from = Inputs { x, stride: k, rows: rows.len(), cols: DEPTH.min(k - col) };
            // SAFETY: the rows lie in the input; the caller vouches for the tiles.
            unsafe { unit.pack(from, to.add(step * TILE)) };
        }
    }

    /// Weight rows of a task: whole strips, the same for each thread.
    fn chunk<T: TileOps>(&self, threads: usize, input: usize) -> usize {
        let most = if input <= CACHED { ROWS } else { MOST_ROWS };
        let rounds = self.view.rows.div_ceil(most * threads);
        self.view.rows.div_ceil(rounds * threads).next_multiple_of(T::ROWS * SIDE)
    }

    /// Columns of a panel: whole steps and groups, and as many in each panel.
    fn panel<T: TileOps>(&self) -> usize {
        let whole = match self.view.elements {
            Elements::Dense(..) => DEPTH,
            Elements::Quantized(_) => self.view.group * DEPTH / common(self.view.group, DEPTH),
        };
        let most = (T::STEPS * DEPTH / whole).max(1) * whole;
        let panels = self.view.cols.div_ceil(most).max(1);
        self.view.cols.div_ceil(panels).next_multiple_of(whole).max(whole)
    }

    /// Computes the elements of some weight rows.
    fn task<T: TileOps>(&self, unit: T, packed: &Packed<'_>, rows: Range<usize>) {
        let (panel, strips) = (self.panel::<T>(), packed.strips());
        let lines = rows.len().div_ceil(SIDE);
        let weights = T::ROWS * (panel / DEPTH) * TILE / 2;
        scratch::floats(weights + lines * strips * SUMS, |memory| {
            let (weights, sums) = memory.split_at_mut(weights);
            let mut session = unit.begin();
            for start in (0..self.view.cols.max(1)).step_by(panel) {
                for line in (0..lines).step_by(T::ROWS) {
                    let first = rows.start + line * SIDE;
                    let part = Part {
                        rows: first..rows.end.min(first + T::ROWS * SIDE),
                        cols: start..self.view.cols.min(start + panel),
                        next: rows.end.min(first + T::ROWS * SIDE)..rows.end.min(first + 2 * T::ROWS * SIDE),
                    };
                    self.part(unit, &mut session, packed, part, weights, &mut sums[line * strips * SUMS..]);
                }
            }
            drop(session);
            self.write(unit, packed, rows, sums);
        });
    }

    /// Decodes a strip of weights and multiplies it with all strips of the input.
    fn part<T: TileOps>(
        &self,
        unit: T,
        session: &mut T::Session,
        packed: &Packed<'_>,
        part: Part,
        weights: &mut [f32],
        sums: &mut [f32],
    ) {
        let (strips, steps) = (packed.strips(), part.cols.len().div_ceil(DEPTH));
        let lines = part.rows.len().div_ceil(SIDE);
        assert!(T::ROWS * steps * TILE <= 2 * weights.len() && lines * strips * SUMS <= sums.len());
        let weights: *mut u16 = weights.as_mut_ptr().cast();
        let mut block = Block {
            weights,
            weights_stride: steps * TILE,
            inputs: packed.tiles[part.cols.start / DEPTH * TILE..].as_ptr(),
            inputs_stride: packed.steps * TILE,
            sums: sums.as_mut_ptr(),
            sums_stride: strips * SUMS,
            rows: lines,
            cols: 0,
            steps,
            first: part.cols.start == 0,
        };
        // SAFETY: the columns are whole groups or end the row.
        unsafe { unit.decode(&self.view, part.rows, part.cols.clone(), steps, weights) };
        // The products take no memory's time, so the next weights come meanwhile, some rows for each block of sums.
        let ahead = part.next.len().div_ceil(strips.div_ceil(T::COLS));
        let mut next = part.next;
        for at in (0..strips).step_by(T::COLS) {
            for row in next.by_ref().take(ahead) {
                let (bytes, len) = self.view.bytes(row, part.cols.clone());
                (0..len + 63).step_by(64).for_each(|i| unit.prefetch(bytes.wrapping_add(i)));
            }
            block.cols = T::COLS.min(strips - at);
            // SAFETY: the memory has room for the strips, as asserted, and the input has all steps of its strips.
            unsafe { unit.multiply(session, &block) };
            block.inputs = block.inputs.wrapping_add(T::COLS * block.inputs_stride);
            block.sums = block.sums.wrapping_add(T::COLS * SUMS);
        }
    }

    /// Writes a task's sums. A row of the result gets all its elements in turn: rows are far apart in memory.
    fn write<T: TileOps>(&self, unit: T, packed: &Packed<'_>, rows: Range<usize>, sums: &[f32]) {
        let (strips, n) = (packed.strips(), self.view.rows);
        for strip in 0..strips {
            let first = packed.rows.start + strip * SIDE;
            for (line, row) in rows.clone().step_by(SIDE).enumerate() {
                let target = Target {
                    out: self.out.0.wrapping_add(first * n + row),
                    stride: n,
                    rows: SIDE.min(rows.end - row),
                    cols: SIDE.min(packed.rows.end - first),
                    bias: self.bias.map_or(std::ptr::null(), |bias| bias[row..].as_ptr()),
                };
                // SAFETY: the elements lie in the result and are this task's; the bias is as long as the matrix has rows.
                unsafe { unit.write(sums[(line * strips + strip) * SUMS..].as_ptr(), target) };
            }
        }
    }
}

/// Rows and columns of weights that are decoded together, and the rows after them.
struct Part {
    rows: Range<usize>,
    cols: Range<usize>,
    next: Range<usize>,
}

/// Where tiles of the input go: tasks write disjoint strips.
#[derive(Clone, Copy)]
struct Tiles16(*mut u16);

impl Tiles16 {
    fn at(self, element: usize) -> *mut u16 {
        self.0.wrapping_add(element)
    }
}

// SAFETY: tasks write disjoint parts of memory that the caller holds exclusively.
unsafe impl Sync for Tiles16 {}
// SAFETY: as above.
unsafe impl Send for Tiles16 {}

/// The greatest common divisor.
fn common(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common(b, a % b) }
}
