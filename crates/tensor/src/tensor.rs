//! The tensor: a shape over shared memory.

use std::fmt;
use std::sync::Arc;

use bytemuck::{cast_slice, cast_slice_mut};
use half::{bf16, f16};
use smallvec::SmallVec;

use crate::pool::{self, Block};
use crate::{Bytes, Dtype, Op, Shape, Spec, cpu, infer};

/// Tensors handed to, or returned by, an operation: without an allocation for as many as three quantized weights and their input.
pub type Tensors = SmallVec<[Tensor; 10]>;

/// A row-major array of numbers.
///
/// Cloning shares the memory. Memory that one tensor alone holds is overwritten by the operations that can; memory that is
/// shared is copied first, so a tensor never changes under its holder.
#[derive(Clone)]
pub struct Tensor {
    data: Data,
    spec: Spec,
}

#[derive(Clone)]
enum Data {
    /// Memory of this process, from the pool; `start` counts bytes.
    Owned { buffer: Buffer, start: usize },
    /// Read-only bytes of any alignment: weights as they lie in a file.
    Lying(Bytes),
}

/// A reference to a block that puts it back into the pool.
#[derive(Clone)]
struct Buffer(Option<Arc<Block>>);

impl Buffer {
    fn take(bytes: usize) -> Self {
        Buffer(Some(pool::take(bytes.div_ceil(4).max(1))))
    }

    fn block(&self) -> &Arc<Block> {
        self.0.as_ref().expect("a buffer holds its block until it is dropped")
    }

    /// The words, if nobody else holds them.
    fn unique(&mut self) -> Option<&mut [u32]> {
        Arc::get_mut(self.0.as_mut()?).map(Block::words_mut)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.0.take() {
            pool::give(block);
        }
    }
}

impl Tensor {
    /// A tensor whose elements are whatever the memory held last: for one who writes before reading.
    pub fn empty(spec: Spec) -> Self {
        Self { data: Data::Owned { buffer: Buffer::take(spec.bytes()), start: 0 }, spec }
    }

    /// A tensor of zeros.
    pub fn zeros(dtype: Dtype, shape: impl Into<Shape>) -> Self {
        let mut tensor = Self::empty(Spec::new(dtype, shape));
        tensor.bytes_mut().fill(0);
        tensor
    }

    /// An `F32` tensor of the given elements.
    #[track_caller]
    pub fn from_f32(elements: &[f32], shape: impl Into<Shape>) -> Self {
        let mut tensor = Self::empty(Spec::new(Dtype::F32, shape));
        tensor.f32s_mut().copy_from_slice(elements);
        tensor
    }

    /// An `F32` tensor that `fill` writes.
    #[track_caller]
    pub fn f32_with(shape: impl Into<Shape>, fill: impl FnOnce(&mut [f32])) -> Self {
        let mut tensor = Self::empty(Spec::new(Dtype::F32, shape));
        fill(tensor.f32s_mut());
        tensor
    }

    /// A `U32` tensor of the given elements: token ids, expert numbers.
    #[track_caller]
    pub fn from_u32(elements: &[u32], shape: impl Into<Shape>) -> Self {
        let mut tensor = Self::empty(Spec::new(Dtype::U32, shape));
        tensor.u32s_mut().copy_from_slice(elements);
        tensor
    }

    /// A tensor over bytes as they lie, little-endian, of any alignment.
    ///
    /// # Panics
    /// If the bytes are not exactly the elements.
    #[track_caller]
    pub fn lying(bytes: Bytes, spec: Spec) -> Self {
        assert_eq!(bytes.len(), spec.bytes(), "a tensor {spec} over {} bytes", bytes.len());
        Self { data: Data::Lying(bytes), spec }
    }

