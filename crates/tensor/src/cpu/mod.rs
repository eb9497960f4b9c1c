//! The CPU backend: every operation on the kernels of this machine.
//!
//! Inputs come by value. One that nobody else holds is overwritten where the operation keeps its shape; everything else
//! writes into memory from the pool. Shapes have been checked: nothing here checks them again.

mod contract;
mod layout;
mod scan;

use mlxengine_kernels::{Cpu, elementwise, norm, reduce, rope, softmax};

use crate::infer::Specs;
use crate::{Binary, Op, Spec, Tensor, Tensors};

/// Computes an operation whose results have the given specs.
pub fn eval(op: &Op, mut inputs: Tensors, outputs: &Specs) -> Tensors {
    let cpu = Cpu::global();
    let out = outputs[0];
    let result = match *op {
        Op::Unary(unary) => {
            let mut x = first(inputs);
            elementwise::unary(cpu, unary, x.f32s_mut());
            x
        }
        Op::Binary(binary) => self::binary(cpu, binary, inputs, out),
        Op::Select => layout::select(inputs),
        Op::Cast(dtype) => layout::cast(&inputs[0], dtype),
        Op::Reduce(reduction) => {
            let mut y = Tensor::empty(out);
            reduce::reduce(cpu, reduction, inputs[0].f32s(), inputs[0].shape().last(), y.f32s_mut());
            y
        }
        Op::Softmax => {
            let mut x = first(inputs);
            let columns = x.shape().last();
            softmax::softmax(cpu, x.f32s_mut(), columns);
            x
        }
        Op::Reshape(shape) => first(inputs).with_shape(shape),
        Op::Permute(axes) => layout::permute(&inputs[0], &axes[..out.shape.len()], out),
        Op::Slice { axis: 0, start, count } => first(inputs).narrow(start, count),
        Op::Slice { axis, start, .. } => layout::slice(&inputs[0], axis, start, out),
        Op::Concat { axis } => layout::concat(&inputs, axis, out),
        Op::Update { start } => layout::update(inputs, start),
        Op::Take | Op::TakeQuantized { .. } => contract::take(cpu, op, &inputs, out),
        Op::TakeAlong => layout::take_along(&inputs[0], &inputs[1], out),
        Op::TopK { k } => layout::top_k(&inputs[0], k, out),
        Op::Matmul { transpose, precision } => contract::matmul(cpu, &inputs, (transpose, precision), out),
        Op::QuantizedMatmul { .. } => return contract::quantized_matmul(cpu, op, &inputs, outputs),
        Op::GatherMatmul | Op::GatherQuantizedMatmul { .. } => contract::gather_matmul(cpu, op, &inputs, out),
        Op::Quantize(format) => return contract::quantize(cpu, format, &inputs[0], outputs),
        Op::Dequantize { format, rounding, multiplier } => {
            let mut y = Tensor::empty(out);
            contract::dequantize(cpu, format, rounding, multiplier, &inputs, &mut y);
            y
        }
        Op::RmsNorm { eps } => {
            let mut y = Tensor::empty(out);
            let weight = inputs.get(1).map(Tensor::f32s);
            norm::rms_norm(cpu, inputs[0].f32s(), out.shape.last(), weight, eps, y.f32s_mut());
            y
        }
        Op::LayerNorm { eps } => {
            let mut y = Tensor::empty(out);
            let [weight, bias] = [inputs.get(1), inputs.get(2)].map(|p| p.map(Tensor::f32s));
            norm::layer_norm(cpu, inputs[0].f32s(), out.shape.last(), weight, bias, eps, y.f32s_mut());
            y
        }
        Op::Rope { traditional } => rotate(cpu, traditional, inputs),
        Op::Sdpa(sdpa) => contract::sdpa(cpu, sdpa, &inputs, out),
        Op::CausalConv => return scan::causal_conv(cpu, &inputs, out),
        Op::DeltaScan => return scan::delta_scan(cpu, inputs, out),
        Op::WkvScan => return scan::wkv_scan(cpu, inputs, out),
        Op::SsmScan => return scan::ssm_scan(cpu, inputs, out),
        Op::Glu(act) => {
            let up = inputs.swap_remove(1);
            let mut gate = first(inputs);
            elementwise::glu(cpu, act, gate.f32s_mut(), up.f32s());
            gate
        }
        Op::Softcap(cap) => {
            let mut x = first(inputs);
            elementwise::softcap(cpu, x.f32s_mut(), cap);
            x
        }
    };
    Tensors::from_iter([result])
}

/// The first input; the others are let go, so that memory they shared with it counts as its own.
fn first(mut inputs: Tensors) -> Tensor {
    inputs.truncate(1);
    inputs.pop().expect("infer has counted the inputs")
}

fn rotate(cpu: &Cpu, traditional: bool, mut inputs: Tensors) -> Tensor {
    let sin = inputs.pop().expect("infer has counted the inputs");
    let cos = inputs.pop().expect("infer has counted the inputs");
    let mut x = first(inputs);
    let [tokens, heads, dim] = [x.shape()[0], x.shape()[1], x.shape()[2]];
    let shape = rope::RopeShape { tokens, heads, dim, rotated: 2 * cos.shape()[1], traditional };
    rope::rope(cpu, x.f32s_mut(), shape, cos.f32s(), sin.f32s());
    x
}

fn binary(cpu: &Cpu, op: Binary, mut inputs: Tensors, out: Spec) -> Tensor {
    let commutes = matches!(op, Binary::Add | Binary::Mul | Binary::Max | Binary::Min | Binary::Equal);
    if *inputs[0].shape() != out.shape && commutes {
        inputs.swap(0, 1);
    }
    let b = inputs.pop().expect("infer has counted the inputs");
    let mut a = first(inputs);
    if *a.shape() != out.shape {
        a = layout::broadcast(&a, out);
    }
    let (shape, columns) = (*b.shape(), out.shape.last());
    if shape.elements() == 1 {
        elementwise::binary_scalar(cpu, op, a.f32s_mut(), b.f32s()[0]);
    } else if shape == out.shape {
        elementwise::binary(cpu, op, a.f32s_mut(), b.f32s());
    } else if shape.elements() == columns && shape.last() == columns {
        elementwise::binary_row(cpu, op, a.f32s_mut(), b.f32s());
    } else if shape.len() == out.shape.len() && shape == out.shape.with_last(1) {
        elementwise::binary_column(cpu, op, a.f32s_mut(), columns, b.f32s());
    } else {
        let b = layout::broadcast(&b, out);
        elementwise::binary(cpu, op, a.f32s_mut(), b.f32s());
    }
    a
}
