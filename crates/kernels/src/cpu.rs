//! What a kernel runs on: an instruction set and a pool of threads.

use std::sync::OnceLock;

use crate::{Isa, Pool};

/// The instruction set and the threads that kernels use.
#[derive(Debug)]
pub struct Cpu {
    /// Instruction set of the vector code.
    pub isa: Isa,
    /// Threads that share a kernel's work.
    pub pool: Pool,
}

static GLOBAL: OnceLock<Cpu> = OnceLock::new();

impl Cpu {
    /// A processor view of its own: tests use it to run one kernel on every instruction set.
    pub fn new(isa: Isa, threads: usize) -> Self {
        Self { isa, pool: Pool::new(threads) }
    }

    /// The processor that the whole process shares: the best instruction set and all cores, unless [`Cpu::configure`]
    /// came first.
    pub fn global() -> &'static Cpu {
        GLOBAL.get_or_init(|| Cpu::new(Isa::best(), default_threads()))
    }

    /// Chooses the instruction set and the number of threads of [`Cpu::global`]. Returns `false` if the process computed
    /// something already, because then the choice is made.
    pub fn configure(isa: Option<Isa>, threads: Option<usize>) -> bool {
        let mut fresh = false;
        GLOBAL.get_or_init(|| {
            fresh = true;
            Cpu::new(isa.unwrap_or_else(Isa::best), threads.unwrap_or_else(default_threads))
        });
        fresh
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