    /// Element type and shape.
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.spec.shape
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.spec.dtype
    }

    /// Whether the elements lie in a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(&self.data, Data::Lying(bytes) if bytes.is_mapped())
    }

    /// The elements as bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Owned { buffer, start } => {
                &cast_slice::<u32, u8>(buffer.block().words())[*start..*start + self.spec.bytes()]
            }
            Data::Lying(bytes) => bytes,
        }
    }

    /// The elements of an `F32` tensor in this process's memory.
    ///
    /// # Panics
    /// For another dtype, or weights that lie unaligned in a file ([`Tensor::to_f32`] copies those).
    #[track_caller]
    pub fn f32s(&self) -> &[f32] {
        assert_eq!(self.dtype(), Dtype::F32, "the elements of a tensor {} as f32", self.spec);
        bytemuck::try_cast_slice(self.bytes()).expect("elements that lie unaligned are copied before use")
    }

    /// The elements of a `U32` tensor in this process's memory; panics like [`Tensor::f32s`].
    #[track_caller]
    pub fn u32s(&self) -> &[u32] {
        assert_eq!(self.dtype(), Dtype::U32, "the elements of a tensor {} as u32", self.spec);
        bytemuck::try_cast_slice(self.bytes()).expect("elements that lie unaligned are copied before use")
    }

    /// The elements as bytes to overwrite; copied first if anybody else holds them.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let size = self.spec.bytes();
        let shared = match &mut self.data {
            Data::Owned { buffer, .. } => buffer.unique().is_none(),
            Data::Lying(_) => true,
        };
        if shared {
            let mut copy = Self::empty(self.spec);
            copy.bytes_mut().copy_from_slice(self.bytes());
            *self = copy;
        }
        match &mut self.data {
            Data::Owned { buffer, start } => {
                let words = buffer.unique().expect("just made unique");
                &mut cast_slice_mut::<u32, u8>(words)[*start..*start + size]
            }
            Data::Lying(_) => unreachable!("just copied"),
        }
    }

    /// The elements of an `F32` tensor, to overwrite.
    #[track_caller]
    pub(crate) fn f32s_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.dtype(), Dtype::F32, "the elements of a tensor {} as f32", self.spec);
        cast_slice_mut(self.bytes_mut())
    }

    /// The elements of a `U32` tensor, to overwrite.
    #[track_caller]
    pub(crate) fn u32s_mut(&mut self) -> &mut [u32] {
        assert_eq!(self.dtype(), Dtype::U32, "the elements of a tensor {} as u32", self.spec);
        cast_slice_mut(self.bytes_mut())
    }

    /// The same elements in another shape: no copy.
    pub(crate) fn with_shape(mut self, shape: Shape) -> Self {
        debug_assert_eq!(self.shape().elements(), shape.elements());
        self.spec.shape = shape;
        self
    }

    /// `count` entries of the first axis from `start` on: no copy.
    pub(crate) fn narrow(mut self, start: usize, count: usize) -> Self {
        let first = self.shape()[0];
        debug_assert!(start + count <= first);
        let row = self.spec.bytes().checked_div(first).unwrap_or(0);
        self.spec.shape = self.spec.shape.with_axis(0, count);
        match &mut self.data {
            Data::Owned { start: at, .. } => *at += start * row,
            Data::Lying(bytes) => *bytes = bytes.slice(start * row..(start + count) * row),
        }
        self
    }

    /// The same bytes as elements of another type along the last axis: no copy. `None` where they are no whole number of them.
    pub fn read_as(mut self, dtype: Dtype) -> Option<Tensor> {
        let bytes = self.shape().last() * self.dtype().size();
        if self.shape().is_empty() || !bytes.is_multiple_of(dtype.size()) {
            return None;
        }
        self.spec = Spec::new(dtype, self.shape().with_last(bytes / dtype.size()));
        Some(self)
    }

    /// A copy of the numbers as `f32`, whatever their type; `None` for types that are not plain numbers.
    pub fn to_f32(&self) -> Option<Tensor> {
        let mut out = Tensor::empty(Spec::new(Dtype::F32, *self.shape()));
        let (bytes, into) = (self.bytes(), out.f32s_mut());
        fn each<const N: usize>(bytes: &[u8], into: &mut [f32], read: impl Fn([u8; N]) -> f32) {
            for (x, chunk) in into.iter_mut().zip(bytes.as_chunks::<N>().0) {
                *x = read(*chunk);
            }
        }
        match self.dtype() {
            Dtype::F32 => each(bytes, into, f32::from_le_bytes),
            Dtype::F16 => each(bytes, into, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::Bf16 => each(bytes, into, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => each(bytes, into, |b| f64::from_le_bytes(b) as f32),
            Dtype::U8 | Dtype::Bool => each(bytes, into, |[b]| b as f32),
            Dtype::I8 => each(bytes, into, |[b]| b as i8 as f32),
            Dtype::U16 => each(bytes, into, |b| u16::from_le_bytes(b) as f32),
            Dtype::I16 => each(bytes, into, |b| i16::from_le_bytes(b) as f32),
            Dtype::U32 => each(bytes, into, |b| u32::from_le_bytes(b) as f32),
            Dtype::I32 => each(bytes, into, |b| i32::from_le_bytes(b) as f32),
            Dtype::U64 => each(bytes, into, |b| u64::from_le_bytes(b) as f32),
            Dtype::I64 => each(bytes, into, |b| i64::from_le_bytes(b) as f32),
            Dtype::F8E4m3 | Dtype::F8E5m2 | Dtype::F8E8m0 => return None,
        }
        Some(out)
    }

    /// Applies an operation with one result. Inputs that nobody else holds may be overwritten.
    ///
    /// # Panics
    /// If the inputs do not fit the operation: a fault of the code that calls, which [`infer`] describes.
    #[track_caller]
    pub fn apply(op: &Op, inputs: Tensors) -> Tensor {
        let mut outputs = Self::apply_all(op, inputs);
        debug_assert_eq!(outputs.len(), 1, "{op:?} has {} results", outputs.len());
        outputs.pop().expect("an operation has a result")
    }

    /// Applies an operation and returns all its results; panics like [`Tensor::apply`].
    #[track_caller]
    pub fn apply_all(op: &Op, inputs: Tensors) -> Tensors {
        let specs: SmallVec<[Spec; 10]> = inputs.iter().map(Tensor::spec).collect();
        match infer(op, &specs) {
            Ok(outputs) => cpu::eval(op, inputs, &outputs),
            Err(e) => panic!("{e}"),
        }
    }
}

/// No elements.
impl Default for Tensor {
    fn default() -> Self {
        Self::empty(Spec::new(Dtype::F32, [0]))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.spec)
    }
}
