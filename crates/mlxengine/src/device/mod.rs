//! What computes: the processor's instruction sets, and the threads; and what else this machine has.

mod calibration;
pub(crate) mod cgroup;
#[cfg(any(target_os = "linux", test))]
mod linux;
mod machine;
#[cfg(any(target_os = "macos", test))]
mod macos;
#[cfg(test)]
pub(crate) mod tree;

use mlxengine_engine::{EngineError, ErrorKind, Result};
use mlxengine_kernels::{Cpu, Isa, limits};
use serde::Serialize;

pub use calibration::Calibration;
pub use machine::{Accelerator, CacheFacts, Disk, Kind, Machine, MemoryFacts, Processor};

/// What computes, for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Instruction set of the kernels, as in [`instruction_sets`].
    pub instruction_set: &'static str,
    /// Threads that share a kernel's work.
    pub threads: usize,
}

/// Most threads that [`configure`] accepts.
pub const MAX_THREADS: usize = 1024;

/// Names of the instruction sets that this processor has, the slowest first.
pub fn instruction_sets() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}

/// Chooses the instruction set and the number of threads for the whole process; what is not given is the best that is here.
/// The first computation makes the choice final, so this comes before a model is loaded.
///
/// ```
/// # use mlxengine::device;
/// device::configure(Some("portable"), Some(1))?;
/// assert_eq!(device::current().threads, 1);
/// assert!(device::configure(Some("sse9"), None).is_err());
/// # Ok::<(), mlxengine::EngineError>(())
/// ```
///
/// # Errors
/// If the processor lacks the instruction set, the number of threads is not from 1 to [`MAX_THREADS`], or another choice was
/// final before.
pub fn configure(instruction_set: Option<&str>, threads: Option<usize>) -> Result<()> {
    let invalid = |message: String| EngineError::new(ErrorKind::InvalidParameter, message);
    let isa = instruction_set.map(Isa::from_name).transpose().map_err(invalid)?;
    if let Some(threads) = threads.filter(|threads| !(1..=MAX_THREADS).contains(threads)) {
        return Err(invalid(format!("the number of threads must be from 1 to {MAX_THREADS}, got {threads}")));
    }
    if Cpu::configure(isa, threads) {
        return Ok(());
    }
    let current = current();
    if instruction_set.is_none_or(|name| name == current.instruction_set)
        && threads.is_none_or(|n| n == current.threads)
    {
        return Ok(());
    }
    let Device { instruction_set, threads } = current;
    Err(invalid(format!("the process computes with {instruction_set} on {threads} threads already"))
        .with_remedy("choose before the first model is loaded"))
}

/// What computes; asking makes the choice final.
pub fn current() -> Device {
    let cpu = Cpu::global();
    Device { instruction_set: cpu.isa.name(), threads: cpu.pool.threads() }
}

/// Lets only so many of the threads compute from now on: for measurements, since an answer's bits do not depend on it.
///
/// # Errors
/// If the process has fewer threads, or the number is 0.
pub fn limit_threads(threads: usize) -> Result<()> {
    let pool = &Cpu::global().pool;
    pool.limit(threads);
    if pool.threads() == threads {
        return Ok(());
    }
    let message = format!("{threads} threads were asked for, and the process has {} to compute", pool.threads());
    Err(EngineError::new(ErrorKind::InvalidParameter, message))
}

/// Bytes a second at which the threads read memory together: what limits an answer. Takes some tenths of a second, and 400 MB
/// while it lasts.
pub fn memory_speed() -> f64 {
    limits::memory(Cpu::global(), &limits::filled_memory(), 6)
}

/// Operations a second on 8-bit integers of the threads together, in registers alone: what limits a prompt. Threads whose cores
/// are two names of one reach together what one of them does. `None` where the instruction set multiplies no such integers.
pub fn integer_speed() -> Option<f64> {
    limits::Unit::Integers.peak(Cpu::global(), 3)
}
