//! What fused operations mean, in plain ones.
//!
//! A definition is the fallback of a backend without the kernel, the source of the operation's gradient, and the oracle of
//! the kernel's tests.

use smallvec::smallvec;

use crate::{Binary, Dtype, Op, QuantFormat, Reduce, Sdpa, Tensor, Tensors, Unary};

/// Computes a fused operation, or a contraction with packed weights, by plain operations; `None` for a plain operation,
/// which is its own definition.
pub fn define(op: &Op, inputs: &[Tensor]) -> Option<Tensors> {
    let result = match *op {
        Op::RmsNorm { eps } => rms_norm(inputs, eps),
        Op::LayerNorm { eps } => layer_norm(inputs, eps),
        Op::Rope { traditional } => rope(inputs, traditional),
        Op::Sdpa(sdpa) => self::sdpa(inputs, sdpa),
        Op::Glu(act) => inputs[0].clone().unary(act).mul(&inputs[1]),
        Op::Softcap(cap) => inputs[0].clone().scale(1.0 / cap).unary(Unary::Tanh).scale(cap),
        Op::QuantizedMatmul { format, transpose, multiplier, .. } => {
            let product = |w: &[Tensor]| inputs[0].matmul(&dequantize(format, multiplier, w), transpose);
            return Some(inputs[1..].chunks(format.parts()).map(product).collect());
        }
        Op::TakeQuantized { format, multiplier } => {
            let (ids, parts) = inputs.split_last()?;
            Tensor::apply(&Op::Take, smallvec![dequantize(format, multiplier, parts), ids.clone()])
        }
        Op::GatherMatmul => gather_matmul(&inputs[0], &inputs[1], &inputs[2], inputs.get(3)),
        Op::GatherQuantizedMatmul { format, multiplier, bias, .. } => {
            let parts = &inputs[2..inputs.len() - usize::from(bias)];
            let bias = if bias { inputs.last() } else { None };
            gather_matmul(&inputs[0], &inputs[1], &dequantize(format, multiplier, parts), bias)
        }
        Op::CausalConv => return Some(causal_conv(inputs)),
        Op::DeltaScan => return Some(delta_scan(inputs)),
        Op::WkvScan => return Some(wkv_scan(inputs)),
        Op::SsmScan => return Some(ssm_scan(inputs)),
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Cast(_)
        | Op::Reduce(_)
        | Op::Softmax
        | Op::Reshape(_)
        | Op::Permute(_)
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Update { .. }
        | Op::Take
        | Op::TakeAlong
        | Op::TopK { .. }
        | Op::Matmul { .. }
        | Op::Quantize(_)
        | Op::Dequantize { .. } => return None,
    };
    Some(smallvec![result])
}

fn scalar(x: f32) -> Tensor {
    Tensor::from_f32(&[x], [1])
}

fn dequantize(format: QuantFormat, multiplier: f32, parts: &[Tensor]) -> Tensor {
    Tensor::apply(&Op::Dequantize { format, rounding: Dtype::F32, multiplier }, parts.iter().cloned().collect())
}

fn rms_norm(inputs: &[Tensor], eps: f32) -> Tensor {
    let x = inputs[0].clone();
    let mean = x.clone().unary(Unary::Square).reduce(Reduce::Mean);
    let normed = x.mul(&mean.add(&scalar(eps)).unary(Unary::Rsqrt));
    inputs[1..].iter().fold(normed, Tensor::mul)
}

fn layer_norm(inputs: &[Tensor], eps: f32) -> Tensor {
    let x = inputs[0].clone();
    let centred = x.clone().binary(Binary::Sub, &x.reduce(Reduce::Mean));
    let variance = centred.clone().unary(Unary::Square).reduce(Reduce::Mean);
    let mut y = centred.mul(&variance.add(&scalar(eps)).unary(Unary::Rsqrt));
    if let Some(weight) = inputs.get(1) {
        y = y.mul(weight);
    }
    if let Some(bias) = inputs.get(2) {
        y = y.add(bias);
    }
    y
}

