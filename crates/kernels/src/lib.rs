//! CPU arithmetic of MLXEngine, on slices.
//!
//! Nothing here knows a tensor, a model or a file: a kernel reads slices, writes a slice that the caller owns, and allocates
//! no result. Every kernel takes a [`Cpu`] first: the instruction set it may use ([`Isa`], a token that exists only if the
//! processor has it) and the thread pool it may spread over. Arithmetic is written once against [`simd::Simd`] and by hand
//! only where measured.
//!
//! Invariant: the bits of one output element never depend on the number of threads or on how many other rows are computed
//! in the same call, so a prompt gives the same answer alone or in a batch.

pub mod attention;
pub mod conv;
pub mod elementwise;
pub mod isa;
pub mod limits;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod pool;
pub mod quant;
pub mod reduce;
pub mod rope;
pub mod scan;
pub mod simd;
pub mod softmax;
pub mod weights;

mod arch;
mod codec;
mod cpu;
mod dots;
mod scratch;
mod split;

#[cfg(test)]
mod check;

pub use cpu::Cpu;
pub use isa::Isa;
pub use pool::Pool;
