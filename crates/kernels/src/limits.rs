//! What the machine can do: how fast it reads memory and how fast it multiplies, with the threads of a [`Cpu`].
//!
//! Kernels are judged by the fraction of these that they reach, measured in the same run: a shared machine is not equally
//! fast every minute.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::Cpu;
#[cfg(target_arch = "aarch64")]
use crate::arch::aarch64::peak::IntegerUnit;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::peak::IntegerUnit;
use crate::matmul::TileUnit;
use crate::simd::{Simd, SimdOp};

/// Bytes of [`filled_memory`]: more than the caches of most machines hold.
pub const BYTES: usize = 384 << 20;
/// Bytes of a task.
const PART: usize = 1 << 20;
/// Multiplications of a chain between two looks at the clock.
const ROUNDS: usize = 100_000;

/// A number of runs of which the fastest counts: noise only slows.
fn fastest(runs: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..runs).map(|_| {
        let begun = Instant::now();
        run();
        begun.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Bytes a second at which all threads together read memory that is in no cache, the best of `runs`.
///
/// `memory` is what they read, at least some times as much as the caches hold.
pub fn memory(cpu: &Cpu, memory: &[u8], runs: usize) -> f64 {
    memory.len() as f64 / fastest(runs, || read(cpu, memory))
}

/// Memory to read, none of it the system's page of zeros.
pub fn filled_memory() -> Vec<u8> {
    vec![1; BYTES]
}

/// Reads all of the memory: wide loads from four places at a time, each asked for ahead.
fn read(cpu: &Cpu, memory: &[u8]) {
    struct Read<'a>(&'a [u8]);
    impl SimdOp for Read<'_> {
        type Output = f32;
        #[inline(always)]
        fn eval<S: Simd>(self, s: S) -> f32 {
            let quarter = self.0.len() / 4 / 256 * 256;
            let mut sums = [s.splat(0.0); 16];
            for at in (0..quarter).step_by(256) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let p = self.0[i / 4 * quarter + at..][i % 4 * 64..][..64].as_ptr();
                    s.prefetch(p.wrapping_add(2048));
                    for vector in 0..16 / S::LANES {
                        // SAFETY: the 64 bytes at `p` lie in the slice.
                        *sum = s.add(*sum, unsafe { s.load(p.cast::<f32>().add(vector * S::LANES)) });
                    }
                }
            }
            sums.into_iter().map(|sum| s.sum(sum)).sum()
        }
    }
    cpu.pool.run(memory.len().div_ceil(PART), &|i| {
        let part = &memory[i * PART..memory.len().min((i + 1) * PART)];
        std::hint::black_box(cpu.isa.run(Read(part)));
    });
}

/// Something that multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Single precision, a vector at a time.
    Floats,
    /// 8-bit integers that are added up in 32 bits.
    Integers,
    /// Tiles of bf16.
    Tiles(TileUnit),
}

impl Unit {
    /// Operations a second of all threads together, in registers alone, the best of `runs`: a multiplication and an addition
    /// are two. `None` if the instruction set has no such unit.
    pub fn peak(self, cpu: &Cpu, runs: usize) -> Option<f64> {
        let mut operations = self.run(cpu)?;
        let seconds = fastest(runs, || operations = self.run(cpu).unwrap_or(operations));
        Some(operations / seconds)
    }

    /// Multiplies for some milliseconds; gives the operations.
    fn run(self, cpu: &Cpu) -> Option<f64> {
        match self {
            Unit::Floats => Some(spin(cpu, &|| cpu.isa.run(SpinFloats(ROUNDS)))),
            Unit::Integers => spin_integers(cpu),
            Unit::Tiles(unit) => Some(unit.spin(cpu, ROUNDS)),
        }
    }

    /// What multiplies, as in `f32 avx512` or `int8 avx512vnni`.
    pub fn name(self, cpu: &Cpu) -> String {
        match self {
            Unit::Floats => format!("f32 {}", cpu.isa.name()),
            Unit::Integers => format!("int8 {}", integer_unit_name(cpu)),
            Unit::Tiles(unit) => format!("bf16 {}", unit.name()),
        }
    }
}

/// Many short tasks, so that all threads end together.
fn spin(cpu: &Cpu, task: &(dyn Fn() -> f64 + Sync)) -> f64 {
    let operations = AtomicU64::new(0);
    cpu.pool.run(16 * cpu.pool.threads(), &|_| {
        operations.fetch_add(task() as u64, Relaxed);
    });
    operations.into_inner() as f64
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn spin_integers(cpu: &Cpu) -> Option<f64> {
    let unit = IntegerUnit::best(cpu.isa)?;
    Some(spin(cpu, &|| unit.spin(ROUNDS)))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn spin_integers(_: &Cpu) -> Option<f64> {
    None
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn integer_unit_name(cpu: &Cpu) -> &'static str {
    IntegerUnit::best(cpu.isa).map_or("none", IntegerUnit::name)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn integer_unit_name(_: &Cpu) -> &'static str {
    "none"
}

/// Multiplies and adds in registers, so often; gives the operations.
struct SpinFloats(usize);

impl SimdOp for SpinFloats {
    type Output = f64;

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) -> f64 {
        // As many chains as there are registers for: those of one chain wait for each other.
        if S::REGISTERS >= 32 { chains::<S, 24>(s, self.0) } else { chains::<S, 12>(s, self.0) }
    }
}

#[inline(always)]
fn chains<S: Simd, const N: usize>(s: S, rounds: usize) -> f64 {
    let (a, b) = (s.splat(std::hint::black_box(0.999)), s.splat(std::hint::black_box(0.001)));
    let mut sums = [s.splat(0.5); N];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = s.fma(*sum, a, b);
        }
    }
    std::hint::black_box(sums.map(|sum| s.sum(sum)));
    2.0 * (N * S::LANES * rounds) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn limits_are_positive_where_there_is_a_unit() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 2);
            for length in [3 * PART, PART / 2 + 77] {
                assert!(memory(&cpu, &vec![1; length], 1) > 0.0);
            }
            assert!(Unit::Floats.peak(&cpu, 1).is_some_and(|peak| peak > 0.0));
            assert_eq!(Unit::Integers.peak(&cpu, 1).is_some(), Unit::Integers.name(&cpu) != "int8 none");
            for unit in TileUnit::available(isa).into_iter().filter(|unit| unit.name() != "scalar") {
                assert!(Unit::Tiles(unit).peak(&cpu, 1).is_some_and(|peak| peak > 0.0));
            }
        }
    }
}
