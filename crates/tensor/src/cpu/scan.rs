//! Operations that carry something from one position to the next, which is their second result.

use mlxengine_kernels::Cpu;
use mlxengine_kernels::conv::{self, CausalConv};
use mlxengine_kernels::scan::{self, DeltaScan, SsmScan, WkvScan};
use smallvec::smallvec;

use crate::{Spec, Tensor, Tensors};

pub(super) fn causal_conv(cpu: &Cpu, inputs: &Tensors, out: Spec) -> Tensors {
    let [x, tail, weight] = [&inputs[0], &inputs[1], &inputs[2]].map(Tensor::f32s);
    let channels = out.shape.last();
    let mut y = Tensor::empty(out);
    let bias = inputs.get(3).map(Tensor::f32s);
    conv::causal_conv(cpu, CausalConv { x, tail, weight, bias, channels }, y.f32s_mut());
    let mut next = Tensor::empty(inputs[1].spec());
    let into = next.f32s_mut();
    // The last inputs; the first of them are old ones where the pass is shorter than the kernel.
    let old = into.len().saturating_sub(x.len());
    into[..old].copy_from_slice(&tail[tail.len() - old..]);
    into[old..].copy_from_slice(&x[x.len() + old - tail.len()..]);
    smallvec![y, next]
}

pub(super) fn delta_scan(cpu: &Cpu, mut inputs: Tensors, out: Spec) -> Tensors {
    let mut state = inputs.pop().expect("infer has counted the inputs");
    let mut y = Tensor::empty(out);
    let (keys, values) = (inputs[0].shape(), out.shape);
    let scan = DeltaScan {
        key_heads: keys[1],
        heads: values[1],
        key_dim: keys[2],
        value_dim: values[2],
        q: inputs[0].f32s(),
        k: inputs[1].f32s(),
        v: inputs[2].f32s(),
        decay: inputs[3].f32s(),
        beta: inputs[4].f32s(),
    };
    scan::delta_scan(cpu, scan, state.f32s_mut(), y.f32s_mut());
    smallvec![y, state]
}

pub(super) fn wkv_scan(cpu: &Cpu, mut inputs: Tensors, out: Spec) -> Tensors {
    let mut state = inputs.pop().expect("infer has counted the inputs");
    let mut y = Tensor::empty(out);
    let (keys, values) = (inputs[0].shape(), out.shape);
    let scan = WkvScan {
        heads: values[1],
        key_dim: keys[2],
        value_dim: values[2],
        r: inputs[0].f32s(),
        decay: inputs[1].f32s(),
        k: inputs[2].f32s(),
        v: inputs[3].f32s(),
        a: inputs[4].f32s(),
        b: inputs[5].f32s(),
    };
    scan::wkv_scan(cpu, scan, state.f32s_mut(), y.f32s_mut());
    smallvec![y, state]
}

pub(super) fn ssm_scan(cpu: &Cpu, mut inputs: Tensors, out: Spec) -> Tensors {
    let mut state = inputs.pop().expect("infer has counted the inputs");
    let mut y = Tensor::empty(out);
    let (x, b) = (out.shape, inputs[3].shape());
    let scan = SsmScan {
        heads: x[1],
        groups: b[1],
        dim: x[2],
        state_dim: b[2],
        x: inputs[0].f32s(),
        dt: inputs[1].f32s(),
        a: inputs[2].f32s(),
        b: inputs[3].f32s(),
        c: inputs[4].f32s(),
        d: inputs[5].f32s(),
    };
    scan::ssm_scan(cpu, scan, state.f32s_mut(), y.f32s_mut());
    smallvec![y, state]
}
