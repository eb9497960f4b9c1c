//! The products of real models: shapes of their layers, storage of their weights, and memory that holds them.

use mlxengine_kernels::matmul::form_name;
use mlxengine_kernels::weights::{Elements, Float, Matrix, QuantFormat, QuantMode, Quantized};

/// A linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub model: &'static str,
    pub name: &'static str,
    /// Rows of its matrix: its outputs.
    pub outputs: usize,
    pub inputs: usize,
    pub part: Part,
}

/// Where a layer stands, and so how many rows it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// In a decoder: the rows of an answer or of a prompt.
    Decoder,
    /// After a decoder: the rows of answers alone.
    Head,
    /// In an encoder: all tokens of a batch.
    Encoder,
}

impl Part {
    /// Rows of the input.
    pub fn rows(self) -> &'static [usize] {
        match self {
            Part::Decoder => &[1, 8, 128, 512],
            Part::Head => &[1, 8],
            // 32 texts of 128 tokens.
            Part::Encoder => &[4096],
        }
    }
}

const QWEN: &str = "Qwen2.5-0.5B";
const LLAMA: &str = "Llama-3.2-1B";

/// The layers that are measured.
pub const LAYERS: [Layer; 16] = [
    layer(QWEN, "q, o", [896, 896], Part::Decoder),
    layer(QWEN, "k, v", [128, 896], Part::Decoder),
    layer(QWEN, "gate, up", [4864, 896], Part::Decoder),
    layer(QWEN, "down", [896, 4864], Part::Decoder),
    layer(QWEN, "head", [151_936, 896], Part::Head),
    layer(LLAMA, "q, o", [2048, 2048], Part::Decoder),
    layer(LLAMA, "k, v", [512, 2048], Part::Decoder),
    layer(LLAMA, "gate, up", [8192, 2048], Part::Decoder),
    layer(LLAMA, "down", [2048, 8192], Part::Decoder),
    layer(LLAMA, "head", [128_256, 2048], Part::Head),
    layer("BERT-384", "q, k, v, o", [384, 384], Part::Encoder),
    layer("BERT-384", "up", [1536, 384], Part::Encoder),
    layer("BERT-384", "down", [384, 1536], Part::Encoder),
    layer("BERT-768", "q, k, v, o", [768, 768], Part::Encoder),
    layer("BERT-768", "up", [3072, 768], Part::Encoder),
    layer("BERT-768", "down", [768, 3072], Part::Encoder),
];

const fn layer(model: &'static str, name: &'static str, [outputs, inputs]: [usize; 2], part: Part) -> Layer {
    Layer { model, name, outputs, inputs, part }
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Dense(Float),
    Quantized(QuantFormat),
}

/// The forms that are measured; encoders come in three of them.
pub const FORMS: [Form; 8] = [
    affine(4),
    affine(8),
    affine(6),
    affine(3),
    Form::Quantized(QuantFormat { mode: QuantMode::Mxfp4, bits: 4, group: 32 }),
    Form::Dense(Float::Bf16),
    Form::Dense(Float::F16),
    Form::Dense(Float::F32),
];

const fn affine(bits: u32) -> Form {
    Form::Quantized(QuantFormat { mode: QuantMode::Affine, bits, group: 64 })
}

impl Form {
    /// Whether encoders are published so.
    pub fn suits(self, part: Part) -> bool {
        let encoders = [affine(8), Form::Dense(Float::Bf16), Form::Dense(Float::F32)];
        part != Part::Encoder || encoders.contains(&self)
    }

    /// Bytes of a layer's codes (or floats) and of its scales.
    fn bytes(self, layer: &Layer) -> (usize, usize) {
        let count = layer.outputs * layer.inputs;
        match self {
            Form::Dense(float) => (count * float.size(), 0),
            Form::Quantized(format) => {
                let scale = if format.mode == QuantMode::Affine { 2 } else { 1 };
                (layer.outputs * format.row_bytes(layer.inputs), count / format.group * scale)
            }
        }
    }
}

/// Memory that serves as weights: neither denormal nor infinite in any of the types.
pub fn arena(bytes: usize) -> Vec<u8> {
    (0..bytes / 2).flat_map(|i| [(i as u8).wrapping_mul(167) & 0x3f | 0x40, 0x3c]).collect()
}

/// As many matrices of a layer as the memory holds, one after the other as in a file; and the bytes of one.
pub fn matrices<'a>(arena: &'a [u8], layer: &Layer, form: Form) -> (Vec<Matrix<'a>>, usize) {
    let (codes, scales) = form.bytes(layer);
    let biases = match form {
        Form::Quantized(format) if format.mode == QuantMode::Affine => scales,
        _ => 0,
    };
    let bytes = codes + scales + biases;
    let matrix = |memory: &'a [u8]| {
        let (codes, rest) = memory.split_at(codes);
        let elements = match form {
            Form::Dense(float) => Elements::Dense(float, codes),
            Form::Quantized(format) => Elements::Quantized(Quantized {
                format,
                codes,
                scales: &rest[..scales],
                biases: &rest[scales..scales + biases],
                scale_type: Float::Bf16,
                multiplier: 1.0,
            }),
        };
        Matrix { rows: layer.outputs, cols: layer.inputs, elements }
    };
    let stride = bytes.next_multiple_of(64);
    (arena.chunks_exact(stride).map(matrix).collect(), bytes)
}

/// Printable name, as in `affine4g64`.
pub fn name(w: &Matrix<'_>) -> String {
    form_name(&w.elements)
}
