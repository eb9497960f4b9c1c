//! Weight matrices: dense or quantized, one or a stack of experts.

use mlxengine_kernels::weights::{Elements, Float, Matrix, QuantFormat, QuantMode, Quantized};

use crate::{Dtype, Shape, Tensor};

/// A quantized array: codes and their scales, as a checkpoint holds them.
#[derive(Clone, Debug)]
pub struct QuantizedTensor {
    /// Layout of the codes and scales.
    pub format: QuantFormat,
    /// `U32 [.., columns * bits / 32]`.
    pub codes: Tensor,
    /// `[.., columns / group]`: floats for affine, `U8` otherwise.
    pub scales: Tensor,
    /// Like `scales`; affine alone has them.
    pub biases: Option<Tensor>,
    /// Multiplies every weight: 1 but for NVFP4 with a global scale.
    pub multiplier: f32,
}

impl QuantizedTensor {
    /// The shape of the weights that the codes stand for.
    pub fn shape(&self) -> Shape {
        self.codes.shape().with_last(self.codes.shape().last() * 32 / self.format.bits as usize)
    }
}

/// A weight in the form that its checkpoint chose.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a model has a few hundred, and a box would cost a look-up a product")]
pub enum Weight {
    /// Floats.
    Dense(Tensor),
    /// Codes and scales.
    Quantized(QuantizedTensor),
}

impl Weight {
    /// The shape, `[outputs, inputs]` for a linear layer.
    pub fn shape(&self) -> Shape {
        match self {
            Weight::Dense(tensor) => *tensor.shape(),
            Weight::Quantized(q) => q.shape(),
        }
    }

    /// The codes and scales, if these are what it holds.
    pub fn quantized(&self) -> Option<&QuantizedTensor> {
        match self {
            Weight::Dense(_) => None,
            Weight::Quantized(q) => Some(q),
        }
    }

    /// `count` rows from `start` on, of a weight of rank 2: no copy.
    pub fn rows(&self, start: usize, count: usize) -> Weight {
        let cut = |tensor: &Tensor| tensor.clone().slice(0, start, count);
        match self {
            Weight::Dense(tensor) => Weight::Dense(cut(tensor)),
            Weight::Quantized(q) => Weight::Quantized(QuantizedTensor {
                codes: cut(&q.codes),
                scales: cut(&q.scales),
                biases: q.biases.as_ref().map(cut),
                ..*q
            }),
        }
    }

    /// One matrix of a stack (rank 3): no copy.
    pub fn part(&self, index: usize) -> Weight {
        let cut = |tensor: &Tensor| {
            let [_, rows, columns] = [0, 1, 2].map(|axis| tensor.shape()[axis]);
            tensor.clone().slice(0, index, 1).reshape([rows, columns])
        };
        match self {
            Weight::Dense(tensor) => Weight::Dense(cut(tensor)),
            Weight::Quantized(q) => Weight::Quantized(QuantizedTensor {
                codes: cut(&q.codes),
                scales: cut(&q.scales),
                biases: q.biases.as_ref().map(cut),
                ..*q
            }),
        }
    }

    /// Bytes that the weight takes in its file.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Dense(tensor) => tensor.spec().bytes(),
            Weight::Quantized(q) => {
                let biases = q.biases.as_ref().map_or(0, |b| b.spec().bytes());
                q.codes.spec().bytes() + q.scales.spec().bytes() + biases
            }
        }
    }
}

/// A float type that kernels read as it lies.
pub(crate) fn float(dtype: Dtype) -> Float {
    match dtype {
        Dtype::F16 => Float::F16,
        Dtype::Bf16 => Float::Bf16,
        Dtype::F32 => Float::F32,
        other => unreachable!("infer admits floats alone, not {other}"),
    }
}

/// The kernels' view of a dense array: its last axis as columns.
pub(crate) fn dense_matrix(tensor: &Tensor) -> Matrix<'_> {
    Matrix {
        rows: tensor.shape().rows(),
        cols: tensor.shape().last(),
        elements: Elements::Dense(float(tensor.dtype()), tensor.bytes()),
    }
}

/// The kernels' view of a quantized array given as its parts (codes, scales, biases for affine).
pub(crate) fn quantized_matrix(format: QuantFormat, multiplier: f32, parts: &[Tensor]) -> Matrix<'_> {
    let affine = format.mode == QuantMode::Affine;
    let codes = &parts[0];
    Matrix {
        rows: codes.shape().rows(),
        cols: codes.shape().last() * 32 / format.bits as usize,
        elements: Elements::Quantized(Quantized {
            format,
            codes: codes.bytes(),
            scales: parts[1].bytes(),
            biases: if affine { parts[2].bytes() } else { &[] },
            scale_type: if affine { float(parts[1].dtype()) } else { Float::F32 },
            multiplier,
        }),
    }
}

/// A number rounded to bfloat16: references keep some constants in the type of their weights.
pub fn round_bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}
