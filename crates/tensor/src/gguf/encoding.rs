//! How GGUF stores the numbers of a tensor.

use crate::{Dtype, FileError};

/// An encoding that is read: plain numbers, or blocks of codes with what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are GGUF's")]
#[allow(non_camel_case_types, reason = "the names are GGUF's")]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

/// Number in the file, encoding, name, numbers in a block, bytes of a block.
const ENCODINGS: [(u32, Encoding, &str, usize, usize); 17] = [
    (0, Encoding::F32, "F32", 1, 4),
    (1, Encoding::F16, "F16", 1, 2),
    (30, Encoding::Bf16, "BF16", 1, 2),
    (2, Encoding::Q4_0, "Q4_0", 32, 18),
    (3, Encoding::Q4_1, "Q4_1", 32, 20),
    (6, Encoding::Q5_0, "Q5_0", 32, 22),
    (7, Encoding::Q5_1, "Q5_1", 32, 24),
    (8, Encoding::Q8_0, "Q8_0", 32, 34),
    (10, Encoding::Q2_K, "Q2_K", 256, 84),
    (11, Encoding::Q3_K, "Q3_K", 256, 110),
    (12, Encoding::Q4_K, "Q4_K", 256, 144),
    (13, Encoding::Q5_K, "Q5_K", 256, 176),
    (14, Encoding::Q6_K, "Q6_K", 256, 210),
    (15, Encoding::Q8_K, "Q8_K", 256, 292),
    (20, Encoding::Iq4Nl, "IQ4_NL", 32, 18),
    (23, Encoding::Iq4Xs, "IQ4_XS", 256, 136),
    (39, Encoding::Mxfp4, "MXFP4", 32, 17),
];

/// Encodings that have a name and are not read.
const OTHERS: [(u32, &str); 18] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
];

impl Encoding {
    /// Every encoding that is read.
    pub fn all() -> impl Iterator<Item = Encoding> {
        ENCODINGS.iter().map(|row| row.1)
    }

    pub(super) fn from_number(number: u32, tensor: &str) -> Result<Encoding, FileError> {
        if let Some(row) = ENCODINGS.iter().find(|row| row.0 == number) {
            return Ok(row.1);
        }
        let name = OTHERS.iter().find(|row| row.0 == number).map(|row| row.1.to_owned());
        let name = name.unwrap_or_else(|| format!("number {number}"));
        let known: Vec<&str> = ENCODINGS.iter().map(|row| row.2).collect();
        Err(FileError::new(format!(
            "tensor `{tensor}` has the encoding {name}, which is not read: take a file in one of {}",
            known.join(", ")
        )))
    }

    fn row(self) -> &'static (u32, Encoding, &'static str, usize, usize) {
        ENCODINGS.iter().find(|row| row.1 == self).expect("every encoding has a row")
    }

    /// GGUF's name.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Numbers in a block.
    pub fn block_len(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of so many numbers, a whole number of blocks.
    pub fn bytes(self, numbers: usize) -> usize {
        numbers / self.block_len() * self.block_bytes()
    }

    /// The element type, if the numbers lie there plainly.
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            Encoding::F32 => Some(Dtype::F32),
            Encoding::F16 => Some(Dtype::F16),
            Encoding::Bf16 => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// Bits of a code, if the numbers are `scale * code + bias` with a scale and a bias for each 32 of them.
    pub fn affine_bits(self) -> Option<u32> {
        match self {
            Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q4_K => Some(4),
            Encoding::Q5_0 | Encoding::Q5_1 | Encoding::Q5_K => Some(5),
            Encoding::Q8_0 => Some(8),
            _ => None,
        }
    }

    /// Whether each scale and bias of [`Self::affine_bits`] is a 16-bit float.
    pub fn has_half_scales(self) -> bool {
        self.affine_bits().is_some() && !matches!(self, Encoding::Q4_K | Encoding::Q5_K)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_meaning() {
        let numbers = ENCODINGS.iter().map(|row| row.0).chain(OTHERS.iter().map(|row| row.0));
        let unique: std::collections::HashSet<u32> = numbers.clone().collect();
        assert_eq!(unique.len(), numbers.count());
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        for (number, name) in [(29, "IQ1_M"), (99, "number 99")] {
            let message = Encoding::from_number(number, "x").unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("Q4_K"), "{message}");
        }
    }
}
