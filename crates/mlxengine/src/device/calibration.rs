//! How fast this machine is at what a model does: measured in little more than a second, and kept.
//!
//! All measurements take turns for as long as there is time, and the fastest of each counts: noise only slows, and it is
//! unlikely to hit every turn of one of them. Weights are read from memory that no cache holds, as in a model.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use mlxengine_kernels::attention::{Attention, sdpa};
use mlxengine_kernels::matmul::{linear, linear_kernel_name};
use mlxengine_kernels::weights::{Elements, Float, Matrix, Precision, QuantFormat, QuantMode, Quantized};
use mlxengine_kernels::{Cpu, limits};
use serde::{Deserialize, Serialize};

use super::machine::processor_name;
use crate::memory::memory;

/// Measured speeds of this machine, in [`Precision::Fast`], with the threads that it was measured with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The version of this library, with `debug` behind it if it was built so.
    pub version: String,
    /// The processor's name, and how many threads it runs.
    pub processor: String,
    /// Instruction set of the kernels.
    pub instruction_set: String,
    /// Threads that computed.
    pub threads: usize,
    /// Bytes a second that all threads together read from memory.
    pub memory: f64,
    /// Bytes a second that one thread reads from memory.
    pub memory_one_thread: f64,
    /// The kernel that multiplies many rows by 4-bit weights.
    pub products_kernel: String,
    /// Operations a second of products of many rows with 4-bit weights in groups of 64, as in feed-forward layers; a multiplication and an addition are two.
    pub products: f64,
    /// The same with bf16 weights.
    pub dense_products: f64,
    /// Bytes a second of 4-bit weights that one row is multiplied by, scales and biases counted.
    pub weights: f64,
    /// The same of bf16 weights.
    pub dense_weights: f64,
    /// Bytes a second of 16-bit keys and values that one query per head attends to, four heads sharing each.
    pub attention: f64,
    /// Operations a second of attention with many queries.
    pub prompt_attention: f64,
    /// Seconds that it takes to hand work to all threads and wait for them, without the work.
    pub region: f64,
    /// When it was measured, in seconds since 1970.
    pub measured: u64,
}

/// How long turns go on.
const TIME: Duration = Duration::from_millis(1300);
/// Turns that are made in any case.
const TURNS: usize = 2;
/// Most calibrations in a file: a folder may be shared by machines, and a machine used with several numbers of threads.
const KEPT: usize = 32;

