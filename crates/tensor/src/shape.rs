//! Shapes, and what is known of a tensor before it is computed.

use std::fmt;
use std::ops::Deref;

use crate::Dtype;

/// Most axes that a tensor may have.
pub const MAX_RANK: usize = 6;

/// The sizes of a tensor's axes, outermost first, stored inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    sizes: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A shape from its sizes; panics above six axes.
    #[track_caller]
    pub fn new(sizes: &[usize]) -> Self {
        assert!(sizes.len() <= MAX_RANK, "a tensor has at most {MAX_RANK} axes, got {sizes:?}");
        let mut inline = [0; MAX_RANK];
        inline[..sizes.len()].copy_from_slice(sizes);
        Self { sizes: inline, rank: sizes.len() as u8 }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }

    /// Size of the last axis, 1 for a scalar.
    pub fn last(&self) -> usize {
        self.iter().last().copied().unwrap_or(1)
    }

    /// Number of rows along the last axis.
    pub fn rows(&self) -> usize {
        self.iter().rev().skip(1).product()
    }

    /// The same shape with another last axis.
    #[track_caller]
    pub fn with_last(&self, size: usize) -> Self {
        let mut shape = *self;
        let last = shape.rank.checked_sub(1).expect("a scalar has no last axis");
        shape.sizes[last as usize] = size;
        shape
    }

    /// The same shape with another size of `axis`.
    pub fn with_axis(&self, axis: usize, size: usize) -> Self {
        let mut shape = *self;
        assert!(axis < shape.rank as usize, "axis {axis} of {self}");
        shape.sizes[axis] = size;
        shape
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.sizes[..self.rank as usize]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    #[track_caller]
    fn from(sizes: [usize; N]) -> Self {
        Shape::new(&sizes)
    }
}

impl From<&[usize]> for Shape {
    #[track_caller]
    fn from(sizes: &[usize]) -> Self {
        Shape::new(sizes)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, size) in self.iter().enumerate() {
            write!(f, "{}{size}", if i > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Element type and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes of the axes.
    pub shape: Shape,
}

impl Spec {
    /// A spec from its parts.
    pub fn new(dtype: Dtype, shape: impl Into<Shape>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.size()
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}
