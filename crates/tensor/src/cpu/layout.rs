//! Operations that move elements without computing on them.

use bytemuck::cast_slice_mut;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use mlxengine_kernels::reduce;

use crate::{Dtype, Shape, Spec, Tensor, Tensors};

/// Another float type, rounded to nearest, ties to even.
pub(super) fn cast(x: &Tensor, dtype: Dtype) -> Tensor {
    if x.dtype() == dtype {
        return x.clone();
    }
    let wide = x.to_f32().expect("infer admits floats alone");
    let mut out = Tensor::empty(Spec { dtype, ..x.spec() });
    let (from, to) = (wide.f32s(), cast_slice_mut::<u8, u16>(out.bytes_mut()));
    match dtype {
        Dtype::F16 => to.reinterpret_cast_mut::<f16>().convert_from_f32_slice(from),
        Dtype::Bf16 => to.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(from),
        _ => return wide,
    }
    out
}

/// `a` where the condition is not 0, else `b`; overwrites `a`.
pub(super) fn select(mut inputs: Tensors) -> Tensor {
    let b = inputs.pop().expect("infer has counted the inputs");
    let mut a = inputs.pop().expect("infer has counted the inputs");
    for ((a, c), b) in a.f32s_mut().iter_mut().zip(inputs[0].f32s()).zip(b.f32s()) {
        if *c == 0.0 {
            *a = *b;
        }
    }
    a
}

/// `x` with the entries from `start` on replaced by `y`; overwrites `x` if nobody else holds it.
pub(super) fn update(mut inputs: Tensors, start: usize) -> Tensor {
    let y = inputs.pop().expect("infer has counted the inputs");
    let mut x = inputs.pop().expect("infer has counted the inputs");
    let row = x.spec().bytes() / x.shape()[0].max(1);
    let bytes = y.bytes();
    x.bytes_mut()[start * row..start * row + bytes.len()].copy_from_slice(bytes);
    x
}

/// Strides in elements of a row-major shape, aligned to `rank` axes; axes that stretch have stride 0.
fn strides(shape: &Shape, rank: usize) -> [usize; crate::shape::MAX_RANK] {
    let mut out = [0; crate::shape::MAX_RANK];
    let mut step = 1;
    for axis in (0..shape.len()).rev() {
        out[axis + rank - shape.len()] = if shape[axis] == 1 { 0 } else { step };
        step *= shape[axis];
    }
    out
}

/// Calls `f(offset in x)` for each element of `out` in order, walking `x` by the given strides.
fn walk(out: &Shape, strides: &[usize], mut f: impl FnMut(usize)) {
    if out.elements() == 0 {
        return;
    }
    let rank = out.len();
    let mut index = [0usize; crate::shape::MAX_RANK];
    let mut at = 0;
    loop {
        f(at);
        let mut axis = rank;
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < out[axis] {
                break;
            }
            at -= strides[axis] * out[axis];
            index[axis] = 0;
        }
    }
}

/// Copies the elements of `x` that the strides walk over into a tensor of spec `out`.
fn gather(x: &Tensor, strides: &[usize], out: Spec) -> Tensor {
    let size = out.dtype.size();
    let mut y = Tensor::empty(out);
    let (from, mut to) = (x.bytes(), y.bytes_mut().chunks_exact_mut(size));
    walk(&out.shape, strides, |at| {
        to.next().expect("one place an element").copy_from_slice(&from[at * size..][..size]);
    });
    y
}

pub(super) fn broadcast(x: &Tensor, out: Spec) -> Tensor {
    gather(x, &strides(x.shape(), out.shape.len()), out)
}

pub(super) fn permute(x: &Tensor, axes: &[usize], out: Spec) -> Tensor {
    let own = strides(x.shape(), x.shape().len());
    let mut moved = [0; crate::shape::MAX_RANK];
    for (to, &axis) in moved.iter_mut().zip(axes) {
        *to = own[axis];
    }
    gather(x, &moved, out)
}

/// Bytes of what lies behind one entry of `axis`, and how many runs of entries there are before it.
fn runs(spec: Spec, axis: usize) -> (usize, usize) {
    (spec.shape[axis + 1..].iter().product::<usize>() * spec.dtype.size(), spec.shape[..axis].iter().product())
}

pub(super) fn slice(x: &Tensor, axis: usize, start: usize, out: Spec) -> Tensor {
    let mut y = Tensor::empty(out);
    let (entry, count) = runs(x.spec(), axis);
    let (from, to) = (x.shape()[axis] * entry, out.shape[axis] * entry);
    let bytes = y.bytes_mut();
    for run in 0..count {
        bytes[run * to..][..to].copy_from_slice(&x.bytes()[run * from + start * entry..][..to]);
    }
    y
}

pub(super) fn concat(inputs: &Tensors, axis: usize, out: Spec) -> Tensor {
    let mut y = Tensor::empty(out);
    let (entry, count) = runs(out, axis);
    let row = out.shape[axis] * entry;
    let bytes = y.bytes_mut();
    let mut at = 0;
    for x in inputs {
        let part = x.shape()[axis] * entry;
        for run in 0..count {
            bytes[run * row + at..][..part].copy_from_slice(&x.bytes()[run * part..][..part]);
        }
        at += part;
    }
    y
}

pub(super) fn take_along(x: &Tensor, ids: &Tensor, out: Spec) -> Tensor {
    let mut y = Tensor::empty(out);
    let (columns, picks) = (x.shape().last(), ids.shape().last());
    if picks == 0 {
        return y;
    }
    let rows = x.f32s().chunks_exact(columns).zip(ids.u32s().chunks_exact(picks));
    for (to, (row, ids)) in y.f32s_mut().chunks_exact_mut(picks).zip(rows) {
        for (to, &id) in to.iter_mut().zip(ids) {
            *to = row[id as usize];
        }
    }
    y
}

pub(super) fn top_k(x: &Tensor, k: usize, out: Spec) -> Tensor {
    let mut y = Tensor::empty(out);
    let columns = x.shape().last();
    let mut best: smallvec::SmallVec<[(u32, f32); 64]> = smallvec::smallvec![(0, 0.0); k];
    for (ids, row) in y.u32s_mut().chunks_exact_mut(k).zip(x.f32s().chunks_exact(columns)) {
        reduce::top_k(row, k, &mut best);
        for (to, (id, _)) in ids.iter_mut().zip(&best) {
            *to = *id;
        }
    }
    y
}
