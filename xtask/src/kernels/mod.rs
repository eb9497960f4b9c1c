//! `cargo xtask kernels`: what each kernel reaches of what the machine can do, and which one is picked.
//!
//! A product can be no faster than memory delivers its weights and no faster than its unit multiplies. Both limits are
//! measured in the same run; a line says which of them binds and which part of it is reached.

mod attention;
mod layers;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{anyhow, ensure};
use clap::Args;
use mlxengine_kernels::limits::{self, Unit};
use mlxengine_kernels::matmul::{
    TileUnit, fast_kernel_name, kernel_name, linear_kernel_name, matmul, matmul_fast, matmul_on,
};
use mlxengine_kernels::weights::{Matrix, Precision};
use mlxengine_kernels::{Cpu, Isa};
use serde_json::json;

use attention::{CASES, Case, MODELS};
use layers::{FORMS, Form, LAYERS, Layer, Part};

/// What is measured.
#[derive(Args)]
pub struct Arguments {
    /// Numbers of threads [default: one, and all cores]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Rows of the input [default: 1, 8, 128 and 512 in decoders, 4096 in encoders]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rows: Vec<usize>,
    /// Only lines that contain this text; may be given several times, then all have to be there
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Instruction set: portable, avx2, avx512 or neon [default: the best]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Two large layers and fewer runs
    #[arg(long)]
    quick: bool,
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) {
        return run_optimized();
    }
    let isa = arguments.isa.as_deref().map(Isa::from_name).transpose().map_err(|e| anyhow!(e))?.unwrap_or(Isa::best());
    ensure!(!arguments.threads.contains(&0) && !arguments.rows.contains(&0), "--threads and --rows are at least 1");
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let default = if cores > 1 { vec![1, cores] } else { vec![1] };
    let arena = layers::arena(limits::BYTES);
    for &threads in if arguments.threads.is_empty() { &default } else { &arguments.threads } {
        let table = Table { arguments, cpu: &Cpu::new(isa, threads), arena: &arena };
        FORMS.into_iter().for_each(|form| table.form(form));
        table.attention();
    }
    Ok(ExitCode::SUCCESS)
}

/// The same, as users have it: checks of the development build would be measured too.
fn run_optimized() -> anyhow::Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = std::env::args_os().skip(1);
    let build = ["run", "--quiet", "--release", "--package", "xtask", "--"];
    let status = Command::new(cargo).args(build).args(arguments).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A way to compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Exact,
    /// With two digits of every number, or of some.
    Integers(Precision),
    Tiles(TileUnit),
}

impl Kernel {
    /// All that this processor has; the tiles' plain stand-in is for tests.
    fn all(cpu: &Cpu) -> Vec<Kernel> {
        let tiles = TileUnit::available(cpu.isa).into_iter().filter(|unit| unit.name() != "scalar");
        let integers = [Precision::Fast, Precision::Mixed].map(Kernel::Integers);
        [Kernel::Exact].into_iter().chain(integers).chain(tiles.map(Kernel::Tiles)).collect()
    }

    /// Its name for a product; `None` if it has no code for it.
    fn name(self, cpu: &Cpu, w: &Matrix<'_>, rows: usize) -> Option<String> {
        match self {
            Kernel::Exact => Some(kernel_name(cpu, w, rows)),
            // Few rows have two digits in either.
            Kernel::Integers(precision) => fast_kernel_name(cpu, precision, w, rows)
                .filter(|name| name.ends_with("mixed") == (precision == Precision::Mixed)),
            // A tile has 16 rows.
            Kernel::Tiles(unit) => {
                (rows >= 16).then(|| format!("{}-{}-{}-tiles", std::env::consts::ARCH, unit.name(), layers::name(w)))
            }
        }
    }

    fn unit(self) -> Unit {
        match self {
            Kernel::Exact => Unit::Floats,
            Kernel::Integers(_) => Unit::Integers,
            Kernel::Tiles(unit) => Unit::Tiles(unit),
        }
    }

