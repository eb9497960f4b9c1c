//! Products with weight matrices, dense or quantized, where the weights are used as they lie in the file.
//!
//! An element of `x · Wᵀ` is a sum over `k` in one vector accumulator: lane `l` takes the products at `l`, `l + LANES`, … in
//! that order, the lanes are added in a fixed order, then the bias. Every kernel here keeps that order, so the bits of an
//! element depend on neither the number of rows nor of threads, and `choose` may pick by speed alone.

mod blocked;
mod direct;
mod integer;
mod tiles;
mod untransposed;

pub use integer::{fast_kernel_name, gather_matmul_fast, matmul_fast};
pub use tiles::{TileUnit, matmul_on, matmul_tiles};

use crate::codec::View;
use crate::weights::{Elements, Float, Matrix, Precision};
use crate::{Cpu, scratch};

/// Weight rows that the blocked kernel decodes at a time; tasks are made of such blocks.
const BLOCK_N: usize = 16;
/// Most input rows of a task.
const BLOCK_M: usize = 96;
/// Input rows of a unit, on average, up to which the fast precision reads codes as they lie, each row as if alone.
pub(crate) const FEW_ROWS: usize = 4;
/// Multiplications below which handing a task to another thread costs more than it saves.
const MIN_TASK: usize = 1 << 16;

/// The ways to compute a tile of `x · Wᵀ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// Decodes each vector of weights in registers and uses it at once for a few input rows.
    Direct,
    /// Decodes a block of weight rows into floats in the cache, then multiplies tiles.
    Blocked,
}

/// The one place that picks a kernel: by the number of input rows that share the weights.
fn choose(rows: usize) -> Kernel {
    if rows <= direct::MOST_ROWS { Kernel::Direct } else { Kernel::Blocked }
}

/// Name of the kernel that [`matmul`] uses for `rows` input rows, as in `x86_64-avx512-affine4g64-direct`.
pub fn kernel_name(cpu: &Cpu, w: &Matrix<'_>, rows: usize) -> String {
    let form = form_name(&w.elements);
    format!("{}-{form}-{:?}", cpu.isa.full_name(), choose(rows))
        .replace("Direct", "direct")
        .replace("Blocked", "blocked")
}

/// Printable name of a storage form, as in `affine4g64`.
pub fn form_name(elements: &Elements<'_>) -> String {
    match elements {
        Elements::Dense(Float::F32, _) => "f32".to_owned(),
        Elements::Dense(Float::F16, _) => "f16".to_owned(),
        Elements::Dense(Float::Bf16, _) => "bf16".to_owned(),
        Elements::Quantized(q) => {
            let affine = q.format.mode == crate::weights::QuantMode::Affine;
            let bits = if affine { q.format.bits.to_string() } else { String::new() };
            format!("{:?}{bits}g{}", q.format.mode, q.format.group).to_lowercase()
        }
    }
}

/// [`matmul`] in the precision asked for: the one place where a rounded product is preferred.
pub fn linear(cpu: &Cpu, precision: Precision, x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let fast = precision != Precision::Exact
        && (matmul_tiles(cpu, x, w, bias, out) || matmul_fast(cpu, precision, x, w, bias, out));
    if !fast {
        matmul(cpu, x, w, bias, out);
    }
}

