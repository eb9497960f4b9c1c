//! Products in integers: activations of 16 bits meet the codes of quantized weights.
//!
//! Each row of the input is quantized once a call, with a scale for every group of weights. An integer is stored as two signed
//! digits of 8 bits, `256 * high + low`, because that is what the processors' dot products take: a group costs two exact
//! integer sums, one conversion to a float, and one fused multiply-add with the product of both scales. The weights' bias
//! meets the group's sum of quantized activations, so that the error is the weights' product with the rounding of the
//! activations and nothing else. One digit alone would not do: it changes the most likely token of a small model at one position
//! in twenty. Where a second one costs multiplications, [`Precision::Mixed`] leaves it to the largest numbers of a group and gives
//! the others a step of their own.
//!
//! Few rows ([`rows`]) read the codes as they lie, because memory is the limit; for many ([`panels`]) they are put in order
//! once. Each way sums in an order that depends on neither the number of rows nor the threads nor the instruction set, which
//! all give the same bits; the two ways differ in theirs.

mod codes;
mod input;
mod panels;
mod rows;

use self::codes::Form;
use super::{FEW_ROWS, Gather, Job, Out, Tile, Unit, Work, rows_of, sort_by_expert};
use crate::codec::View;
#[cfg(test)]
use crate::dots::Stand;
use crate::dots::{Dots, DotsOp, WIDTH};
use crate::weights::{Matrix, Precision};
use crate::{Cpu, Isa, scratch};

/// Multiplications below which handing a task to another thread costs more than it saves.
const MIN_TASK: usize = 1 << 18;
/// Tasks for each thread, so that a late one is made up for.
const TASKS: usize = 4;
/// Most input rows of a unit: their sums stay in the second cache.
const UNIT_ROWS: usize = 512;
/// Most matrices that share an input in one region.
const MOST_TOGETHER: usize = 4;