impl Calibration {
    /// Measures this machine, with the instruction set and the threads of [`super::current`]. Takes up to two seconds, and 400 MB
    /// while it lasts; what else computes in this process slows it.
    pub fn measure() -> Self {
        let cpu = Cpu::global();
        let arena = Arena::new();
        let (mut best, mut turns) = (Speeds::default(), 0);
        let begun = Instant::now();
        let one = Cpu::new(cpu.isa, 1);
        while turns < TURNS || begun.elapsed() < TIME {
            best.turn(cpu, &one, &arena, turns);
            turns += 1;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let kernel = linear_kernel_name(cpu, Precision::Mixed, &quantized(&arena.bytes), ROWS);
        Self {
            products_kernel: kernel,
            // All can do what one can, whatever kept the others away.
            memory: best.memory.max(best.memory_one_thread),
            memory_one_thread: best.memory_one_thread,
            products: best.products,
            dense_products: best.dense_products,
            weights: best.weights,
            dense_weights: best.dense_weights,
            attention: best.attention,
            prompt_attention: best.prompt_attention,
            region: 1.0 / best.regions,
            measured: now.map_or(0, |since| since.as_secs()),
            ..Self::unmeasured()
        }
    }

    /// What a calibration of this machine is known by, with no speed in it.
    fn unmeasured() -> Self {
        let cpu = Cpu::global();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self {
            version: if cfg!(debug_assertions) { version + " debug" } else { version },
            processor: format!("{}, {threads} threads", processor_name().unwrap_or_else(|| "unknown".to_owned())),
            instruction_set: cpu.isa.name().to_owned(),
            threads: cpu.pool.threads(),
            products_kernel: String::new(),
            memory: 0.0,
            memory_one_thread: 0.0,
            products: 0.0,
            dense_products: 0.0,
            weights: 0.0,
            dense_weights: 0.0,
            attention: 0.0,
            prompt_attention: 0.0,
            region: 0.0,
            measured: 0,
        }
    }

    /// The calibration of this machine that is kept in a file, or a new one, which is then kept there if that is possible.
    pub fn of_this_machine(file: Option<&Path>) -> Self {
        file.and_then(Self::read).unwrap_or_else(|| {
            let measured = Self::measure();
            // A folder that cannot be written costs the next call the time, and nothing else.
            let _ = file.map(|file| measured.keep(file));
            measured
        })
    }

    /// The calibration in a file that holds here and now: for this processor, version, instruction set and number of threads.
    pub fn read(file: &Path) -> Option<Self> {
        let now = Self::unmeasured();
        all(file).into_iter().find(|kept| kept.is_of(&now) && kept.is_sane())
    }

    /// Adds it to a file, in place of an older one of the same kind. The file is replaced as a whole.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep(&self, file: &Path) -> io::Result<()> {
        let mut list = all(file);
        list.retain(|kept| !kept.is_of(self));
        list.insert(0, self.clone());
        list.truncate(KEPT);
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let new = folder.join(format!(".{name}.{}", std::process::id()));
        let written = fs::write(&new, serde_json::to_string_pretty(&list)?).and_then(|()| fs::rename(&new, file));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn is_of(&self, other: &Self) -> bool {
        let key = |c: &Self| (c.version.clone(), c.processor.clone(), c.instruction_set.clone(), c.threads);
        key(self) == key(other)
    }

    fn is_sane(&self) -> bool {
        let speeds = [self.memory, self.memory_one_thread, self.products, self.dense_products, self.weights];
        let more = [self.dense_weights, self.attention, self.prompt_attention, self.region];
        speeds.iter().chain(&more).all(|speed| speed.is_finite() && *speed > 0.0)
    }
}

/// What a file holds; one that is broken holds nothing.
fn all(file: &Path) -> Vec<Calibration> {
    let text = fs::read_to_string(file).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

impl std::fmt::Display for Calibration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let giga = |speed: f64| format!("{:.1}", speed / 1e9);
        let rows = [
            ("memory", format!("{} GB/s, {} GB/s by one thread", giga(self.memory), giga(self.memory_one_thread))),
            ("weights", format!("{} GB/s of 4-bit, {} GB/s of bf16", giga(self.weights), giga(self.dense_weights))),
            (
                "products",
                format!(
                    "{} GOP/s with 4-bit, {} GOP/s with bf16 ({})",
                    giga(self.products),
                    giga(self.dense_products),
                    self.products_kernel
                ),
            ),
            (
                "attention",
                format!(
                    "{} GB/s of one token, {} GOP/s of a prompt",
                    giga(self.attention),
                    giga(self.prompt_attention)
                ),
            ),
            ("handing out work", format!("{:.2} µs, to {} threads", self.region * 1e6, self.threads)),
        ];
        f.write_str(&rows.map(|(name, value)| format!("{name:<17} {value}")).join("\n"))
    }
}

/// Rows of the input of a product with many.
const ROWS: usize = 256;
/// Rows and columns of the matrices.
const OUTPUTS: usize = 1024;
const INPUTS: usize = 2048;
/// Bytes that a measurement of memory reads in a turn.
const WINDOW: usize = 96 << 20;
/// Positions that attention sees.
const SLOTS: usize = 2048;
/// Queries of a prompt.
const QUERIES: usize = 128;
const ATTENTION: Attention = Attention {
    heads: 16,
    kv_heads: 4,
    key_dim: 128,
    value_dim: 128,
    scale: 0.01,
    softcap: None,
    window: None,
    causal: true,
    first: 0,
    precision: Precision::Fast,
};

/// Memory that serves as weights, keys and values.
struct Arena {
    bytes: Vec<u8>,
    /// Numbers that serve as inputs.
    inputs: Vec<f32>,
}

