//! How the elements of a weight matrix become floats: one [`Codec`] per storage form, and [`View`], the matrix's geometry.
//!
//! An affine weight is `code * scale + bias`, rounded after each step, as MLX dequantizes in single precision: with a fused
//! multiply-add, weights near zero in groups of large ones would differ from MLX by more than its products err. A microscaled
//! weight is `value * (scale * multiplier)`.

use std::ops::Range;

use crate::arch::portable::E4M3;
use crate::simd::{Simd, SimdOp};
use crate::weights::{Elements, Float, Matrix, QuantMode, Quantized};

/// Scales that are converted to floats at a time.
pub(crate) const SCALES: usize = 64;

/// A storage form of weights.
pub(crate) trait Codec: Copy + Send + Sync + 'static {
    /// Bits of an element.
    const BITS: u32;
    /// Whether groups of elements have scales.
    const GROUPED: bool;
    /// What decoding needs to know of a group.
    type Group<S: Simd>: Copy;

    /// Prepares a group.
    fn group<S: Simd>(s: S, scale: f32, bias: f32) -> Self::Group<S>;
    /// Decodes a vector.
    ///
    /// # Safety
    /// `p` is readable for `S::LANES * BITS / 8` bytes.
    unsafe fn load<S: Simd>(s: S, p: *const u8, group: &Self::Group<S>) -> S::F;
    /// Decodes `n < S::LANES` elements of a form without groups, zero in the other lanes.
    ///
    /// # Safety
    /// `p` is readable for `n` elements.
    unsafe fn load_part<S: Simd>(s: S, p: *const u8, n: usize) -> S::F;
}

#[derive(Clone, Copy)]
pub(crate) struct DenseF32;
#[derive(Clone, Copy)]
pub(crate) struct DenseF16;
#[derive(Clone, Copy)]
pub(crate) struct DenseBf16;
#[derive(Clone, Copy)]
pub(crate) struct Affine<const BITS: u32>;
#[derive(Clone, Copy)]
pub(crate) struct Fp4;
#[derive(Clone, Copy)]
pub(crate) struct Fp8;

/// A copy of `n` two-byte elements followed by zeros, for loads of whole vectors.
///
/// # Safety
/// `p` is readable for `2 * n` bytes.
#[inline(always)]
unsafe fn padded(p: *const u8, n: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    // SAFETY: the caller vouches for the source, and `n` is below the widest vector's 16 lanes.
    unsafe { p.copy_to_nonoverlapping(bytes.as_mut_ptr(), 2 * n) };
    bytes
}

