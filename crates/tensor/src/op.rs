//! The vocabulary of operations.

use mlxengine_kernels::elementwise::{Binary, Unary};
use mlxengine_kernels::reduce::Reduce;
use mlxengine_kernels::weights::{Precision, QuantFormat};

use crate::{Dtype, Shape};

/// One operation: plain data that says what is computed, never how or where.
///
/// Inputs are listed in brackets; `T` counts tokens. [`crate::infer`] states and checks every shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    // Plain.
    /// `[x]`: a function of each element.
    Unary(Unary),
    /// `[a, b]`: element by element, with NumPy's broadcasting.
    Binary(Binary),
    /// `[condition, a, b]`: `a` where the condition is not 0, else `b`; all of one shape.
    Select,
    /// `[x]`: another element type; `F32`, `F16`, `Bf16` among each other.
    Cast(Dtype),
    /// `[x]`: over the last axis, which keeps size 1.
    Reduce(Reduce),
    /// `[x]`: `exp(x - max) / sum` over the last axis.
    Softmax,
    /// `[x]`: the same elements in another shape.
    Reshape(Shape),
    /// `[x]`: the axes in another order; only the first `rank` entries count.
    Permute([usize; crate::shape::MAX_RANK]),
    /// `[x]`: `count` entries of an axis. Free on axis 0, a copy on others.
    Slice {
        /// The axis to cut.
        axis: usize,
        /// First entry that stays.
        start: usize,
        /// How many stay.
        count: usize,
    },
    /// `[x, y, …]`: joined along an axis.
    Concat {
        /// The axis that grows.
        axis: usize,
    },
    /// `[x, y]`: `x` with the entries of axis 0 from `start` on replaced by `y`; in place if `x` is held by nobody else.
    Update {
        /// First entry to replace.
        start: usize,
    },
    /// `[table, ids U32]`: the rows of `table` (rank 2, any float type) that the ids name, as `F32`.
    Take,
    /// `[x, ids U32]`: along the last axis, the entries that the ids of the same row name.
    TakeAlong,
    /// `[x]`: the positions of the `k` largest entries of each row, largest first, the earlier of equals first.
    TopK {
        /// How many.
        k: usize,
    },

    // Contractions.
    /// `[a, b]`: `a [.., M, K] · b [.., K, N]`; `transpose`: `b` is `[.., N, K]`. A `b` of rank 2 serves all of `a`, and then
    /// may have any float type.
    Matmul {
        /// Whether `b` is given with its rows along `N`.
        transpose: bool,
        /// How exactly; [`Precision::Fast`] tells on a transposed `b` of rank 2 alone.
        precision: Precision,
    },
    /// `[x, codes U32, scales, biases?, …]`: [`Op::Matmul`] with a quantized `b` of rank 2, or with each of several of one
    /// layout: one result each.
    QuantizedMatmul {
        /// Layout of the codes and scales.
        format: QuantFormat,
        /// As in [`Op::Matmul`].
        transpose: bool,
        /// Multiplies every weight (NVFP4's global scale), else 1.
        multiplier: f32,
        /// As in [`Op::Matmul`].
        precision: Precision,
    },
    /// `[x, ids U32 [T, S], experts [E, N, K], bias? [E, N]]`: each slot's row by its expert, `-> [T, S, N]`. `x` is `[T, K]`,
    /// one row for all slots of a token, or `[T, S, K]`.
    GatherMatmul,
    /// `[x, ids, codes, scales, biases?, bias?]`: [`Op::GatherMatmul`] with quantized experts.
    GatherQuantizedMatmul {
        /// Layout of the codes and scales.
        format: QuantFormat,
        /// Multiplies every weight.
        multiplier: f32,
        /// Whether the last input is a bias `[E, N]`.
        bias: bool,
        /// How exactly.
        precision: Precision,
    },
    /// `[codes U32, scales, biases?, ids U32]`: [`Op::Take`] from a quantized table.
    TakeQuantized {
        /// Layout of the codes and scales.
        format: QuantFormat,
        /// Multiplies every weight.
        multiplier: f32,
    },
    /// `[x]`: `-> [codes U32, scales, biases?]` along the last axis, by MLX's arithmetic.
    Quantize(QuantFormat),
    /// `[codes U32, scales, biases?]`: the weights, rounded as MLX rounds them in that type.
    Dequantize {
        /// Layout of the codes and scales.
        format: QuantFormat,
        /// `F32`, or the type whose rounding the weights have; the result is `F32` either way.
        rounding: Dtype,
        /// Multiplies every weight.
        multiplier: f32,
    },

    // Fused: each has a definition in plain operations.
    /// `[x, weight?]`: `x / sqrt(mean(x²) + eps) * weight` (Zhang & Sennrich 2019).
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `[x, weight?, bias?]`: `(x - mean) / sqrt(var + eps) * weight + bias` (Ba et al. 2016).
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// `[x [T, H, D], cos [T, R/2], sin [T, R/2]]`: rotates the first `R` of each head's `D` (Su et al. 2021).
    Rope {
        /// Pairs are neighbours `(2i, 2i+1)` instead of halves `(i, i + R/2)`.
        traditional: bool,
    },
    /// Attention of the last `T` of `S` positions: `[q [T, H, Dk], k.., v.., sinks? [H]]`, where `k` is `[S, G, Dk]` and `v`
    /// `[S, G, Dv]`, or each is its `codes, scales, biases?`.
    Sdpa(Sdpa),
    /// `[x [T, C], tail [K - 1, C], weight [K, C], bias? [C]]`: each channel's sum over its last `K` positions, oldest first,
    /// where `tail` comes before `x`; `-> [y [T, C], tail]`, the tail for what follows.
    CausalConv,
    /// The gated delta rule (Yang et al. 2024): `[q [T, G, Dk], k, v [T, H, Dv], decay [T, H] or [T, H, Dk], beta [T, H],
    /// state [H, Dv, Dk]] -> [y [T, H, Dv], state]`. At each position `S ← S·decay; S ← S + beta (v - S k) kᵀ; y = S q`.
    DeltaScan,
    /// The delta rule of RWKV-7 (Peng et al. 2025): `[r [T, H, Dk], decay, k, v [T, H, Dv], a [T, H, Dk], b, state [H, Dv, Dk]]
    /// -> [y [T, H, Dv], state]`. At each position `S ← S·decay + (S a) bᵀ + v kᵀ; y = S r`.
    WkvScan,
    /// A selective state space (Gu & Dao 2023): `[x [T, H, D], dt [T, H], a [H] or [H, N], b [T, G, N], c [T, G, N], d [H],
    /// state [H, D, N]] -> [y [T, H, D], state]`. At each position `S ← S·exp(dt a) + dt x bᵀ; y = S c + d x`.
    SsmScan,
    /// `[gate, up]`: `act(gate) * up` (Shazeer 2020).
    Glu(Unary),
    /// `[x]`: `cap * tanh(x / cap)`.
    Softcap(f32),
}

/// What [`Op::Sdpa`] computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sdpa {
    /// Multiplies `q · k`.
    pub scale: f32,
    /// Whether a position sees only itself and earlier ones.
    pub causal: bool,
    /// Whether a position sees only the last `window` positions, itself among them.
    pub window: Option<usize>,
    /// Caps the scores before masking: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Layout of `k` and `v`, if they are quantized.
    pub format: Option<QuantFormat>,
    /// Number of the first of `k` and `v`. Blocks are counted from 0: the same keys under the same numbers give the same bits.
    pub first: usize,
    /// Whether the last input is one extra logit a head that joins the softmax and carries no value.
    pub sinks: bool,
    /// How exactly it is computed.
    pub precision: Precision,
}
