//! The vocabulary as methods: what model code reads like.

use smallvec::{SmallVec, smallvec};

use crate::{
    Binary, Dtype, Op, Precision, QuantFormat, QuantizedTensor, Reduce, Sdpa, Shape, Tensor, Tensors, Unary, Weight,
};

impl Tensor {
    /// Applies a function to each element.
    #[track_caller]
    pub fn unary(self, op: Unary) -> Tensor {
        Tensor::apply(&Op::Unary(op), smallvec![self])
    }

    /// Combines two tensors element by element, with broadcasting.
    #[track_caller]
    pub fn binary(self, op: Binary, other: &Tensor) -> Tensor {
        Tensor::apply(&Op::Binary(op), smallvec![self, other.clone()])
    }

    /// `self + other`.
    #[track_caller]
    #[allow(
        clippy::should_implement_trait,
        reason = "by value and by reference differ on purpose: ownership is donation"
    )]
    pub fn add(self, other: &Tensor) -> Tensor {
        self.binary(Binary::Add, other)
    }

    /// `self * other`.
    #[track_caller]
    #[allow(clippy::should_implement_trait, reason = "see add")]
    pub fn mul(self, other: &Tensor) -> Tensor {
        self.binary(Binary::Mul, other)
    }

    /// `self / other`.
    #[track_caller]
    #[allow(clippy::should_implement_trait, reason = "see add")]
    pub fn div(self, other: &Tensor) -> Tensor {
        self.binary(Binary::Div, other)
    }

    /// Every element times a number.
    #[track_caller]
    pub fn scale(self, factor: f32) -> Tensor {
        self.mul(&Tensor::from_f32(&[factor], [1]))
    }

    /// Over the last axis, which keeps size 1.
    #[track_caller]
    pub fn reduce(self, op: Reduce) -> Tensor {
        Tensor::apply(&Op::Reduce(op), smallvec![self])
    }

    /// `exp(x - max) / sum` over the last axis.
    #[track_caller]
    pub fn softmax(self) -> Tensor {
        Tensor::apply(&Op::Softmax, smallvec![self])
    }

    /// The same elements in another shape.
    #[track_caller]
    pub fn reshape(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::apply(&Op::Reshape(shape.into()), smallvec![self])
    }

    /// The axes in another order.
    #[track_caller]
    pub fn permute(self, axes: &[usize]) -> Tensor {
        let mut order = [0; crate::shape::MAX_RANK];
        order[..axes.len()].copy_from_slice(axes);
        Tensor::apply(&Op::Permute(order), smallvec![self])
    }

    /// `count` entries of an axis from `start` on; free on axis 0.
    #[track_caller]
    pub fn slice(self, axis: usize, start: usize, count: usize) -> Tensor {
        Tensor::apply(&Op::Slice { axis, start, count }, smallvec![self])
    }

    /// Tensors joined along an axis.
    #[track_caller]
    pub fn concat(parts: impl IntoIterator<Item = Tensor>, axis: usize) -> Tensor {
        let mut parts: Tensors = parts.into_iter().collect();
        if parts.len() == 1 {
            return parts.remove(0);
        }
        Tensor::apply(&Op::Concat { axis }, parts)
    }

    /// The entries of axis 0 from `start` on replaced; in place if nobody else holds `self`.
    #[track_caller]
    pub fn update(self, start: usize, rows: &Tensor) -> Tensor {
        Tensor::apply(&Op::Update { start }, smallvec![self, rows.clone()])
    }

    /// Another float type.
    #[track_caller]
    pub fn cast(&self, dtype: Dtype) -> Tensor {
        Tensor::apply(&Op::Cast(dtype), smallvec![self.clone()])
    }

    /// Positions of the `k` largest of each row, largest first.
    #[track_caller]
    pub fn top_k(&self, k: usize) -> Tensor {
        Tensor::apply(&Op::TopK { k }, smallvec![self.clone()])
    }

    /// Along the last axis, the entries that the ids of the same row name.
    #[track_caller]
    pub fn take_along(&self, ids: &Tensor) -> Tensor {
        Tensor::apply(&Op::TakeAlong, smallvec![self.clone(), ids.clone()])
    }

    /// `self · other`, batched; `transpose`: `other` has its rows along the output.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor, transpose: bool) -> Tensor {
        let op = Op::Matmul { transpose, precision: Precision::Exact };
        Tensor::apply(&op, smallvec![self.clone(), other.clone()])
    }

    /// `self · weightᵀ`: a linear layer without bias.
    #[track_caller]
    pub fn linear(&self, weight: &Weight, precision: Precision) -> Tensor {
        match weight {
            Weight::Dense(w) => {
                let op = Op::Matmul { transpose: true, precision };
                Tensor::apply(&op, smallvec![self.clone(), w.clone()])
            }
            Weight::Quantized(q) => {
                let op = Op::QuantizedMatmul { format: q.format, transpose: true, multiplier: q.multiplier, precision };
                Tensor::apply(&op, q.after(smallvec![self.clone()]))
            }
        }
    }

    /// [`Tensor::linear`] with each of several weights: the same bits, in one step where they lie alike.
    #[track_caller]
    pub fn linear_all<const N: usize>(&self, weights: [&Weight; N], precision: Precision) -> [Tensor; N] {
        let quantized: SmallVec<[_; 4]> = weights.iter().filter_map(|w| w.quantized()).collect();
        let alike = |w: &&QuantizedTensor| (w.format, w.multiplier) == (quantized[0].format, quantized[0].multiplier);
        if quantized.len() < N || !quantized.iter().all(alike) {
            return weights.map(|w| self.linear(w, precision));
        }
        let QuantizedTensor { format, multiplier, .. } = *quantized[0];
        let op = Op::QuantizedMatmul { format, transpose: true, multiplier, precision };
        let inputs = quantized.iter().fold(smallvec![self.clone()], |inputs, w| w.after(inputs));
        let mut outputs = Tensor::apply_all(&op, inputs).into_iter();
        weights.map(|_| outputs.next().expect("a result for each weight"))
    }

    /// `self · weight`, a linear layer the other way round: always exact.
    #[track_caller]
    pub fn product(&self, weight: &Weight) -> Tensor {
        let (transpose, precision) = (false, Precision::Exact);
        match weight {
            Weight::Dense(w) => Tensor::apply(&Op::Matmul { transpose, precision }, smallvec![self.clone(), w.clone()]),
            Weight::Quantized(q) => {
                let op = Op::QuantizedMatmul { format: q.format, transpose, multiplier: q.multiplier, precision };
                Tensor::apply(&op, q.after(smallvec![self.clone()]))
            }
        }
    }

    /// Each slot's row by its expert: `self [T, K]` or `[T, S, K]`, `ids [T, S]`, `experts [E, N, K]`, `-> [T, S, N]`.
    #[track_caller]
    pub fn gather_linear(&self, ids: &Tensor, experts: &Weight, bias: Option<&Tensor>, precision: Precision) -> Tensor {
        let (op, mut inputs): (Op, Tensors) = match experts {
            Weight::Dense(w) => (Op::GatherMatmul, smallvec![self.clone(), ids.clone(), w.clone()]),
            Weight::Quantized(q) => {
                let op = Op::GatherQuantizedMatmul {
                    format: q.format,
                    multiplier: q.multiplier,
                    bias: bias.is_some(),
                    precision,
                };
                (op, q.after(smallvec![self.clone(), ids.clone()]))
            }
        };
        inputs.extend(bias.cloned());
        Tensor::apply(&op, inputs)
    }

    /// Codes and scales of `self` along its last axis: `[codes, scales, biases?]`.
    #[track_caller]
    pub fn quantize(self, format: QuantFormat) -> Tensors {
        Tensor::apply_all(&Op::Quantize(format), smallvec![self])
    }

    /// `x / sqrt(mean(x²) + eps) * weight` over the last axis.
    #[track_caller]
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f32) -> Tensor {
        let mut inputs: Tensors = smallvec![self.clone()];
        inputs.extend(weight.cloned());
        Tensor::apply(&Op::RmsNorm { eps }, inputs)
    }

    /// `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis.
    #[track_caller]
    pub fn layer_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f32) -> Tensor {
        let mut inputs: Tensors = smallvec![self.clone()];
        inputs.extend(weight.cloned());
        inputs.extend(bias.cloned());
        Tensor::apply(&Op::LayerNorm { eps }, inputs)
    }

    /// Rotary position embedding of `self [T, H, D]` by `cos`, `sin` `[T, R/2]`.
    #[track_caller]
    pub fn rope(self, cos: &Tensor, sin: &Tensor, traditional: bool) -> Tensor {
        Tensor::apply(&Op::Rope { traditional }, smallvec![self, cos.clone(), sin.clone()])
    }

    /// Attention of `self [T, H, D]` over keys and values, each one tensor or its quantized parts; `sinks` `[H]`.
    #[track_caller]
    pub fn sdpa(&self, sdpa: Sdpa, keys: Tensors, values: Tensors, sinks: Option<&Tensor>) -> Tensor {
        let mut inputs: Tensors = smallvec![self.clone()];
        inputs.extend(keys);
        inputs.extend(values);
        inputs.extend(sinks.cloned());
        Tensor::apply(&Op::Sdpa(Sdpa { sinks: sinks.is_some(), ..sdpa }), inputs)
    }

    /// Each channel's sum over its last positions: `self [T, C]` after `tail [K - 1, C]`, which moves on, by
    /// `weight [K, C]`.
    #[track_caller]
    pub fn causal_conv(&self, tail: &mut Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let mut inputs: Tensors = smallvec![self.clone(), std::mem::take(tail), weight.clone()];
        inputs.extend(bias.cloned());
        Self::moving(&Op::CausalConv, inputs, tail)
    }

    /// The gated delta rule over positions: `parts` are queries, keys, values, decays and betas as [`Op::DeltaScan`] lists
    /// them; moves `state` on.
    #[track_caller]
    pub fn delta_scan(parts: [Tensor; 5], state: &mut Tensor) -> Tensor {
        Self::moving(&Op::DeltaScan, parts.into_iter().chain([std::mem::take(state)]).collect(), state)
    }

    /// RWKV-7's delta rule over positions: `parts` are `r, decay, k, v, a, b` as [`Op::WkvScan`] lists them; moves `state` on.
    #[track_caller]
    pub fn wkv_scan(parts: [Tensor; 6], state: &mut Tensor) -> Tensor {
        Self::moving(&Op::WkvScan, parts.into_iter().chain([std::mem::take(state)]).collect(), state)
    }

    /// A selective state space over positions: `parts` are `x, dt, a, b, c, d` as [`Op::SsmScan`] lists them; moves `state`
    /// on.
    #[track_caller]
    pub fn ssm_scan(parts: [Tensor; 6], state: &mut Tensor) -> Tensor {
        Self::moving(&Op::SsmScan, parts.into_iter().chain([std::mem::take(state)]).collect(), state)
    }

    /// Applies an operation whose second result is the next value of `carried`.
    #[track_caller]
    fn moving(op: &Op, inputs: Tensors, carried: &mut Tensor) -> Tensor {
        let mut outputs = Tensor::apply_all(op, inputs);
        *carried = outputs.pop().expect("two results");
        outputs.pop().expect("two results")
    }

    /// `act(self) * up`.
    #[track_caller]
    pub fn glu(self, act: Unary, up: &Tensor) -> Tensor {
        Tensor::apply(&Op::Glu(act), smallvec![self, up.clone()])
    }

    /// `cap * tanh(x / cap)`.
    #[track_caller]
    pub fn softcap(self, cap: f32) -> Tensor {
        Tensor::apply(&Op::Softcap(cap), smallvec![self])
    }
}

impl QuantizedTensor {
    /// The parts, in the order in which operations take them, after `inputs`.
    fn after(&self, mut inputs: Tensors) -> Tensors {
        inputs.extend([self.codes.clone(), self.scales.clone()]);
        inputs.extend(self.biases.clone());
        inputs
    }

    /// The weights as `F32`, with the rounding of MLX in `rounding`.
    #[track_caller]
    pub fn dequantize(&self, rounding: Dtype) -> Tensor {
        let op = Op::Dequantize { format: self.format, rounding, multiplier: self.multiplier };
        Tensor::apply(&op, self.after(Tensors::new()))
    }
}

impl Weight {
    /// The rows of this table (rank 2) that the ids name, as `F32`.
    #[track_caller]
    pub fn take(&self, ids: &Tensor) -> Tensor {
        match self {
            Weight::Dense(table) => Tensor::apply(&Op::Take, smallvec![table.clone(), ids.clone()]),
            Weight::Quantized(q) => {
                let op = Op::TakeQuantized { format: q.format, multiplier: q.multiplier };
                let mut inputs = q.after(Tensors::new());
                inputs.push(ids.clone());
                Tensor::apply(&op, inputs)
            }
        }
    }
}