impl Codec for DenseF32 {
    const BITS: u32 = 32;
    const GROUPED: bool = false;
    type Group<S: Simd> = ();
    #[inline(always)]
    fn group<S: Simd>(_: S, _: f32, _: f32) {}
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, (): &()) -> S::F {
        // SAFETY: passed on.
        unsafe { s.load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(s: S, p: *const u8, n: usize) -> S::F {
        // SAFETY: passed on.
        unsafe { s.load_part(p.cast(), n) }
    }
}

impl Codec for DenseF16 {
    const BITS: u32 = 16;
    const GROUPED: bool = false;
    type Group<S: Simd> = ();
    #[inline(always)]
    fn group<S: Simd>(_: S, _: f32, _: f32) {}
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, (): &()) -> S::F {
        // SAFETY: passed on.
        unsafe { s.load_f16(p) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(s: S, p: *const u8, n: usize) -> S::F {
        // SAFETY: passed on; the copy has 32 bytes.
        unsafe { s.load_f16(padded(p, n).as_ptr()) }
    }
}

impl Codec for DenseBf16 {
    const BITS: u32 = 16;
    const GROUPED: bool = false;
    type Group<S: Simd> = ();
    #[inline(always)]
    fn group<S: Simd>(_: S, _: f32, _: f32) {}
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, (): &()) -> S::F {
        // SAFETY: passed on.
        unsafe { s.load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(s: S, p: *const u8, n: usize) -> S::F {
        // SAFETY: passed on; the copy has 32 bytes.
        unsafe { s.load_bf16(padded(p, n).as_ptr()) }
    }
}

impl<const BITS: u32> Codec for Affine<BITS> {
    const BITS: u32 = BITS;
    const GROUPED: bool = true;
    type Group<S: Simd> = S::Affine;
    #[inline(always)]
    fn group<S: Simd>(s: S, scale: f32, bias: f32) -> S::Affine {
        s.affine::<BITS>(scale, bias)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, group: &S::Affine) -> S::F {
        // SAFETY: passed on.
        unsafe { s.load_affine::<BITS>(p, group) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(_: S, _: *const u8, _: usize) -> S::F {
        unreachable!("a group is a whole number of vectors")
    }
}

impl Codec for Fp4 {
    const BITS: u32 = 4;
    const GROUPED: bool = true;
    type Group<S: Simd> = S::Fp4;
    #[inline(always)]
    fn group<S: Simd>(s: S, scale: f32, _: f32) -> S::Fp4 {
        s.fp4(scale)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, group: &S::Fp4) -> S::F {
        // SAFETY: passed on.
        unsafe { s.load_fp4(p, group) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(_: S, _: *const u8, _: usize) -> S::F {
        unreachable!("a group is a whole number of vectors")
    }
}

impl Codec for Fp8 {
    const BITS: u32 = 8;
    const GROUPED: bool = true;
    type Group<S: Simd> = S::F;
    #[inline(always)]
    fn group<S: Simd>(s: S, scale: f32, _: f32) -> S::F {
        s.splat(scale)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8, group: &S::F) -> S::F {
        // SAFETY: passed on.
        s.mul(unsafe { s.load_e4m3(p) }, *group)
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(_: S, _: *const u8, _: usize) -> S::F {
        unreachable!("a group is a whole number of vectors")
    }
}

/// A computation written once for every storage form.
pub(crate) trait Visitor {
    type Output;
    fn visit<C: Codec>(self, codec: C) -> Self::Output;
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleType {
    Float(Float),
    /// `2^(byte - 127)`.
    E8m0,
    E4m3,
}

impl ScaleType {
    pub(crate) fn size(self) -> usize {
        match self {
            ScaleType::Float(float) => float.size(),
            ScaleType::E8m0 | ScaleType::E4m3 => 1,
        }
    }
}

/// A matrix whose slices have been checked to be as long as its shape says: pointers into them may be computed from there.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Bytes of a row's elements.
    pub(crate) row_bytes: usize,
    /// Elements that share a scale; all of a row for dense forms.
    pub(crate) group: usize,
    /// Scales in a row; one, which does not exist, for dense forms.
    pub(crate) groups: usize,
    pub(crate) elements: Elements<'a>,
    codes: &'a [u8],
    scales: &'a [u8],
    biases: &'a [u8],
    scale_type: ScaleType,
    multiplier: f32,
}

impl<'a> View<'a> {
    /// Panics if the slices do not fit the shape.
    pub(crate) fn new(m: &Matrix<'a>) -> Self {
        let view = match m.elements {
            Elements::Dense(float, codes) => View {
                rows: m.rows,
                cols: m.cols,
                row_bytes: m.cols * float.size(),
                group: m.cols,
                groups: 1,
                elements: m.elements,
                codes,
                scales: &[],
                biases: &[],
                scale_type: ScaleType::Float(Float::F32),
                multiplier: 1.0,
            },
            Elements::Quantized(q) => Self::quantized(m, &q),
        };
        assert_eq!(view.codes.len(), view.rows * view.row_bytes, "bytes of a {} x {} matrix", m.rows, m.cols);
        view
    }

    fn quantized(m: &Matrix<'a>, q: &Quantized<'a>) -> Self {
        let format = q.format;
        assert!(format.group > 0 && format.group.is_multiple_of(16), "{format:?}");
        assert!(m.cols.is_multiple_of(format.group), "{} columns in groups of {}", m.cols, format.group);
        let affine = format.mode == QuantMode::Affine;
        assert!(affine || format.bits == if format.mode == QuantMode::Mxfp8 { 8 } else { 4 }, "{format:?}");
        let groups = m.cols / format.group;
        let scale_type = match format.mode {
            QuantMode::Affine => ScaleType::Float(q.scale_type),
            QuantMode::Mxfp4 | QuantMode::Mxfp8 => ScaleType::E8m0,
            QuantMode::Nvfp4 => ScaleType::E4m3,
        };
        let scale_bytes = m.rows * groups * scale_type.size();
        assert_eq!(q.scales.len(), scale_bytes, "bytes of {} x {groups} scales", m.rows);
        assert_eq!(q.biases.len(), if affine { scale_bytes } else { 0 }, "bytes of {} x {groups} biases", m.rows);
        View {
            rows: m.rows,
            cols: m.cols,
            row_bytes: format.row_bytes(m.cols),
            group: format.group,
            groups,
            elements: m.elements,
            codes: q.codes,
            scales: q.scales,
            biases: q.biases,
            scale_type,
            multiplier: q.multiplier,
        }
    }

    /// Calls the visitor with the storage form of the elements.
    pub(crate) fn visit<V: Visitor>(&self, v: V) -> V::Output {
        match self.elements {
            Elements::Dense(Float::F32, _) => v.visit(DenseF32),
            Elements::Dense(Float::F16, _) => v.visit(DenseF16),
            Elements::Dense(Float::Bf16, _) => v.visit(DenseBf16),
            Elements::Quantized(q) => match (q.format.mode, q.format.bits) {
                (QuantMode::Affine, 1) => v.visit(Affine::<1>),
                (QuantMode::Affine, 2) => v.visit(Affine::<2>),
                (QuantMode::Affine, 3) => v.visit(Affine::<3>),
                (QuantMode::Affine, 4) => v.visit(Affine::<4>),
                (QuantMode::Affine, 5) => v.visit(Affine::<5>),
                (QuantMode::Affine, 6) => v.visit(Affine::<6>),
                (QuantMode::Affine, 8) => v.visit(Affine::<8>),
                (QuantMode::Affine, bits) => panic!("no codes of {bits} bits"),
                (QuantMode::Mxfp4 | QuantMode::Nvfp4, _) => v.visit(Fp4),
                (QuantMode::Mxfp8, _) => v.visit(Fp8),
            },
        }
    }

    /// Whether groups have biases.
    pub(crate) fn is_affine(&self) -> bool {
        matches!(self.elements, Elements::Quantized(q) if q.format.mode == QuantMode::Affine)
    }

    /// The first byte of a row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> *const u8 {
        debug_assert!(row < self.rows);
        self.codes.as_ptr().wrapping_add(row * self.row_bytes)
    }

    /// One past the last byte of the elements.
    #[inline(always)]
    pub(crate) fn code_end(&self) -> *const u8 {
        self.codes.as_ptr_range().end
    }

    /// How scales are stored.
    #[inline(always)]
    pub(crate) fn scale_type(&self) -> ScaleType {
        self.scale_type
    }

    /// What every scale is to be multiplied with.
    #[inline(always)]
    pub(crate) fn multiplier(&self) -> f32 {
        self.multiplier
    }

    /// The first scale and bias of a row, as stored, and the bytes that are readable from each; there are biases only if
    /// [`View::is_affine`].
    #[inline(always)]
    pub(crate) fn scale_row(&self, row: usize) -> (*const u8, *const u8, usize) {
        debug_assert!(row < self.rows);
        let at = row * self.groups * self.scale_type.size();
        (self.scales.as_ptr().wrapping_add(at), self.biases.as_ptr().wrapping_add(at), self.scales.len() - at)
    }

    /// Converts the scales (times the multiplier) and biases of `groups` of a row, at most [`SCALES`].
    #[inline(always)]
    pub(crate) fn scales<S: Simd>(&self, s: S, row: usize, groups: Range<usize>, out: &mut Scales) {
        assert!(row < self.rows && groups.end <= self.groups && groups.len() <= SCALES);
        let size = self.scale_type.size();
        let at = (row * self.groups + groups.start) * size..(row * self.groups + groups.end) * size;
        match self.scale_type {
            ScaleType::Float(float) => {
                widen(s, float, &self.scales[at.clone()], &mut out.scale);
                widen(s, float, &self.biases[at], &mut out.bias);
            }
            ScaleType::E8m0 => {
                for (scale, byte) in out.scale.iter_mut().zip(&self.scales[at]) {
                    *scale = e8m0(*byte) * self.multiplier;
                }
            }
            ScaleType::E4m3 => {
                for (scale, byte) in out.scale.iter_mut().zip(&self.scales[at]) {
                    *scale = E4M3[*byte as usize] * self.multiplier;
                }
            }
        }
    }

    /// Asks for the scales and biases of `groups` of a row, which need not exist.
    #[inline(always)]
    pub(crate) fn prefetch_scales<S: Simd>(&self, s: S, row: usize, groups: Range<usize>) {
        let size = self.scale_type.size();
        for byte in (0..groups.len() * size).step_by(64) {
            let at = (row * self.groups + groups.start) * size + byte;
            s.prefetch(self.scales.as_ptr().wrapping_add(at));
            s.prefetch(self.biases.as_ptr().wrapping_add(at));
        }
    }

    /// Where the scales and the biases of a row's groups from `group` on begin, and how they are stored.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn scale_bytes(&self, row: usize, group: usize) -> (ScaleType, *const u8, *const u8) {
        debug_assert!(row < self.rows && group < self.groups);
        let at = (row * self.groups + group) * self.scale_type.size();
        (self.scale_type, self.scales.as_ptr().wrapping_add(at), self.biases.as_ptr().wrapping_add(at))
    }

    /// Where some elements of a row begin, and their bytes.
    pub(crate) fn bytes(&self, row: usize, cols: Range<usize>) -> (*const u8, usize) {
        let byte = |col: usize| self.row_bytes * col / self.cols.max(1);
        (self.row(row).wrapping_add(byte(cols.start)), byte(cols.end) - byte(cols.start))
    }

    /// Decodes elements `cols` of a row; `cols.start` begins a group and a vector. The last vector is filled with zeros.
    ///
    /// # Safety
    /// `C` is the view's storage form; `out` is writable for `cols.len()` floats, rounded up to whole vectors.
    #[inline(always)]
    pub(crate) unsafe fn decode<C: Codec, S: Simd>(&self, s: S, row: usize, cols: Range<usize>, out: *mut f32) {
        assert!(row < self.rows && cols.end <= self.cols);
        let codes = self.row(row);
        if !C::GROUPED {
            let whole = cols.start + cols.len() / S::LANES * S::LANES;
            let group = C::group(s, 1.0, 0.0);
            // SAFETY: the columns lie in the row, by the assertion and `View::new`; the caller vouches for `out`.
            unsafe {
                for k in (cols.start..whole).step_by(S::LANES) {
                    s.store(out.add(k - cols.start), C::load(s, codes.add(k * C::BITS as usize / 8), &group));
                }
                if whole < cols.end {
                    let last = C::load_part(s, codes.add(whole * C::BITS as usize / 8), cols.end - whole);
                    s.store(out.add(whole - cols.start), last);
                }
            }
            return;
        }
        assert!(cols.start.is_multiple_of(self.group) && cols.end.is_multiple_of(self.group));
        let (first, end) = (cols.start / self.group, cols.end / self.group);
        let mut scales = Scales::new();
        for chunk in (first..end).step_by(SCALES) {
            let stop = end.min(chunk + SCALES);
            self.scales(s, row, chunk..stop, &mut scales);
            for g in chunk..stop {
                let group = C::group(s, scales.scale[g - chunk], scales.bias[g - chunk]);
                for k in (g * self.group..(g + 1) * self.group).step_by(S::LANES) {
                    // SAFETY: as above.
                    unsafe {
                        s.store(out.add(k - cols.start), C::load(s, codes.add(k * C::BITS as usize / 8), &group))
                    };
                }
            }
        }
    }
}

/// Scales and biases of some groups of one row.
pub(crate) struct Scales {
    pub(crate) scale: [f32; SCALES],
    pub(crate) bias: [f32; SCALES],
}

impl Scales {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { scale: [0.0; SCALES], bias: [0.0; SCALES] }
    }
}

/// `2^(byte - 127)`; the largest byte is infinity, as in MLX.
#[inline(always)]
pub(crate) fn e8m0(byte: u8) -> f32 {
    f32::from_bits(if byte == 0 { 1 << 22 } else { u32::from(byte) << 23 })
}

/// Converts at most [`SCALES`] stored floats.
#[inline(always)]
fn widen<S: Simd>(s: S, float: Float, bytes: &[u8], out: &mut [f32; SCALES]) {
    let (size, count) = (float.size(), bytes.len() / float.size());
    debug_assert!(count <= SCALES && SCALES.is_multiple_of(S::LANES));
    for i in (0..count).step_by(S::LANES) {
        let n = S::LANES.min(count - i);
        let mut tail = [0u8; 64];
        let source = if n == S::LANES {
            bytes[i * size..].as_ptr()
        } else {
            tail[..n * size].copy_from_slice(&bytes[i * size..]);
            tail.as_ptr()
        };
        // SAFETY: the source has `LANES` elements (of at most 4 bytes, 16 lanes), and so has `out` from `i`, a multiple of
        // `LANES` below `SCALES`, which is one too.
        unsafe {
            let values = match float {
                Float::F32 => s.load(source.cast()),
                Float::F16 => s.load_f16(source),
                Float::Bf16 => s.load_bf16(source),
            };
            s.store(out.as_mut_ptr().add(i), values);
        }
    }
}

/// Decodes `rows` × `cols` of a matrix into lines of `stride` floats.
pub(crate) struct DecodeBlock<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
    pub(crate) out: &'a mut [f32],
    pub(crate) stride: usize,
}

impl DecodeBlock<'_> {
    /// Runs on the given instruction set.
    pub(crate) fn run(self, isa: crate::Isa) {
        struct Op<'a, C>(DecodeBlock<'a>, std::marker::PhantomData<C>);
        impl<C: Codec> SimdOp for Op<'_, C> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd>(self, s: S) {
                let block = self.0;
                let need = block.cols.len().next_multiple_of(S::LANES);
                assert!(need <= block.stride && block.rows.len() * block.stride <= block.out.len());
                for (i, row) in block.rows.enumerate() {
                    // SAFETY: line `i` has `stride` floats, at least the columns rounded up.
                    unsafe {
                        block.view.decode::<C, S>(
                            s,
                            row,
                            block.cols.clone(),
                            block.out.as_mut_ptr().add(i * block.stride),
                        )
                    };
                }
            }
        }
        struct Visit<'a>(DecodeBlock<'a>, crate::Isa);
        impl Visitor for Visit<'_> {
            type Output = ();
            fn visit<C: Codec>(self, _: C) {
                self.1.run(Op::<C>(self.0, std::marker::PhantomData));
            }
        }
        let view = self.view;
        view.visit(Visit(self, isa));
    }
}