fn rope(inputs: &[Tensor], traditional: bool) -> Tensor {
    let [x, cos, sin] = [&inputs[0], &inputs[1], &inputs[2]];
    let [tokens, heads, dim] = [x.shape()[0], x.shape()[1], x.shape()[2]];
    let half = cos.shape()[1];
    let [cos, sin] = [cos, sin].map(|t| t.clone().reshape([tokens, 1, half]));
    let turned = x.clone().slice(2, 0, 2 * half);
    let (a, b) = if traditional {
        let pairs = turned.reshape([tokens, heads, half, 2]);
        let part = |i| pairs.clone().slice(3, i, 1).reshape([tokens, heads, half]);
        (part(0), part(1))
    } else {
        (turned.clone().slice(2, 0, half), turned.slice(2, half, half))
    };
    let real = a.clone().mul(&cos).binary(Binary::Sub, &b.clone().mul(&sin));
    let imaginary = a.mul(&sin).add(&b.mul(&cos));
    let turned = if traditional {
        let parts = [real, imaginary].map(|t| t.reshape([tokens, heads, half, 1]));
        Tensor::concat(parts, 3).reshape([tokens, heads, 2 * half])
    } else {
        Tensor::concat([real, imaginary], 2)
    };
    Tensor::concat([turned, x.clone().slice(2, 2 * half, dim - 2 * half)], 2)
}

/// 1 where query `j` of `t`, the last of `s` positions, sees position `i`, as `[t, s]`.
fn visible(sdpa: &Sdpa, t: usize, s: usize) -> Tensor {
    let sees = |j: usize, i: usize| {
        let at = s - t + j;
        (!sdpa.causal || i <= at) && sdpa.window.is_none_or(|window| i + window > at)
    };
    let mask: Vec<f32> = (0..t * s).map(|n| if sees(n / s, n % s) { 1.0 } else { 0.0 }).collect();
    Tensor::from_f32(&mask, [t, s])
}

fn sdpa(inputs: &[Tensor], sdpa: Sdpa) -> Tensor {
    let q = &inputs[0];
    let (k, v) = match sdpa.format {
        Some(format) => {
            let parts = format.parts();
            (dequantize(format, 1.0, &inputs[1..1 + parts]), dequantize(format, 1.0, &inputs[1 + parts..1 + 2 * parts]))
        }
        None => (inputs[1].cast(Dtype::F32), inputs[2].cast(Dtype::F32)),
    };
    let [t, heads, s, groups] = [q.shape()[0], q.shape()[1], k.shape()[0], k.shape()[1]];
    let repeat = |kv: &Tensor| {
        let head = |h: usize| kv.clone().slice(1, h * groups / heads, 1);
        Tensor::concat((0..heads).map(head), 1).permute(&[1, 0, 2])
    };
    let mut scores = q.clone().permute(&[1, 0, 2]).matmul(&repeat(&k), true).scale(sdpa.scale);
    if let Some(cap) = sdpa.softcap {
        scores = scores.softcap(cap);
    }
    let full = |x: f32| Tensor::from_f32(&vec![x; heads * t * s], [heads, t, s]);
    let mask = full(1.0).mul(&visible(&sdpa, t, s));
    scores = Tensor::apply(&Op::Select, smallvec![mask, scores, full(f32::NEG_INFINITY)]);
    if sdpa.sinks {
        let sinks = inputs[inputs.len() - 1].clone().reshape([heads, 1, 1]);
        let sinks = Tensor::zeros(Dtype::F32, [heads, t, 1]).add(&sinks);
        scores = Tensor::concat([scores, sinks], 2).softmax().slice(2, 0, s);
    } else {
        scores = scores.softmax();
    }
    scores.matmul(&repeat(&v), false).permute(&[1, 0, 2])
}

fn gather_matmul(x: &Tensor, ids: &Tensor, experts: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let [tokens, slots] = [ids.shape()[0], ids.shape()[1]];
    let [outputs, columns] = [experts.shape()[1], experts.shape()[2]];
    let shared = x.shape().len() == 2;
    let rows = (0..tokens * slots).map(|i| {
        let expert = ids.u32s()[i] as usize;
        let row = x.clone().reshape([x.shape().rows(), columns]).slice(0, if shared { i / slots } else { i }, 1);
        let y = row.matmul(&experts.clone().slice(0, expert, 1).reshape([outputs, columns]), true);
        match bias {
            Some(bias) => y.add(&bias.clone().slice(0, expert, 1)),
            None => y,
        }
    });
    let rows: Tensors = rows.collect();
    Tensor::concat(rows, 0).reshape([tokens, slots, outputs])
}