/// [`linear`] with several matrices, each with its result: the same bits in fewer steps.
pub fn linear_all(cpu: &Cpu, precision: Precision, x: &[f32], ws: &[Matrix<'_>], outs: &mut [&mut [f32]]) {
    assert_eq!(ws.len(), outs.len(), "a result for each matrix");
    if let (Precision::Fast | Precision::Mixed, [w, _, ..]) = (precision, ws) {
        let rows = rows_of(outs[0].len(), w.rows, x.len(), w.cols);
        if tiles::unit_for(cpu, w, rows).is_none() && integer::matmul_together(cpu, precision, x, ws, outs) {
            return;
        }
    }
    for (w, out) in ws.iter().zip(outs) {
        linear(cpu, precision, x, w, None, out);
    }
}

/// Name of the kernel that [`linear`] uses for `rows` input rows.
pub fn linear_kernel_name(cpu: &Cpu, precision: Precision, w: &Matrix<'_>, rows: usize) -> String {
    let fast = match precision {
        Precision::Exact => None,
        _ => tiles::kernel_name(cpu, w, rows).or_else(|| fast_kernel_name(cpu, precision, w, rows)),
    };
    fast.unwrap_or_else(|| kernel_name(cpu, w, rows))
}

/// [`gather_matmul`] in the precision asked for, as [`linear`].
pub fn gather_linear(
    cpu: &Cpu,
    precision: Precision,
    x: &[f32],
    pick: Gather<'_>,
    w: &Matrix<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    if precision == Precision::Exact || !gather_matmul_fast(cpu, precision, x, pick, w, bias, out) {
        gather_matmul(cpu, x, pick, w, bias, out);
    }
}

/// `x [m, k] · Wᵀ (+ bias [n]) -> out [m, n]`, for `W [n, k]`.
pub fn matmul(cpu: &Cpu, x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let (job, m) = Job::new(x, w, bias, out);
    let unit = |i: usize| Unit { index: i, matrix: 0, start: i * BLOCK_M, len: BLOCK_M.min(m - i * BLOCK_M) };
    let work = Work { rows: m, units: m.div_ceil(BLOCK_M), unit: &unit };
    job.run(cpu, &work, job.even_columns(cpu, &work), &|tile| job.exact(cpu, tile));
}

/// Which rows of the input meet which of the stacked matrices.
#[derive(Clone, Copy, Debug)]
pub struct Gather<'a> {
    /// For each row of the result, its row of the input.
    pub x_rows: &'a [u32],
    /// For each row of the result, its matrix.
    pub ids: &'a [u32],
    /// Number of stacked matrices.
    pub experts: usize,
}

impl Gather<'_> {
    /// Checks the sizes of a product's slices; returns the rows of one matrix.
    fn check(&self, x: usize, w: &Matrix<'_>, bias: Option<&[f32]>, out: usize) -> usize {
        let Gather { x_rows, ids, experts } = *self;
        assert!(experts > 0 && w.rows.is_multiple_of(experts), "{} rows in {experts} experts", w.rows);
        let n = w.rows / experts;
        assert_eq!(x_rows.len(), ids.len(), "an expert for every row");
        assert_eq!(out, ids.len() * n, "{} rows of {n}", ids.len());
        assert!(bias.is_none_or(|b| b.len() == w.rows), "a bias per row of the matrix");
        assert!(ids.iter().all(|&e| (e as usize) < experts), "an expert's number is below {experts}");
        assert!(x_rows.iter().all(|&r| (r as usize + 1) * w.cols <= x), "a row of x");
        n
    }
}

/// `out[i] = x[x_rows[i]] · W[ids[i]]ᵀ (+ bias[ids[i]])`: `w` stacks `experts` matrices of `n` rows, `bias` is `[experts, n]`.
///
/// Reads the chosen experts' bytes only, each expert's once for all rows that chose it.
pub fn gather_matmul(cpu: &Cpu, x: &[f32], pick: Gather<'_>, w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let n = pick.check(x.len(), w, bias, out.len());
    let Gather { x_rows, ids, experts } = pick;
    let view = View::new(w);
    scratch::indices(|list| {
        let (order, units) = sort_by_expert(list, ids, experts);
        let job = Job { view, x, x_rows: Some(x_rows), order: Some(order), bias, n, out: Out(out.as_mut_ptr()) };
        let unit = |i: usize| Unit::of(i, units);
        let work = Work { rows: ids.len(), units: units.len() / 3, unit: &unit };
        job.run(cpu, &work, job.even_columns(cpu, &work), &|tile| job.exact(cpu, tile));
    });
}

