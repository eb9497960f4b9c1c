//! Operations that sum over an axis shared by two inputs: products, look-ups, attention.

use mlxengine_kernels::attention::{self, Attention};
use mlxengine_kernels::weights::Matrix;
use mlxengine_kernels::{Cpu, matmul as kernel, quant};
use smallvec::SmallVec;

use crate::infer::Specs;
use crate::weight::{dense_matrix, float, quantized_matrix};
use crate::{Dtype, Op, Precision, QuantFormat, Sdpa, Spec, Tensor, Tensors};

pub(super) fn matmul(cpu: &Cpu, inputs: &Tensors, how: (bool, Precision), out: Spec) -> Tensor {
    let (a, b) = (&inputs[0], &inputs[1]);
    let mut y = Tensor::empty(out);
    if b.shape().len() == 2 {
        product(cpu, a.f32s(), &dense_matrix(b), how, y.f32s_mut());
        return y;
    }
    let rank = a.shape().len();
    let (m, k, n) = (a.shape()[rank - 2], a.shape().last(), out.shape.last());
    if m * k * n > 0 {
        let batches = a.f32s().chunks_exact(m * k).zip(b.f32s().chunks_exact(k * n));
        for (y, (a, b)) in y.f32s_mut().chunks_exact_mut(m * n).zip(batches) {
            let (rows, cols) = if how.0 { (n, k) } else { (k, n) };
            let b = Matrix {
                rows,
                cols,
                elements: mlxengine_kernels::weights::Elements::Dense(float(Dtype::F32), bytemuck::cast_slice(b)),
            };
            product(cpu, a, &b, how, y);
        }
    } else {
        y.f32s_mut().fill(0.0);
    }
    y
}

fn product(cpu: &Cpu, x: &[f32], w: &Matrix<'_>, (transpose, precision): (bool, Precision), out: &mut [f32]) {
    if transpose {
        kernel::linear(cpu, precision, x, w, None, out);
    } else {
        kernel::matmul_n(cpu, x, w, out);
    }
}

pub(super) fn quantized_matmul(cpu: &Cpu, op: &Op, inputs: &Tensors, outputs: &Specs) -> Tensors {
    let Op::QuantizedMatmul { format, transpose, multiplier, precision } = *op else {
        unreachable!("eval matched the operation")
    };
    let x = inputs[0].f32s();
    let mut results: Tensors = outputs.iter().map(|spec| Tensor::empty(*spec)).collect();
    let weights = inputs[1..].chunks(format.parts()).map(|parts| quantized_matrix(format, multiplier, parts));
    if transpose {
        let weights: SmallVec<[_; 4]> = weights.collect();
        let mut outs: SmallVec<[_; 4]> = results.iter_mut().map(Tensor::f32s_mut).collect();
        kernel::linear_all(cpu, precision, x, &weights, &mut outs);
    } else {
        for (w, y) in weights.zip(&mut results) {
            kernel::matmul_n(cpu, x, &w, y.f32s_mut());
        }
    }
    results
}

pub(super) fn gather_matmul(cpu: &Cpu, op: &Op, inputs: &Tensors, out: Spec) -> Tensor {
    let (x, ids) = (&inputs[0], &inputs[1]);
    let (matrix, experts, bias, precision) = match *op {
        Op::GatherQuantizedMatmul { format, multiplier, bias, precision } => {
            let bias = if bias { inputs.last() } else { None };
            (quantized_matrix(format, multiplier, &inputs[2..]), inputs[2].shape()[0], bias, precision)
        }
        _ => (dense_matrix(&inputs[2]), inputs[2].shape()[0], inputs.get(3), Precision::Exact),
    };
    let slots = ids.shape()[1].max(1);
    let shared = x.shape().len() == 2;
    let mut rows = Tensor::empty(Spec::new(Dtype::U32, *ids.shape()));
    for (i, row) in rows.u32s_mut().iter_mut().enumerate() {
        *row = (if shared { i / slots } else { i }) as u32;
    }
    let mut y = Tensor::empty(out);
    let pick = kernel::Gather { x_rows: rows.u32s(), ids: ids.u32s(), experts };
    kernel::gather_linear(cpu, precision, x.f32s(), pick, &matrix, bias.map(Tensor::f32s), y.f32s_mut());
    y
}

pub(super) fn take(cpu: &Cpu, op: &Op, inputs: &Tensors, out: Spec) -> Tensor {
    let ids = inputs.last().expect("infer has counted the inputs");
    let matrix = match *op {
        Op::TakeQuantized { format, multiplier } => quantized_matrix(format, multiplier, inputs),
        _ => dense_matrix(&inputs[0]),
    };
    let mut y = Tensor::empty(out);
    quant::gather_rows(cpu, &matrix, ids.u32s(), y.f32s_mut());
    y
}

pub(super) fn quantize(cpu: &Cpu, format: QuantFormat, x: &Tensor, outputs: &Specs) -> Tensors {
    let mut parts: Tensors = outputs.iter().map(|spec| Tensor::empty(*spec)).collect();
    let columns = x.shape().last();
    if let [codes, scales, biases] = &mut parts[..] {
        let scales = quant::Scales::Affine { scales: scales.f32s_mut(), biases: biases.f32s_mut() };
        quant::quantize(cpu, x.f32s(), columns, format, codes.bytes_mut(), scales);
    } else if let [codes, scales] = &mut parts[..] {
        quant::quantize(cpu, x.f32s(), columns, format, codes.bytes_mut(), quant::Scales::Bytes(scales.bytes_mut()));
    }
    parts
}

pub(super) fn dequantize(
    cpu: &Cpu,
    format: QuantFormat,
    rounding: Dtype,
    multiplier: f32,
    parts: &[Tensor],
    y: &mut Tensor,
) {
    quant::dequantize(cpu, &quantized_matrix(format, multiplier, parts), float(rounding), y.f32s_mut());
}

pub(super) fn sdpa(cpu: &Cpu, sdpa: Sdpa, inputs: &Tensors, out: Spec) -> Tensor {
    let q = &inputs[0];
    let (k, v, groups) = match sdpa.format {
        Some(format) => {
            let parts = format.parts();
            let [k, v] = [1, 1 + parts].map(|at| quantized_matrix(format, 1.0, &inputs[at..at + parts]));
            (k, v, inputs[1].shape()[1])
        }
        None => (dense_matrix(&inputs[1]), dense_matrix(&inputs[2]), inputs[1].shape()[1]),
    };
    let args = Attention {
        heads: q.shape()[1],
        kv_heads: groups,
        key_dim: k.cols,
        value_dim: v.cols,
        scale: sdpa.scale,
        softcap: sdpa.softcap,
        window: sdpa.window,
        causal: sdpa.causal,
        first: sdpa.first,
        precision: sdpa.precision,
    };
    let sinks = if sdpa.sinks { inputs.last().map(Tensor::f32s) } else { None };
    let mut y = Tensor::empty(out);
    attention::sdpa(cpu, &args, q.f32s(), &k, &v, sinks, y.f32s_mut());
    y
}