    fn run(self, cpu: &Cpu, x: &[f32], w: &Matrix<'_>, out: &mut [f32]) {
        match self {
            Kernel::Exact => matmul(cpu, x, w, None, out),
            Kernel::Integers(precision) => {
                assert!(matmul_fast(cpu, precision, x, w, None, out), "a kernel with a name computes");
            }
            Kernel::Tiles(unit) => matmul_on(unit, cpu, x, w, None, out),
        }
    }
}

/// What the machine can do, in bytes and operations a second.
struct Limits {
    memory: f64,
    units: Vec<Peak>,
}

/// What a kernel's unit can do, if it was found out.
struct Peak {
    kernel: Kernel,
    unit: String,
    speed: Option<f64>,
}

impl Limits {
    fn measure(cpu: &Cpu, arena: &[u8]) -> Self {
        let peak = |kernel: Kernel| {
            let unit = kernel.unit();
            Peak { kernel, unit: unit.name(cpu), speed: unit.peak(cpu, 5) }
        };
        Self { memory: limits::memory(cpu, arena, 5), units: Kernel::all(cpu).into_iter().map(peak).collect() }
    }

    /// The least seconds that a product can take, and what limits it.
    fn least(&self, kernel: Kernel, bytes: f64, operations: f64) -> (f64, &str) {
        let reading = bytes / self.memory;
        let unit = self.units.iter().find(|peak| peak.kernel == kernel);
        match unit.and_then(|peak| Some((operations / peak.speed?, peak.unit.as_str()))) {
            Some((multiplying, unit)) if multiplying > reading => (multiplying, unit),
            _ => (reading, "memory"),
        }
    }

    fn line(&self, cpu: &Cpu) -> String {
        let peak = |peak: &Peak| Some(format!(", {} {:.0} GOP/s", peak.unit, peak.speed? / 1e9));
        let once = |peak: &&Peak| peak.kernel != Kernel::Integers(Precision::Mixed);
        let units: String = self.units.iter().filter(once).filter_map(peak).collect();
        format!("{} thread(s): memory {:.1} GB/s{units}", cpu.pool.threads(), self.memory / 1e9)
    }
}

/// One line.
struct Line<'a> {
    layer: &'a Layer,
    form: String,
    rows: usize,
    kernel: Kernel,
    name: String,
    /// The precisions that choose this kernel.
    picked: Vec<&'static str>,
}

impl Line<'_> {
    /// What `--filter` looks at.
    fn text(&self) -> String {
        let Layer { model, name, .. } = self.layer;
        format!("{model} {name} {} m={} {} {}", self.form, self.rows, self.name, self.picked.join(" "))
    }
}

/// Where lines go.
struct Table<'a> {
    arguments: &'a Arguments,
    cpu: &'a Cpu,
    arena: &'a [u8],
}

