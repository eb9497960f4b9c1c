//! From GGUF's blocks to MLX's arrays of codes, scales and biases.

use half::f16;
use mlxengine_kernels::weights::{QuantFormat, QuantMode};

use crate::{Dtype, FileError, QuantizedTensor, Tensor};

use super::{Encoding, GROUP, decode, groups};

/// How MLX keeps what an encoding says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The same floats.
    Plain(Dtype),
    /// The same codes, with scales that are the same or, where the encoding has finer ones, rounded to 16-bit floats.
    Codes(QuantFormat),
    /// New codes of the decoded numbers.
    Requantized(QuantFormat),
}

impl Stored {
    /// The quantized layout, if it is one.
    pub fn format(self) -> Option<QuantFormat> {
        match self {
            Stored::Plain(_) => None,
            Stored::Codes(format) | Stored::Requantized(format) => Some(format),
        }
    }
}

impl Encoding {
    /// How MLX keeps it: exactly where it can, else with the next larger number of bits that costs few more.
    pub fn stored(self) -> Stored {
        if let Some(dtype) = self.dtype() {
            return Stored::Plain(dtype);
        }
        let affine = |bits| QuantFormat { mode: QuantMode::Affine, bits, group: GROUP };
        if let Some(bits) = self.affine_bits() {
            return Stored::Codes(affine(bits));
        }
        match self {
            Encoding::Mxfp4 => Stored::Codes(QuantFormat { mode: QuantMode::Mxfp4, bits: 4, group: GROUP }),
            Encoding::Q2_K => Stored::Requantized(affine(3)),
            Encoding::Q3_K => Stored::Requantized(affine(4)),
            Encoding::Q6_K => Stored::Requantized(affine(6)),
            Encoding::Q8_K => Stored::Requantized(affine(8)),
            _ => Stored::Requantized(affine(5)),
        }
    }

    /// Whether nothing is lost.
    pub fn is_lossless(self) -> bool {
        self.dtype().is_some() || self.has_half_scales() || self == Encoding::Mxfp4
    }
}

/// How far numbers are from those they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Sum of the squares of the differences.
    pub error: f64,
    /// Sum of the squares of the numbers.
    pub total: f64,
}

impl Deviation {
    /// The root of the mean square of the differences, relative to that of the numbers.
    pub fn relative(self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.total).sqrt() }
    }

    /// Both together.
    pub fn add(&mut self, other: Deviation) {
        self.error += other.error;
        self.total += other.total;
    }

    fn count(&mut self, exact: f32, kept: f32) {
        self.error += f64::from(exact - kept).powi(2);
        self.total += f64::from(exact).powi(2);
    }
}

/// Rows as MLX keeps them: floats, or codes with their scales and, where the mode has some, biases.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Floats or codes.
    pub weight: Vec<u8>,
    /// Scales: 16-bit floats, or bytes.
    pub scales: Vec<u8>,
    /// Biases, as the scales.
    pub biases: Vec<u8>,
    /// What was lost.
    pub deviation: Deviation,
}

/// Converts rows of `columns` numbers each, given as their blocks.
///
/// # Errors
/// If scales are no numbers, or too large for what they become.
pub fn convert<'a>(
    encoding: Encoding,
    rows: impl Iterator<Item = &'a [u8]>,
    columns: usize,
) -> Result<Rows, FileError> {
    let mut out = Rows::default();
    match encoding.stored() {
        Stored::Plain(_) => rows.for_each(|row| out.weight.extend_from_slice(row)),
        Stored::Codes(_) if encoding == Encoding::Mxfp4 => rows.for_each(|row| out.microscaled(row)),
        Stored::Codes(format) => {
            for block in rows.flat_map(|row| row.chunks_exact(encoding.block_bytes())) {
                let mut fits = true;
                groups(encoding, block, |codes, scale, bias| fits &= out.affine(format.bits, codes, [scale, bias]));
                if !fits {
                    return Err(no_numbers(encoding));
                }
            }
        }
        Stored::Requantized(format) => out.requantized(encoding, rows, columns, format)?,
    }
    Ok(out)
}

fn no_numbers(encoding: Encoding) -> FileError {
    FileError::new(format!("a block of {} stands for numbers that no 16-bit float can scale", encoding.name()))
}

impl Rows {
    /// Adds a group, and says whether its scale and bias are finite.
    fn affine(&mut self, bits: u32, codes: &[u8; GROUP], exact: [f32; 2]) -> bool {
        for eight in codes.chunks_exact(8) {
            let word = eight.iter().rev().fold(0u64, |word, code| word << bits | u64::from(*code));
            self.weight.extend_from_slice(&word.to_le_bytes()[..bits as usize]);
        }
        let [scale, bias] = exact.map(f16::from_f32);
        self.scales.extend_from_slice(&scale.to_le_bytes());
        self.biases.extend_from_slice(&bias.to_le_bytes());
        let kept = [scale.to_f32(), bias.to_f32()];
        if kept != exact {
            for code in codes {
                let of = |[scale, bias]: [f32; 2]| scale * f32::from(*code) + bias;
                self.deviation.count(of(exact), of(kept));
            }
        }
        kept.iter().all(|number| number.is_finite())
    }

    /// Adds a row of MXFP4: GGUF has the halves of a group in the nibbles, MLX neighbours.
    fn microscaled(&mut self, row: &[u8]) {
        for block in row.chunks_exact(Encoding::Mxfp4.block_bytes()) {
            let (low, high) = (|byte: &u8| byte & 15, |byte: &u8| byte >> 4);
            let codes: Vec<u8> = block[1..].iter().map(low).chain(block[1..].iter().map(high)).collect();
            self.weight.extend(codes.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4));
            self.scales.push(block[0]);
        }
    }

    fn requantized<'a>(
        &mut self,
        encoding: Encoding,
        rows: impl Iterator<Item = &'a [u8]>,
        columns: usize,
        format: QuantFormat,
    ) -> Result<(), FileError> {
        let mut exact = Vec::new();
        for block in rows.flat_map(|row| row.chunks_exact(encoding.block_bytes())) {
            let start = exact.len();
            exact.resize(start + encoding.block_len(), 0.0);
            decode(encoding, block, &mut exact[start..]);
        }
        let parts = Tensor::from_f32(&exact, [exact.len() / columns, columns]).quantize(format);
        let half = |tensor: &Tensor| -> Result<Tensor, FileError> {
            let halves: Vec<f16> = tensor.f32s().iter().map(|number| f16::from_f32(*number)).collect();
            if halves.iter().any(|half| !half.is_finite()) {
                return Err(no_numbers(encoding));
            }
            let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            Ok(Tensor::lying(bytes.into(), crate::Spec::new(Dtype::F16, *tensor.shape())))
        };
        let (scales, biases) = (half(&parts[1])?, half(&parts[2])?);
        self.weight.extend_from_slice(parts[0].bytes());
        self.scales.extend_from_slice(scales.bytes());
        self.biases.extend_from_slice(biases.bytes());
        let kept = QuantizedTensor { format, codes: parts[0].clone(), scales, biases: Some(biases), multiplier: 1.0 };
        let kept = kept.dequantize(Dtype::F32);
        exact.iter().zip(kept.f32s()).for_each(|(exact, kept)| self.deviation.count(*exact, *kept));
        Ok(())
    }
}
