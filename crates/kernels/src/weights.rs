//! Weight matrices as they lie in a checkpoint: bytes of any alignment, dense or in one of MLX's quantized layouts.

/// How the elements of a dense matrix are stored (little-endian).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl Float {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }
}

/// The arithmetic that turns codes and scales into weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantMode {
    /// `scale * code + bias`, both per group, stored as floats.
    Affine,
    /// E2M1 codes, E8M0 scales: OCP microscaling.
    Mxfp4,
    /// E4M3 codes, E8M0 scales: OCP microscaling.
    Mxfp8,
    /// E2M1 codes, E4M3 scales.
    Nvfp4,
}

/// One of MLX's quantized layouts: codes form a little-endian bit stream along each row, `group` of them share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantFormat {
    /// How codes become weights.
    pub mode: QuantMode,
    /// Bits of a code: 1, 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// Codes that share one scale.
    pub group: usize,
}

impl QuantFormat {
    /// Bytes of one row's codes.
    pub const fn row_bytes(self, cols: usize) -> usize {
        cols * self.bits as usize / 8
    }

    /// Arrays that make up a matrix: codes, scales and, for affine, biases.
    pub const fn parts(self) -> usize {
        match self.mode {
            QuantMode::Affine => 3,
            _ => 2,
        }
    }
}

/// A quantized matrix.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// Layout of the codes and scales.
    pub format: QuantFormat,
    /// `[rows, cols * bits / 8]` bytes.
    pub codes: &'a [u8],
    /// `[rows, cols / group]`: floats of type `scale_type` for affine, one byte each otherwise.
    pub scales: &'a [u8],
    /// Like `scales`; empty unless the mode is affine.
    pub biases: &'a [u8],
    /// Storage type of affine scales and biases.
    pub scale_type: Float,
    /// Multiplies every weight: 1 but for NVFP4 checkpoints with a global scale.
    pub multiplier: f32,
}

/// How exactly a product is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Inputs stay `f32`: what the weights stand for, to float precision, and the same bits for a row whatever other rows are
    /// computed with it.
    Exact,
    /// Inputs may be rounded to what the processor multiplies fastest: 16-bit integers with a scale a group where they meet
    /// quantized weights, bf16 where a matrix unit takes many rows.
    #[default]
    Fast,
    /// As [`Precision::Fast`], but where many rows meet quantized weights, only the largest quarter of each group keeps 16 bits: the
    /// rest has 8, of which it makes the more use. Errs no more than rounding all inputs to bf16.
    Mixed,
}

impl Precision {
    /// Most input rows whose products have the very bits that each row has alone.
    pub fn rows_as_alone(self) -> usize {
        match self {
            Precision::Exact => usize::MAX,
            Precision::Fast | Precision::Mixed => crate::matmul::FEW_ROWS,
        }
    }

    /// What feed-forward layers are computed in: they are most of the work, and what they err tells least on predictions.
    pub fn in_feed_forward(self) -> Precision {
        match self {
            Precision::Exact => Precision::Exact,
            Precision::Fast | Precision::Mixed => Precision::Mixed,
        }
    }
}

/// The elements of a [`Matrix`].
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// Plain floats, row after row.
    Dense(Float, &'a [u8]),
    /// Codes and scales.
    Quantized(Quantized<'a>),
}

/// A `[rows, cols]` weight matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Number of rows: a linear layer's outputs, an embedding's vocabulary.
    pub rows: usize,
    /// Number of columns: the dimension that a product sums over.
    pub cols: usize,
    /// The elements.
    pub elements: Elements<'a>,
}

impl<'a> Matrix<'a> {
    /// The `count` rows from `start` on: no bytes are copied.
    pub fn slice_rows(&self, start: usize, count: usize) -> Matrix<'a> {
        assert!(start + count <= self.rows, "rows {start}..{} of a matrix of {} rows", start + count, self.rows);
        let cut = |bytes: &'a [u8], row: usize| {
            if bytes.is_empty() { bytes } else { &bytes[start * row..(start + count) * row] }
        };
        let elements = match self.elements {
            Elements::Dense(float, bytes) => Elements::Dense(float, cut(bytes, self.cols * float.size())),
            Elements::Quantized(q) => {
                let groups = self.cols / q.format.group;
                let scale = if q.format.mode == QuantMode::Affine { q.scale_type.size() } else { 1 };
                Elements::Quantized(Quantized {
                    codes: cut(q.codes, q.format.row_bytes(self.cols)),
                    scales: cut(q.scales, groups * scale),
                    biases: cut(q.biases, groups * scale),
                    ..q
                })
            }
        };
        Matrix { rows: count, cols: self.cols, elements }
    }
}

impl std::fmt::Display for QuantFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mode = match self.mode {
            QuantMode::Affine => return write!(f, "{}-bit affine group {}", self.bits, self.group),
            QuantMode::Mxfp4 => "mxfp4",
            QuantMode::Mxfp8 => "mxfp8",
            QuantMode::Nvfp4 => "nvfp4",
        };
        write!(f, "{mode} group {}", self.group)
    }
}