impl Table<'_> {
    /// All products with weights that are stored so. Limits are measured before them, and the memory again before each layer:
    /// other work on the machine comes and goes.
    fn form(&self, form: Form) {
        let mut limits = None::<Limits>;
        for layer in LAYERS.iter().filter(|layer| form.suits(layer.part) && self.takes(layer)) {
            let (stack, bytes) = layers::matrices(self.arena, layer, form);
            let Some(first) = stack.first() else {
                if self.arguments.filter.is_empty() {
                    eprintln!("{} {} {form:?}: left out, {} MB are too many", layer.model, layer.name, bytes >> 20);
                }
                continue;
            };
            if let Some(limits) = &mut limits {
                limits.memory = limits::memory(self.cpu, self.arena, 3);
            }
            let rows = if self.arguments.rows.is_empty() { layer.part.rows() } else { &self.arguments.rows };
            for line in rows.iter().flat_map(|&rows| self.lines(layer, first, rows)) {
                let limits = limits.get_or_insert_with(|| {
                    let limits = Limits::measure(self.cpu, self.arena);
                    if !self.arguments.json {
                        println!("{}", limits.line(self.cpu));
                    }
                    limits
                });
                self.measure(&line, &stack, bytes, limits);
            }
        }
    }

    /// Attention, a line for each precision.
    fn attention(&self) {
        let mut limits = None::<Limits>;
        let precisions = [("exact", Precision::Exact), ("fast", Precision::Fast)];
        for (heads, (queries, slots)) in MODELS.into_iter().flat_map(|heads| CASES.map(|case| (heads, case))) {
            for (name, precision) in precisions {
                let case = Case { heads, queries, slots, precision };
                let text = format!("{:12} attention  m={queries:<4} of {slots:<4} {name:5}", heads.model);
                if self.arguments.filter.iter().all(|filter| text.contains(filter)) {
                    let limits = limits.get_or_insert_with(|| Limits::measure(self.cpu, self.arena));
                    self.attend(&case, &text, limits);
                }
            }
        }
    }

    fn attend(&self, case: &Case, text: &str, limits: &Limits) {
        let numbers = case.queries * case.heads.heads * case.heads.dim;
        let (q, mut out) = ((0..numbers).map(|i| (i % 13) as f32 / 4.0 - 1.5).collect::<Vec<_>>(), vec![0.0; numbers]);
        // Tensors begin with a cache line, weights in a file where its header ends.
        let aligned = &self.arena[self.arena.as_ptr().align_offset(64)..];
        let stack: Vec<_> = aligned.chunks_exact(case.bytes()).collect();
        let seconds = self.fastest(&stack, |memory| case.run(self.cpu, &q, memory, &mut out));
        let (bytes, operations) = (case.bytes() as f64, case.operations());
        let (least, limit) = limits.least(case.kernel(self.cpu), bytes, operations);
        let (read, speed, fraction) = (bytes / seconds / 1e9, operations / seconds / 1e9, least / seconds);
        if self.arguments.json {
            let object = json!({
                "model": case.heads.model, "layer": "attention", "rows": case.queries, "slots": case.slots,
                "threads": self.cpu.pool.threads(), "microseconds": seconds * 1e6, "gb_s": read, "gop_s": speed,
                "limit": limit, "fraction": fraction, "picked": [format!("{:?}", case.precision).to_lowercase()],
            });
            println!("{object}");
        } else {
            let micros = seconds * 1e6;
            println!(
                "  {text} {micros:9.1} us {read:6.1} GB/s {speed:7.0} GOP/s {:3.0} % of {limit}",
                100.0 * fraction
            );
        }
    }

    fn takes(&self, layer: &Layer) -> bool {
        !self.arguments.quick
            || (layer.part == Part::Decoder && layer.model.starts_with("Qwen") && layer.name != "k, v")
    }

    /// The kernels for a product that the filter lets through.
    fn lines<'b>(&self, layer: &'b Layer, w: &Matrix<'_>, rows: usize) -> Vec<Line<'b>> {
        let picks =
            [("exact", Precision::Exact), ("fast", Precision::Fast), ("fast in feed-forward layers", Precision::Mixed)]
                .map(|(precision, p)| (precision, linear_kernel_name(self.cpu, p, w, rows)));
        let line = |kernel: Kernel| {
            let name = kernel.name(self.cpu, w, rows)?;
            let picked = picks.iter().filter(|(_, pick)| *pick == name).map(|(precision, _)| *precision).collect();
            Some(Line { layer, form: layers::name(w), rows, kernel, name, picked })
        };
        let passes = |line: &Line<'_>| self.arguments.filter.iter().all(|text| line.text().contains(text));
        Kernel::all(self.cpu).into_iter().filter_map(line).filter(passes).collect()
    }

    fn measure(&self, line: &Line<'_>, stack: &[Matrix<'_>], bytes: usize, limits: &Limits) {
        let Layer { inputs, outputs, model, name, .. } = *line.layer;
        let seconds = self.seconds(line, stack);
        let operations = 2.0 * (line.rows * inputs * outputs) as f64;
        let (least, limit) = limits.least(line.kernel, bytes as f64, operations);
        let (read, speed, fraction) = (bytes as f64 / seconds / 1e9, operations / seconds / 1e9, least / seconds);
        if self.arguments.json {
            let object = json!({
                "model": model, "layer": name, "outputs": outputs, "inputs": inputs, "form": line.form, "rows": line.rows,
                "threads": self.cpu.pool.threads(), "kernel": line.name, "microseconds": seconds * 1e6, "gb_s": read,
                "gop_s": speed, "limit": limit, "fraction": fraction, "picked": line.picked,
            });
            println!("{object}");
        } else {
            let shape = format!("{outputs} x {inputs}");
            println!(
                "  {model:12} {name:10} {shape:>13} m={:<4} {:42} {:9.1} us {read:6.1} GB/s {speed:7.0} GOP/s {:3.0} % of {limit:15} {}",
                line.rows,
                line.name,
                seconds * 1e6,
                100.0 * fraction,
                if line.picked.is_empty() { String::new() } else { format!("<- {}", line.picked.join(", ")) },
            );
        }
    }

    /// Seconds of one product, the best of some passes over matrices that take turns: in a model, too, a layer's weights
    /// are in no cache when its turn comes.
    fn seconds(&self, line: &Line<'_>, stack: &[Matrix<'_>]) -> f64 {
        let x: Vec<f32> = (0..line.rows * line.layer.inputs).map(|i| (i % 13) as f32 - 6.5).collect();
        let mut out = vec![0.0; line.rows * line.layer.outputs];
        self.fastest(stack, |w| line.kernel.run(self.cpu, &x, w, &mut out))
    }

    /// Seconds of one call, the best of some passes over what takes turns.
    fn fastest<T>(&self, stack: &[T], mut call: impl FnMut(&T)) -> f64 {
        let mut pass = |stack: &[T]| {
            let begun = Instant::now();
            stack.iter().for_each(&mut call);
            begun.elapsed().as_secs_f64() / stack.len() as f64
        };
        let one = pass(&stack[..1]).min(pass(&stack[..1]));
        let turns = ((0.05 / one) as usize).clamp(1, stack.len());
        let passes = if self.arguments.quick { 2 } else { 5 };
        (0..passes).map(|_| pass(&stack[..turns])).fold(f64::INFINITY, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Layer = Layer { model: "none", name: "small", outputs: 32, inputs: 128, part: Part::Decoder };

    #[test]
    fn every_kernel_computes_every_form_it_has_a_name_for() {
        let arena = layers::arena(1 << 16);
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 1);
            for form in FORMS {
                let (stack, bytes) = layers::matrices(&arena, &SMALL, form);
                assert_eq!(stack.len(), (1 << 16) / bytes, "{form:?}: {bytes} bytes are a multiple of 64");
                for (kernel, rows) in Kernel::all(&cpu).into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 17)]) {
                    let Some(name) = kernel.name(&cpu, &stack[0], rows) else { continue };
                    let (x, mut out) = (vec![0.5; rows * SMALL.inputs], vec![f32::NAN; rows * SMALL.outputs]);
                    kernel.run(&cpu, &x, &stack[0], &mut out);
                    assert!(out.iter().all(|x| x.is_finite()), "{name} m={rows}");
                }
            }
        }
    }

    #[test]
    fn what_is_picked_is_in_the_table() {
        let (arena, cpu) = (layers::arena(1 << 16), Cpu::new(Isa::best(), 1));
        for (form, rows) in FORMS.into_iter().flat_map(|form| [(form, 1), (form, 512)]) {
            let w = layers::matrices(&arena, &SMALL, form).0[0];
            let names: Vec<_> =
                Kernel::all(&cpu).into_iter().filter_map(|kernel| kernel.name(&cpu, &w, rows)).collect();
            for precision in [Precision::Exact, Precision::Fast, Precision::Mixed] {
                let pick = linear_kernel_name(&cpu, precision, &w, rows);
                assert!(names.contains(&pick), "{pick} is not among {names:?}");
            }
        }
    }

    #[test]
    fn the_slower_of_two_limits_binds() {
        let peak = |kernel, unit: &str, speed| Peak { kernel, unit: unit.to_owned(), speed };
        let units =
            vec![peak(Kernel::Exact, "f32", Some(100.0)), peak(Kernel::Integers(Precision::Fast), "int8", None)];
        let limits = Limits { memory: 10.0, units };
        assert_eq!(limits.least(Kernel::Exact, 20.0, 100.0), (2.0, "memory"));
        assert_eq!(limits.least(Kernel::Exact, 20.0, 300.0), (3.0, "f32"));
        assert_eq!(limits.least(Kernel::Integers(Precision::Fast), 20.0, 1e9), (2.0, "memory"));
    }
}
