//! Element types.

use std::fmt;

use half::f16;

/// The type of a tensor's elements. Arithmetic happens in `F32`; the other types are storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F64,
    Bool,
    F8E4m3,
    F8E5m2,
    F8E8m0,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::U8 | Dtype::I8 | Dtype::Bool | Dtype::F8E4m3 | Dtype::F8E5m2 | Dtype::F8E8m0 => 1,
            Dtype::F16 | Dtype::Bf16 | Dtype::U16 | Dtype::I16 => 2,
            Dtype::F32 | Dtype::U32 | Dtype::I32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 => 8,
        }
    }

    /// Whether a weight of this type can take part in arithmetic.
    pub const fn is_float(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
    }

    /// The number that a byte stands for; `None` for types of other sizes than a byte.
    pub fn of_byte(self, byte: u8) -> Option<f32> {
        let high = u16::from(byte);
        Some(match self {
            Dtype::U8 | Dtype::Bool => f32::from(byte),
            Dtype::I8 => f32::from(byte as i8),
            // Its exponent and mantissa, moved to where a half has them, stand for a number 2^8 times as small. MLX reads
            // the codes that the standard leaves to what is no number in the same way.
            Dtype::F8E4m3 => f16::from_bits((high & 0x80) << 8 | (high & 0x7f) << 7).to_f32() * 256.0,
            // The first byte of a half.
            Dtype::F8E5m2 => f16::from_bits(high << 8).to_f32(),
            Dtype::F8E8m0 => match byte {
                0 => f32::MIN_POSITIVE / 2.0,
                255 => f32::NAN,
                exponent => f32::from_bits(u32::from(exponent) << 23),
            },
            _ => return None,
        })
    }

    /// The name used in safetensors headers.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::U8 => "U8",
            Dtype::I8 => "I8",
            Dtype::U16 => "U16",
            Dtype::I16 => "I16",
            Dtype::U32 => "U32",
            Dtype::I32 => "I32",
            Dtype::U64 => "U64",
            Dtype::I64 => "I64",
            Dtype::F64 => "F64",
            Dtype::Bool => "BOOL",
            Dtype::F8E4m3 => "F8_E4M3",
            Dtype::F8E5m2 => "F8_E5M2",
            Dtype::F8E8m0 => "F8_E8M0",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_numbers_of_eight_bits() {
        let e4m3 = |byte: u8| {
            let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
            let size = match exponent {
                0 => mantissa / 8.0 * 2f32.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
            };
            if byte < 128 { size } else { -size }
        };
        for byte in 0..=255u8 {
            assert_eq!(Dtype::F8E4m3.of_byte(byte), Some(e4m3(byte)), "{byte}");
            let power = f64::from(Dtype::F8E8m0.of_byte(byte).unwrap());
            assert!(byte == 255 && power.is_nan() || power == 2f64.powi(i32::from(byte) - 127), "{byte}");
        }
        assert_eq!([0x3c, 0xc0, 0x7b].map(|byte| Dtype::F8E5m2.of_byte(byte)), [Some(1.0), Some(-2.0), Some(57344.0)]);
        assert_eq!((Dtype::I8.of_byte(255), Dtype::F32.of_byte(0)), (Some(-1.0), None));
    }
}