/// One element as products see it, without vectors: the reference for tests.
#[cfg(test)]
pub(crate) fn element(m: &Matrix<'_>, row: usize, col: usize) -> f64 {
    use crate::arch::portable::E2M1;
    let float = |float: Float, bytes: &[u8], i: usize| match float {
        Float::F32 => f64::from(f32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap())),
        Float::F16 => half::f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f64(),
        Float::Bf16 => half::bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f64(),
    };
    match m.elements {
        Elements::Dense(kind, bytes) => float(kind, bytes, row * m.cols + col),
        Elements::Quantized(q) => {
            let bits = q.format.bits as usize;
            let line = &q.codes[row * q.format.row_bytes(m.cols)..];
            let bit = |j: usize| usize::from(line[j / 8] >> (j % 8) & 1);
            let code: usize = (0..bits).map(|b| bit(col * bits + b) << b).sum();
            let at = row * (m.cols / q.format.group) + col / q.format.group;
            let multiplier = f64::from(q.multiplier);
            match q.format.mode {
                QuantMode::Affine => {
                    code as f64 * float(q.scale_type, q.scales, at) + float(q.scale_type, q.biases, at)
                }
                QuantMode::Mxfp4 => f64::from(E2M1[code]) * f64::from(e8m0(q.scales[at])) * multiplier,
                QuantMode::Mxfp8 => f64::from(E4M3[code]) * f64::from(e8m0(q.scales[at])) * multiplier,
                QuantMode::Nvfp4 => f64::from(E2M1[code]) * f64::from(E4M3[q.scales[at] as usize]) * multiplier,
            }
        }
    }
}