/// `x [m, r] · W [r, c] -> out [m, c]`: the matrix is not transposed. An element is summed over `r` in order.
pub fn matmul_n(cpu: &Cpu, x: &[f32], w: &Matrix<'_>, out: &mut [f32]) {
    let view = View::new(w);
    let m = rows_of(out.len(), w.cols, x.len(), w.rows);
    assert_eq!((x.len(), out.len()), (m * w.rows, m * w.cols), "[{m}, {}] x [{}, {}]", w.rows, w.rows, w.cols);
    untransposed::run(cpu, x, &view, m, out);
}

/// `a [m, k] · b -> out [m, n]` in plain floats: `b` is `[n, k]` if `transpose_b`, otherwise `[k, n]`.
pub fn gemm(cpu: &Cpu, a: &[f32], b: &[f32], shape: Gemm, out: &mut [f32]) {
    let Gemm { m, k, n, transpose_b } = shape;
    assert_eq!((a.len(), b.len(), out.len()), (m * k, k * n, m * n), "{shape:?}");
    // SAFETY: floats are four bytes each without padding.
    let bytes = unsafe { std::slice::from_raw_parts(b.as_ptr().cast(), size_of_val(b)) };
    let (rows, cols) = if transpose_b { (n, k) } else { (k, n) };
    let w = Matrix { rows, cols, elements: Elements::Dense(Float::F32, bytes) };
    if transpose_b { matmul(cpu, a, &w, None, out) } else { matmul_n(cpu, a, &w, out) }
}

/// The shape of a [`gemm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
    /// Rows of `a` and of the result.
    pub m: usize,
    /// The dimension that is summed over.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
    /// Whether `b` is `[n, k]`.
    pub transpose_b: bool,
}

/// Number of rows from whichever side of the product is not empty.
fn rows_of(out: usize, out_row: usize, x: usize, x_row: usize) -> usize {
    out.checked_div(out_row).or_else(|| x.checked_div(x_row)).unwrap_or(0)
}

/// Puts into `list` the positions of `ids` in the order of the experts, then units of work `(expert, start, len)` of at
/// most [`BLOCK_M`] of them; returns both parts.
fn sort_by_expert<'a>(list: &'a mut Vec<u32>, ids: &[u32], experts: usize) -> (&'a [u32], &'a [u32]) {
    // A counting sort; the counts stand behind the order until the units replace them.
    let count = ids.len();
    list.resize(count + experts, 0);
    for &id in ids {
        list[count + id as usize] += 1;
    }
    let mut start = 0;
    for expert in 0..experts {
        let len = std::mem::replace(&mut list[count + expert], start);
        start += len;
    }
    for (i, &id) in ids.iter().enumerate() {
        let at = list[count + id as usize];
        list[count + id as usize] += 1;
        list[at as usize] = i as u32;
    }
    // Each count is now the end of its expert's part.
    let mut start = 0;
    for expert in 0..experts {
        let end = list[count + expert];
        while start < end {
            let len = (end - start).min(BLOCK_M as u32);
            list.extend([expert as u32, start, len]);
            start += len;
        }
    }
    let (order, rest) = list.split_at(count);
    (order, &rest[experts..])
}

/// Where results go: tasks write disjoint elements.
#[derive(Clone, Copy)]
struct Out(*mut f32);

// SAFETY: tasks write disjoint elements of a slice that the caller of the kernel holds exclusively.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

/// One product; the sizes of its slices have been checked.
#[derive(Clone, Copy)]
struct Job<'a> {
    view: View<'a>,
    x: &'a [f32],
    /// Row of `x` for each row of the result; the same row if absent.
    x_rows: Option<&'a [u32]>,
    /// The row of the result that each position of a unit stands for; the position itself if absent.
    order: Option<&'a [u32]>,
    bias: Option<&'a [f32]>,
    /// Columns of the result.
    n: usize,
    out: Out,
}

/// Rows of the result that multiply the same matrix of the stack.
#[derive(Clone, Copy, Debug)]
struct Unit {
    /// Which of the units it is.
    index: usize,
    matrix: usize,
    start: usize,
    len: usize,
}