fn causal_conv(inputs: &[Tensor]) -> Tensors {
    let [x, tail, weight] = [&inputs[0], &inputs[1], &inputs[2]];
    let (kernel, count) = (weight.shape()[0], x.shape()[0]);
    let all = Tensor::concat([tail.clone(), x.clone()], 0);
    let tap = |k: usize| all.clone().slice(0, k, count).mul(&weight.clone().slice(0, k, 1));
    let y = (1..kernel).fold(tap(0), |sum, k| sum.add(&tap(k)));
    let y = inputs.get(3).map_or(y.clone(), |bias| y.add(bias));
    smallvec![y, all.slice(0, count, kernel - 1)]
}

/// Rows of position `t` of `x [T, G, N]`, each for all the heads that share it, as `[H, 1, N]`.
fn shared(x: &Tensor, t: usize, heads: usize) -> Tensor {
    let [groups, size] = [x.shape()[1], x.shape()[2]];
    let row = x.clone().slice(0, t, 1).reshape([groups, 1, size]);
    Tensor::zeros(Dtype::F32, [groups, heads / groups, size]).add(&row).reshape([heads, 1, size])
}

fn delta_scan(inputs: &[Tensor]) -> Tensors {
    let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]];
    let [tokens, heads, value_dim] = [v.shape()[0], v.shape()[1], v.shape()[2]];
    let at = |x: &Tensor, t: usize, shape: [usize; 3]| x.clone().slice(0, t, 1).reshape(shape);
    let gate = inputs[3].shape().elements() / (tokens * heads).max(1);
    let (mut state, mut rows) = (inputs[5].clone(), Tensors::new());
    for t in 0..tokens {
        let (query, key) = (shared(q, t, heads), shared(k, t, heads));
        state = state.mul(&at(&inputs[3], t, [heads, 1, gate]));
        let memory = state.clone().mul(&key).reduce(Reduce::Sum);
        let delta = at(v, t, [heads, value_dim, 1]).binary(Binary::Sub, &memory);
        state = state.clone().add(&delta.mul(&at(&inputs[4], t, [heads, 1, 1])).mul(&key));
        rows.push(state.clone().mul(&query).reduce(Reduce::Sum).reshape([1, heads, value_dim]));
    }
    smallvec![Tensor::concat(rows, 0), state]
}

fn wkv_scan(inputs: &[Tensor]) -> Tensors {
    let v = &inputs[3];
    let [tokens, heads, value_dim] = [v.shape()[0], v.shape()[1], v.shape()[2]];
    let (mut state, mut rows) = (inputs[6].clone(), Tensors::new());
    for t in 0..tokens {
        let [r, decay, k, a, b] = [0, 1, 2, 4, 5].map(|part| shared(&inputs[part], t, heads));
        let value = v.clone().slice(0, t, 1).reshape([heads, value_dim, 1]);
        let recalled = state.clone().mul(&a).reduce(Reduce::Sum);
        state = state.mul(&decay).add(&recalled.mul(&b)).add(&value.mul(&k));
        rows.push(state.clone().mul(&r).reduce(Reduce::Sum).reshape([1, heads, value_dim]));
    }
    smallvec![Tensor::concat(rows, 0), state]
}

fn ssm_scan(inputs: &[Tensor]) -> Tensors {
    let [x, dt, a] = [&inputs[0], &inputs[1], &inputs[2]];
    let [tokens, heads, dim] = [x.shape()[0], x.shape()[1], x.shape()[2]];
    let a = a.clone().reshape([heads, 1, a.shape().elements() / heads]);
    let (mut state, mut rows) = (inputs[6].clone(), Tensors::new());
    for t in 0..tokens {
        let dt = dt.clone().slice(0, t, 1).reshape([heads, 1, 1]);
        let input = x.clone().slice(0, t, 1).reshape([heads, dim, 1]);
        let (b, c) = (shared(&inputs[3], t, heads), shared(&inputs[4], t, heads));
        let decay = a.clone().mul(&dt).unary(Unary::Exp);
        state = state.mul(&decay).add(&input.clone().mul(&dt).mul(&b));
        let y = state.clone().mul(&c).reduce(Reduce::Sum);
        let skip = input.mul(&inputs[5].clone().reshape([heads, 1, 1]));
        rows.push(y.add(&skip).reshape([1, heads, dim]));
    }
    smallvec![Tensor::concat(rows, 0), state]
}
