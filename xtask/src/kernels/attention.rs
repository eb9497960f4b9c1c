//! Attention of real models: a prompt's and one token's, over 16-bit keys and values that no cache holds.

use mlxengine_kernels::Cpu;
use mlxengine_kernels::attention::{Attention, sdpa};
use mlxengine_kernels::matmul::TileUnit;
use mlxengine_kernels::weights::{Elements, Float, Matrix, Precision};

use super::Kernel;

/// A model's heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub model: &'static str,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

/// The models that are measured.
pub const MODELS: [Heads; 2] = [
    Heads { model: "Qwen2.5-0.5B", heads: 14, kv_heads: 2, dim: 64 },
    Heads { model: "Llama-3.1-8B", heads: 32, kv_heads: 8, dim: 128 },
];

/// Queries, and the slots that the last of them sees: a prompt's first and last piece, and a token of an answer.
pub const CASES: [(usize, usize); 3] = [(512, 512), (512, 4096), (1, 4096)];

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub heads: Heads,
    pub queries: usize,
    pub slots: usize,
    pub precision: Precision,
}

impl Case {
    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        2 * self.slots * self.heads.kv_heads * self.heads.dim * Float::F16.size()
    }

    /// Operations of scores and weighted values that a causal mask leaves.
    pub fn operations(&self) -> f64 {
        let seen = self.queries * self.slots - self.queries * (self.queries - 1) / 2;
        (2 * 2 * seen * self.heads.heads * self.heads.dim) as f64
    }

    /// The kernel whose unit multiplies.
    pub fn kernel(&self, cpu: &Cpu) -> Kernel {
        let many = self.queries > 1 && self.precision != Precision::Exact;
        TileUnit::best(cpu.isa).filter(|_| many).map_or(Kernel::Exact, Kernel::Tiles)
    }

    /// Computes it over the keys and values in `memory`.
    pub fn run(&self, cpu: &Cpu, q: &[f32], memory: &[u8], out: &mut [f32]) {
        let Heads { heads, kv_heads, dim, .. } = self.heads;
        let args = Attention {
            heads,
            kv_heads,
            key_dim: dim,
            value_dim: dim,
            scale: 1.0 / (dim as f32).sqrt(),
            softcap: None,
            window: None,
            causal: true,
            first: 0,
            precision: self.precision,
        };
        let (k, v) = memory[..self.bytes()].split_at(self.bytes() / 2);
        let matrix =
            |bytes| Matrix { rows: self.slots * kv_heads, cols: dim, elements: Elements::Dense(Float::F16, bytes) };
        sdpa(cpu, &args, q, &matrix(k), &matrix(v), None, out);
    }
}