/// An implementation of [`Dots`] that this processor has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    /// The reference of the others, slower than exact products.
    #[cfg(test)]
    Stand,
    #[cfg(target_arch = "x86_64")]
    Avx2(crate::arch::x86_64::Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(crate::arch::x86_64::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(crate::arch::x86_64::Avx512Vnni),
    #[cfg(target_arch = "aarch64")]
    Neon(crate::arch::aarch64::Neon),
    #[cfg(target_arch = "aarch64")]
    NeonDot(crate::arch::aarch64::NeonDot),
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(crate::arch::aarch64::NeonI8mm),
}

impl Kernel {
    /// The best that an instruction set allows; none where exact products are faster.
    fn of(isa: Isa) -> Option<Kernel> {
        match isa {
            Isa::Portable(_) => None,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(token) => Some(Self::avx2(token)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => {
                use crate::arch::x86_64::{Avx2, Avx512Vnni};
                Avx512Vnni::new().map(Kernel::Avx512Vnni).or_else(|| Avx2::new().map(Self::avx2))
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(token) => {
                use crate::arch::aarch64::{NeonDot, NeonI8mm};
                let dot = || NeonDot::new().map_or(Kernel::Neon(token), Kernel::NeonDot);
                Some(NeonI8mm::new().map_or_else(dot, Kernel::NeonI8mm))
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2(token: crate::arch::x86_64::Avx2) -> Kernel {
        crate::arch::x86_64::AvxVnni::new().map_or(Kernel::Avx2(token), Kernel::AvxVnni)
    }

    fn run<Op: DotsOp>(self, op: Op) {
        match self {
            #[cfg(test)]
            Kernel::Stand => Stand.run(op),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(token) => token.run(op),
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(token) => token.run(op),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(token) => token.run(op),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(token) => token.run(op),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonDot(token) => token.run(op),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonI8mm(token) => token.run(op),
        }
    }

    /// As [`Dots::TILE_ROWS`].
    fn tile_rows(self) -> usize {
        self.layout().0
    }

    /// As [`Dots::WORDS`].
    fn words(self) -> bool {
        self.layout().1
    }

    /// [`Dots::TILE_ROWS`] and [`Dots::WORDS`].
    fn layout(self) -> (usize, bool) {
        struct Ask<'a>(&'a mut (usize, bool));
        impl DotsOp for Ask<'_> {
            #[inline(always)]
            fn eval<D: Dots>(self, _: D) {
                *self.0 = (D::TILE_ROWS, D::WORDS);
            }
        }
        let mut layout = (0, false);
        self.run(Ask(&mut layout));
        layout
    }

    fn name(self) -> &'static str {
        match self {
            #[cfg(test)]
            Kernel::Stand => Stand::NAME,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => crate::arch::x86_64::Avx2::NAME,
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(_) => crate::arch::x86_64::AvxVnni::NAME,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(_) => crate::arch::x86_64::Avx512Vnni::NAME,
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(_) => <crate::arch::aarch64::Neon as Dots>::NAME,
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonDot(_) => crate::arch::aarch64::NeonDot::NAME,
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonI8mm(_) => crate::arch::aarch64::NeonI8mm::NAME,
        }
    }
}

/// How the products of a call are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Way {
    kernel: Kernel,
    form: Form,
    /// Whether, of many rows, only the largest numbers have two digits.
    mixed: bool,
}

impl Way {
    /// None where there is no kernel for the form of the weights or the instruction set.
    fn of(cpu: &Cpu, precision: Precision, w: &Matrix<'_>) -> Option<Way> {
        Some(Way { kernel: Kernel::of(cpu.isa)?, form: Form::of(w)?, mixed: precision == Precision::Mixed })
    }
}

/// Name of the kernel that [`matmul_fast`] uses for `rows` input rows, as in `x86_64-avx512vnni-affine4g64-integer`; none where it
/// returns `false`.
pub fn fast_kernel_name(cpu: &Cpu, precision: Precision, w: &Matrix<'_>, rows: usize) -> Option<String> {
    let way = Way::of(cpu, precision, w)?;
    let digits = if way.mixed && rows > FEW_ROWS { "mixed" } else { "integer" };
    Some(format!("{}-{}-{digits}", way.kernel.name(), super::form_name(&w.elements)))
}

/// [`super::matmul`] with the input rounded to 16 bits, a scale for each group of weights: an element of `x` errs by at most
/// 1/65,278 of the largest in its group. In [`Precision::Mixed`], with more rows than [`Precision::rows_as_alone`], that holds
/// for those fours of codes, one of four, that have a group's largest numbers; the others err by at most 1/254 of the largest
/// among them.
///
/// Returns `false`, and writes nothing, where there is no kernel for the form of the weights or the instruction set.
pub fn matmul_fast(
    cpu: &Cpu,
    precision: Precision,
    x: &[f32],
    w: &Matrix<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> bool {
    let Some(way) = Way::of(cpu, precision, w) else { return false };
    matmul_by(way, cpu, x, w, bias, out);
    true
}

/// [`matmul_fast`] in a way of choice.
fn matmul_by(way: Way, cpu: &Cpu, x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let (job, m) = Job::new(x, w, bias, out);
    let unit = |i: usize| Unit { index: i, matrix: 0, start: i * UNIT_ROWS, len: UNIT_ROWS.min(m - i * UNIT_ROWS) };
    run(way, cpu, &[job], &Work { rows: m, units: m.div_ceil(UNIT_ROWS), unit: &unit });
}

/// [`matmul_fast`] with several matrices, each with its result: the same bits, but the input is quantized once, and few rows of
/// it are shared out once. Returns `false` where the matrices differ in form.
pub fn matmul_together(cpu: &Cpu, precision: Precision, x: &[f32], ws: &[Matrix<'_>], outs: &mut [&mut [f32]]) -> bool {
    let Some(first) = ws.first() else { return false };
    let Some(way) = Way::of(cpu, precision, first) else { return false };
    let m = rows_of(outs[0].len(), first.rows, x.len(), first.cols);
    if ws.len() > MOST_TOGETHER || ws.iter().any(|w| Form::of(w) != Some(way.form)) {
        return false;
    }
    let mut jobs = [Job::new(x, first, None, outs[0]).0; MOST_TOGETHER];
    for ((job, w), out) in jobs.iter_mut().zip(ws).zip(outs) {
        *job = Job::new(x, w, None, out).0;
    }
    let unit = |i: usize| Unit { index: i, matrix: 0, start: i * UNIT_ROWS, len: UNIT_ROWS.min(m - i * UNIT_ROWS) };
    run(way, cpu, &jobs[..ws.len()], &Work { rows: m, units: m.div_ceil(UNIT_ROWS), unit: &unit });
    true
}

/// [`super::gather_matmul`] with the input rounded as in [`matmul_fast`], and `false` as there.
pub fn gather_matmul_fast(
    cpu: &Cpu,
    precision: Precision,
    x: &[f32],
    pick: Gather<'_>,
    w: &Matrix<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> bool {
    let Some(way) = Way::of(cpu, precision, w) else { return false };
    let n = pick.check(x.len(), w, bias, out.len());
    let view = View::new(w);
    scratch::indices(|list| {
        let (order, units) = sort_by_expert(list, pick.ids, pick.experts);
        let (x_rows, order) = (Some(pick.x_rows), Some(order));
        let job = Job { view, x, x_rows, order, bias, n, out: Out(out.as_mut_ptr()) };
        let unit = |i: usize| Unit::of(i, units);
        run(way, cpu, &[job], &Work { rows: pick.ids.len(), units: units.len() / 3, unit: &unit });
    });
    true
}

/// Quantizes the rows of the input that the jobs share, then shares the products out.
fn run(way: Way, cpu: &Cpu, jobs: &[Job<'_>], work: &Work<'_>) {
    let n = jobs.iter().map(|job| job.n).sum::<usize>();
    if work.rows == 0 || n == 0 {
        return;
    }
    let size = n.saturating_mul(jobs[0].view.cols).saturating_mul(work.rows);
    let many = work.rows.div_ceil(work.units) > FEW_ROWS;
    let threads = cpu.pool.threads();
    if many {
        return input::tiles(way, cpu, &jobs[0], work, |input| {
            for job in jobs {
                let columns = panel_columns(threads, job.n, size, work);
                job.run(cpu, work, columns, &|tile| {
                    panels::multiply(way.kernel, Task { job, input, form: way.form, tile })
                });
            }
        });
    }
    input::rows(way, cpu, &jobs[0], |input| {
        let columns = columns(threads, n, size, work.units);
        cpu.pool.run(n.div_ceil(columns) * work.units, &|i| {
            let (unit, start) = ((work.unit)(i % work.units), i / work.units * columns);
            let mut first = 0;
            for job in jobs {
                let (start, end) = (start.max(first) - first, (start + columns).min(first + job.n).max(first) - first);
                if start < end {
                    rows::multiply(way.kernel, Task { job, input, form: way.form, tile: Tile { unit, start, end } });
                }
                first += job.n;
            }
        });
    });
}

/// Columns of a task, of `n` in `size` multiplications: few tasks, because each begins with cold streams, and as many for
/// each thread as for the others.
fn columns(threads: usize, n: usize, size: usize, units: usize) -> usize {
    let across = match threads {
        1 => 1,
        _ => (size / MIN_TASK).min(TASKS * threads) / units,
    };
    let across = if across > threads { across / threads * threads } else { across.max(1) };
    n.div_ceil(across)
}

/// Columns of a task of panels. For many rows there are many tasks, because the threads wait for the last one, of a strip at most,
/// which stays in the cache. For fewer, panels are asked for while those before are multiplied, but for a task's first one.
fn panel_columns(threads: usize, n: usize, size: usize, work: &Work<'_>) -> usize {
    if size < MIN_TASK {
        return n;
    }
    let (tasks, most) =
        if work.rows.div_ceil(work.units) < panels::MANY_ROWS { (2, n) } else { (2 * TASKS, panels::STRIP) };
    (n * work.units / (tasks * threads)).min(most).next_multiple_of(WIDTH).max(WIDTH)
}

/// What a task computes.
#[derive(Clone, Copy)]
struct Task<'a, I> {
    job: &'a Job<'a>,
    input: I,
    form: Form,
    tile: Tile,
}

#[cfg(test)]
mod tests;