impl Unit {
    /// One of those that [`sort_by_expert`] writes.
    fn of(index: usize, list: &[u32]) -> Unit {
        let [matrix, start, len] = list.as_chunks().0[index].map(|n| n as usize);
        Unit { index, matrix, start, len }
    }
}

/// All units of a product.
struct Work<'a> {
    /// Rows of the result.
    rows: usize,
    units: usize,
    unit: &'a (dyn Fn(usize) -> Unit + Sync),
}

/// A unit's columns `start..end`.
#[derive(Clone, Copy)]
struct Tile {
    unit: Unit,
    start: usize,
    end: usize,
}

impl<'a> Job<'a> {
    /// A product with one matrix whose results lie as the input does, and the number of its rows.
    ///
    /// # Panics
    /// If the slices' lengths do not fit.
    fn new(x: &'a [f32], w: &Matrix<'a>, bias: Option<&'a [f32]>, out: &mut [f32]) -> (Job<'a>, usize) {
        let m = rows_of(out.len(), w.rows, x.len(), w.cols);
        assert_eq!((x.len(), out.len()), (m * w.cols, m * w.rows), "[{m}, {}] x [{}, {}]", w.cols, w.rows, w.cols);
        assert!(bias.is_none_or(|b| b.len() == w.rows), "a bias per row of the matrix");
        let view = View::new(w);
        (Job { view, x, x_rows: None, order: None, bias, n: w.rows, out: Out(out.as_mut_ptr()) }, m)
    }

    /// The input row and the row of the result at a position of a unit.
    #[inline(always)]
    fn rows(&self, unit: Unit, i: usize) -> (*const f32, usize) {
        let (x_row, row) = self.positions(unit, i);
        (self.x[x_row * self.view.cols..].as_ptr(), row)
    }

    /// The number of the input row and the row of the result at a position of a unit.
    #[inline(always)]
    fn positions(&self, unit: Unit, i: usize) -> (usize, usize) {
        let position = unit.start + i;
        let row = self.order.map_or(position, |order| order[position] as usize);
        (self.x_rows.map_or(row, |rows| rows[row] as usize), row)
    }

    /// Adds the bias and writes an element.
    ///
    /// # Safety
    /// `row` is one that [`Job::rows`] gave for `unit`, `col` below `n`, and no other thread writes the element.
    #[inline(always)]
    unsafe fn write(&self, unit: Unit, row: usize, col: usize, sum: f32) {
        let sum = self.bias.map_or(sum, |bias| sum + bias[unit.matrix * self.n + col]);
        // SAFETY: the element lies in the result, whose length was checked.
        unsafe { *self.out.0.add(row * self.n + col) = sum };
    }

    /// Columns of a task: enough tasks to even out, each worth its start, in whole blocks.
    fn even_columns(&self, cpu: &Cpu, work: &Work<'_>) -> usize {
        let per_column = (self.view.cols * work.rows).max(1);
        let even = (work.units * self.n).div_ceil(8 * cpu.pool.threads());
        let worth = MIN_TASK.div_ceil(per_column.div_ceil(work.units.max(1)));
        even.max(worth).next_multiple_of(BLOCK_N)
    }

    /// Calls `task` for tiles of at most `columns` columns that make up all units.
    fn run(&self, cpu: &Cpu, work: &Work<'_>, columns: usize, task: &(dyn Fn(Tile) + Sync)) {
        let Work { rows, units, unit } = *work;
        if rows == 0 || self.n == 0 {
            return;
        }
        let across = self.n.div_ceil(columns);
        // Units that share columns follow each other: the weights come from the cache for all but the first.
        cpu.pool.run(across * units, &|i| {
            let start = i / units * columns;
            task(Tile { unit: unit(i % units), start, end: self.n.min(start + columns) });
        });
    }

    /// Computes a tile in single precision.
    fn exact(&self, cpu: &Cpu, tile: Tile) {
        match choose(tile.unit.len) {
            Kernel::Direct => direct::run(cpu.isa, self, tile),
            Kernel::Blocked => blocked::run(cpu.isa, self, tile),
        }
    }
}

#[cfg(test)]
mod tests;