impl Arena {
    fn new() -> Self {
        // Neither denormal nor infinite as bf16 or f16.
        let pattern: Vec<u8> =
            (0..1usize << 15).flat_map(|i| [(i as u8).wrapping_mul(167) & 0x3f | 0x40, 0x3c]).collect();
        let size = limits::BYTES.min(usize::try_from(memory().available / 4).unwrap_or(limits::BYTES)).max(WINDOW);
        let inputs = (0..ROWS * INPUTS).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        Self { bytes: pattern.repeat(size / pattern.len()), inputs }
    }

    /// The bytes that come next: windows take turns, so that each has left the caches when it comes again.
    fn window(&self, turn: usize) -> &[u8] {
        let count = (self.bytes.len() / WINDOW).max(1);
        &self.bytes[turn % count * WINDOW..][..WINDOW]
    }
}

const FORMAT: QuantFormat = QuantFormat { mode: QuantMode::Affine, bits: 4, group: 64 };
const CODES: usize = OUTPUTS * INPUTS / 2;
const SCALES: usize = OUTPUTS * INPUTS / 64 * 2;

/// A matrix of 4-bit weights from the first bytes.
fn quantized(bytes: &[u8]) -> Matrix<'_> {
    let (codes, rest) = bytes.split_at(CODES);
    let (scales, biases) = (&rest[..SCALES], &rest[SCALES..2 * SCALES]);
    let elements = Quantized { format: FORMAT, codes, scales, biases, scale_type: Float::Bf16, multiplier: 1.0 };
    Matrix { rows: OUTPUTS, cols: INPUTS, elements: Elements::Quantized(elements) }
}

/// A matrix of bf16 weights from the first bytes.
fn dense(bytes: &[u8]) -> Matrix<'_> {
    let elements = Elements::Dense(Float::Bf16, &bytes[..OUTPUTS * INPUTS * 2]);
    Matrix { rows: OUTPUTS, cols: INPUTS, elements }
}

/// The best so far, in units a second.
#[derive(Default)]
struct Speeds {
    memory: f64,
    memory_one_thread: f64,
    products: f64,
    dense_products: f64,
    weights: f64,
    dense_weights: f64,
    attention: f64,
    prompt_attention: f64,
    regions: f64,
}

/// Keeps the faster of what was known and what `units` in this run are.
fn faster(best: &mut f64, units: f64, run: impl FnOnce()) {
    let begun = Instant::now();
    run();
    // Whole numbers are the same after they were written to a file.
    *best = best.max((units / begun.elapsed().as_secs_f64().max(1e-9)).round());
}

