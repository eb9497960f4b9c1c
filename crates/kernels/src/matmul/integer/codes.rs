//! The forms of quantized weights that have integer kernels, and how a vector of their codes comes apart.

use crate::dots::{BYTES, Dots, LANES};
use crate::weights::{Elements, Matrix, QuantMode};

/// A form of weights that has kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) mode: QuantMode,
    pub(super) bits: u32,
    pub(super) group: usize,
}

impl Form {
    /// The form of a matrix, if there are kernels for it.
    pub(super) fn of(w: &Matrix<'_>) -> Option<Form> {
        let Elements::Quantized(q) = w.elements else { return None };
        let (mode, bits, group) = (q.format.mode, q.format.bits, q.format.group);
        let has = match mode {
            QuantMode::Affine => matches!(bits, 2..=6 | 8) && matches!(group, 32 | 64 | 128),
            QuantMode::Mxfp4 => group == 32,
            QuantMode::Nvfp4 => group == 16,
            QuantMode::Mxfp8 => false,
        };
        has.then_some(Form { mode, bits, group })
    }

    /// As [`Codes::WIDE`].
    pub(super) fn is_wide(self) -> bool {
        self.bits > 6
    }

    /// Planes of a vector of codes: see [`Codes::PLANES`].
    pub(super) fn planes(self) -> usize {
        planes(self.bits)
    }

    /// Calls the operation with the form's codes and group.
    pub(super) fn visit<Op: CodesOp>(self, op: Op) {
        fn affine<Op: CodesOp, const BITS: u32>(group: usize, op: Op) {
            match group {
                32 => op.eval::<Affine<BITS>, 32>(),
                64 => op.eval::<Affine<BITS>, 64>(),
                _ => op.eval::<Affine<BITS>, 128>(),
            }
        }
        match (self.mode, self.bits) {
            (QuantMode::Mxfp4, _) => op.eval::<Fp4, 32>(),
            (QuantMode::Nvfp4, _) => op.eval::<Fp4, 16>(),
            (_, 2) => affine::<Op, 2>(self.group, op),
            (_, 3) => affine::<Op, 3>(self.group, op),
            (_, 4) => affine::<Op, 4>(self.group, op),
            (_, 5) => affine::<Op, 5>(self.group, op),
            (_, 6) => affine::<Op, 6>(self.group, op),
            _ => affine::<Op, 8>(self.group, op),
        }
    }
}

const fn planes(bits: u32) -> usize {
    match bits {
        2 => 4,
        4 => 2,
        _ => 1,
    }
}

/// A computation written once for every form of codes.
pub(super) trait CodesOp {
    /// Runs it.
    fn eval<C: Codes, const GROUP: usize>(self);
}

/// A form of codes. A vector of them becomes planes of 64 bytes, a code in each byte: where bytes hold several codes, plane
/// `p` has the `p`-th of every byte.
pub(super) trait Codes: Copy + Send + Sync + 'static {
    const BITS: u32;
    /// The largest code.
    const MOST: u8;
    /// Whether codes are 64 and more.
    const WIDE: bool = Self::MOST > 63;
    /// Whether weights are `scale * code + bias`; else they are `scale / 2 * (code - 12)`.
    const AFFINE: bool;
    /// Planes of a vector.
    const PLANES: usize = planes(Self::BITS);
    /// Codes of a vector, and the bytes that they take in a file.
    const CODES: usize = BYTES * Self::PLANES;
    const CODE_BYTES: usize = Self::CODES * Self::BITS as usize / 8;

    /// Reads a vector, zero beyond the first `n` bytes.
    ///
    /// # Safety
    /// `p` is readable for `n` bytes.
    #[inline(always)]
    unsafe fn load<D: Dots>(d: D, p: *const u8, n: usize) -> D::Bytes {
        // SAFETY: passed on.
        unsafe { d.load(p, n) }
    }
    /// One plane of a vector.
    fn plane<D: Dots>(d: D, raw: D::Bytes, plane: usize) -> D::Bytes;

    /// Of each of some weight rows what the integer sums of sixteen groups are multiplied with, and what the groups' sums of activations
    /// are, from the groups' stored scales and biases.
    ///
    /// # Safety
    /// `at` is readable for the scales and biases of `count` groups.
    #[inline(always)]
    unsafe fn scales<D: Dots, const R: usize>(
        d: D,
        at: &Scales<'_, R>,
        multiplier: f32,
        count: usize,
    ) -> [[D::Floats; R]; 2] {
        let count = count.min(LANES);
        // SAFETY: passed on.
        let mut scales = unsafe { d.scales_of(at.kind, at.scales, count, at.left) };
        if Self::AFFINE {
            // SAFETY: as above.
            return [scales, unsafe { d.scales_of(at.kind, at.biases, count, at.left) }];
        }
        let mut biases = scales;
        for (scale, bias) in scales.iter_mut().zip(&mut biases) {
            *scale = d.mul(*scale, d.splat(multiplier * 0.5));
            *bias = d.mul(*scale, d.splat(-12.0));
        }
        [scales, biases]
    }
}

/// Where scales and biases lie.
pub(super) struct Scales<'a, const R: usize> {
    pub(super) kind: crate::codec::ScaleType,
    /// Those of some weight rows, in order.
    pub(super) scales: &'a [*const u8; R],
    pub(super) biases: &'a [*const u8; R],
    /// Bytes that are readable from the last of either.
    pub(super) left: usize,
}

/// Codes that are integers.
#[derive(Clone, Copy)]
pub(super) struct Affine<const BITS: u32>;

impl<const BITS: u32> Codes for Affine<BITS> {
    const BITS: u32 = BITS;
    const MOST: u8 = u8::MAX >> (8 - BITS);
    const AFFINE: bool = true;
    #[inline(always)]
    unsafe fn load<D: Dots>(d: D, p: *const u8, n: usize) -> D::Bytes {
        // SAFETY: passed on.
        unsafe { if matches!(BITS, 3 | 5 | 6) { d.unpack::<BITS>(p, n) } else { d.load(p, n) } }
    }
    #[inline(always)]
    fn plane<D: Dots>(d: D, raw: D::Bytes, plane: usize) -> D::Bytes {
        match (BITS, plane) {
            (2, 0) => d.field::<0>(raw, 3),
            (2, 1) => d.field::<2>(raw, 3),
            (2, 2) => d.field::<4>(raw, 3),
            (2, _) => d.field::<6>(raw, 3),
            (4, 0) => d.field::<0>(raw, 15),
            (4, _) => d.field::<4>(raw, 15),
            _ => raw,
        }
    }
}

/// Codes that are E2M1 numbers.
#[derive(Clone, Copy)]
pub(super) struct Fp4;

/// Twice the E2M1 numbers, plus 12 so that none is negative.
const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl Codes for Fp4 {
    const BITS: u32 = 4;
    const MOST: u8 = FP4[7];
    const AFFINE: bool = false;
    #[inline(always)]
    fn plane<D: Dots>(d: D, raw: D::Bytes, plane: usize) -> D::Bytes {
        d.lookup(Affine::<4>::plane(d, raw, plane), &FP4)
    }
}