impl Speeds {
    /// Measures everything once.
    fn turn(&mut self, cpu: &Cpu, one: &Cpu, arena: &Arena, turn: usize) {
        let window = |n: usize| arena.window(4 * turn + n);
        self.memory = self.memory.max(limits::memory(cpu, window(0), 1).round());
        self.memory_one_thread = self.memory_one_thread.max(limits::memory(one, window(1), 1).round());
        for (best, matrix, bytes, memory) in [
            (&mut self.weights, quantized as fn(&[u8]) -> Matrix<'_>, CODES + 2 * SCALES, window(2)),
            (&mut self.dense_weights, dense, OUTPUTS * INPUTS * 2, window(3)),
        ] {
            let mut out = vec![0.0; OUTPUTS];
            let parts = memory.chunks_exact(bytes.next_multiple_of(64));
            faster(best, (parts.len() * bytes) as f64, || {
                for part in parts {
                    linear(cpu, Precision::Fast, &arena.inputs[..INPUTS], &matrix(part), None, &mut out);
                }
            });
        }
        let mut out = vec![0.0; ROWS * OUTPUTS];
        let operations = (2 * ROWS * OUTPUTS * INPUTS) as f64;
        for (best, matrix) in [(&mut self.products, quantized(window(2))), (&mut self.dense_products, dense(window(3)))]
        {
            // As in feed-forward layers, which have most of the weights.
            faster(best, operations, || linear(cpu, Precision::Mixed, &arena.inputs, &matrix, None, &mut out));
        }
        self.attend(cpu, arena, window(0));
        self.hand_out(cpu);
    }

    /// Work of a known length: a region that the caller does alone, because the others came late, takes longer and does not count.
    fn hand_out(&mut self, cpu: &Cpu) {
        const REGIONS: u32 = 20;
        const WORK: Duration = Duration::from_micros(20);
        let work = |_| {
            let begun = Instant::now();
            while begun.elapsed() < WORK {
                std::hint::spin_loop();
            }
        };
        let begun = Instant::now();
        (0..REGIONS).for_each(|_| cpu.pool.run(cpu.pool.threads(), &work));
        let each = (begun.elapsed() / REGIONS).saturating_sub(WORK);
        self.regions = self.regions.max(1.0 / each.as_secs_f64().max(1e-8));
    }

    fn attend(&mut self, cpu: &Cpu, arena: &Arena, memory: &[u8]) {
        let Attention { heads, kv_heads, key_dim, .. } = ATTENTION;
        let (rows, bytes) = (SLOTS * kv_heads, SLOTS * kv_heads * key_dim * 2);
        let keys = |bytes| Matrix { rows, cols: key_dim, elements: Elements::Dense(Float::F16, bytes) };
        let mut out = vec![0.0; QUERIES * heads * key_dim];
        let query = heads * key_dim;
        // As the layers of a model: each has its own.
        let layers = memory.chunks_exact(2 * bytes).take(8);
        faster(&mut self.attention, (layers.len() * 2 * bytes) as f64, || {
            for layer in layers {
                let (k, v) = layer.split_at(bytes);
                sdpa(cpu, &ATTENTION, &arena.inputs[..query], &keys(k), &keys(v), None, &mut out[..query]);
            }
        });
        let (k, v) = memory[..2 * bytes].split_at(bytes);
        // Scores and sums, of which a causal mask leaves out a triangle.
        let seen = QUERIES * SLOTS - QUERIES * (QUERIES - 1) / 2;
        let operations = (2 * 2 * seen * query) as f64;
        let queries = &arena.inputs[..QUERIES * query];
        faster(&mut self.prompt_attention, operations, || {
            sdpa(cpu, &ATTENTION, queries, &keys(k), &keys(v), None, &mut out);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tree::Tree;

    #[test]
    fn a_calibration_is_measured_once_and_kept() {
        let tree = Tree::new(&[]);
        let file = tree.root().join("new/calibration.json");
        let begun = Instant::now();
        let measured = Calibration::of_this_machine(Some(&file));
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(measured.is_sane(), "{measured:?}");
        // Small numbers may come back from a file as their neighbours.
        let kept = Calibration::of_this_machine(Some(&file));
        let measured = Calibration { region: kept.region, ..measured };
        assert_eq!(kept, measured);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing lies beside it");
        // Another machine's, another version's: they are kept beside it, and do not hold here.
        for other in [
            Calibration { processor: "another".into(), ..measured.clone() },
            Calibration { version: "0.0.1".into(), ..measured.clone() },
            Calibration { threads: measured.threads + 1, ..measured.clone() },
            Calibration { instruction_set: "sse9".into(), ..measured.clone() },
        ] {
            fs::write(&file, serde_json::to_string(&[other]).unwrap()).unwrap();
            assert_eq!(Calibration::read(&file), None);
            measured.keep(&file).unwrap();
            assert_eq!((Calibration::read(&file).as_ref(), all(&file).len()), (Some(&measured), 2));
        }
        for broken in ["", "{", "[{}]", "[1]"] {
            fs::write(&file, broken).unwrap();
            assert_eq!(Calibration::read(&file), None, "{broken}");
            measured.keep(&file).unwrap();
            assert_eq!(Calibration::read(&file).as_ref(), Some(&measured));
        }
        let insane = Calibration { memory: 0.0, ..measured.clone() };
        insane.keep(&file).unwrap();
        assert_eq!(Calibration::read(&file), None);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_of_keeping_alone() {
        let tree = Tree::new(&[("file", "")]);
        let file = tree.root().join("file/calibration.json");
        assert!(Calibration::unmeasured().keep(&file).is_err());
    }
}
