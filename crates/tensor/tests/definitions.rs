//! Every fused operation and every product with packed weights against its definition in plain operations.

use mlxengine_tensor::{
    Dtype, Op, Precision, QuantFormat, QuantMode, Sdpa, Shape, Tensor, Tensors, Unary, define::define, infer,
};

/// Numbers in -1..1 that repeat from run to run.
fn noise(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Tensor::f32_with(shape, |out| {
        for x in out {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *x = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        }
    })
}

#[track_caller]
fn agrees(op: Op, inputs: &[Tensor], tolerance: f32) {
    let ours = Tensor::apply_all(&op, inputs.iter().cloned().collect());
    let meant = define(&op, inputs).expect("a fused operation has a definition");
    assert_eq!(ours.len(), meant.len(), "{op:?}");
    for (ours, meant) in ours.iter().zip(&meant) {
        assert_eq!(ours.spec(), meant.spec(), "{op:?}");
        for (i, (a, b)) in ours.f32s().iter().zip(meant.f32s()).enumerate() {
            assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{op:?} at {i}: {a}, meant {b}");
        }
    }
}

#[test]
fn norms() {
    for dim in [1, 2, 16, 67, 256] {
        let (x, w, b) = (noise(1, [5, dim]), noise(2, [dim]), noise(3, [dim]));
        agrees(Op::RmsNorm { eps: 1e-3 }, std::slice::from_ref(&x), 1e-5);
        agrees(Op::RmsNorm { eps: 1e-5 }, &[x.clone(), w.clone()], 1e-5);
        if dim > 2 {
            agrees(Op::LayerNorm { eps: 1e-5 }, std::slice::from_ref(&x), 1e-5);
            agrees(Op::LayerNorm { eps: 1e-5 }, &[x, w, b], 1e-5);
        }
    }
}

#[test]
fn rotations() {
    for (dim, half) in [(8, 4), (16, 6), (64, 32)] {
        let (cos, sin) = (noise(4, [3, half]), noise(5, [3, half]));
        for traditional in [false, true] {
            agrees(Op::Rope { traditional }, &[noise(6, [3, 2, dim]), cos.clone(), sin.clone()], 1e-6);
        }
    }
}

#[test]
fn gates_and_caps() {
    let (gate, up) = (noise(7, [4, 33]), noise(8, [4, 33]));
    for act in [Unary::Silu, Unary::Gelu, Unary::GeluTanh, Unary::Relu] {
        agrees(Op::Glu(act), &[gate.clone(), up.clone()], 1e-6);
    }
    agrees(Op::Softcap(0.5), &[gate], 1e-6);
}

#[test]
fn convolutions() {
    for (tokens, kernel, channels) in [(1, 4, 33), (2, 4, 16), (9, 3, 40), (5, 1, 8)] {
        let inputs = [noise(20, [tokens, channels]), noise(21, [kernel - 1, channels]), noise(22, [kernel, channels])];
        agrees(Op::CausalConv, &inputs, 1e-6);
        let with_bias: Vec<Tensor> = inputs.into_iter().chain([noise(23, [channels])]).collect();
        agrees(Op::CausalConv, &with_bias, 1e-6);
    }
}

/// Numbers in 0..1.
fn share(seed: u64, shape: impl Into<Shape>) -> Tensor {
    noise(seed, shape).unary(Unary::Abs)
}

#[test]
fn scans() {
    for (tokens, groups, heads, dim, size) in [(1, 2, 4, 8, 16), (7, 1, 3, 5, 19), (70, 2, 2, 16, 32)] {
        for vector in [false, true] {
            let keys = noise(24, [tokens, groups, size]).scale((size as f32).sqrt().recip());
            let decay = if vector { share(25, [tokens, heads, size]) } else { share(25, [tokens, heads]) };
            let (values, state) = (noise(26, [tokens, heads, dim]), noise(27, [heads, dim, size]));
            let queries = noise(28, [tokens, groups, size]);
            let beta = share(29, [tokens, heads]);
            agrees(Op::DeltaScan, &[queries.clone(), keys.clone(), values.clone(), decay, beta, state.clone()], 1e-5);
            let a = if vector { share(30, [heads, size]) } else { share(30, [heads]) }.scale(-3.0);
            let (dt, d) = (share(31, [tokens, heads]), noise(32, [heads]));
            agrees(Op::SsmScan, &[values, dt, a, keys, queries, d, state], 1e-5);
        }
    }
}

#[test]
fn rwkv() {
    for (tokens, heads, dim, size) in [(1, 4, 8, 16), (7, 3, 5, 19), (40, 2, 16, 32)] {
        let keys = |seed| noise(seed, [tokens, heads, size]).scale((size as f32).sqrt().recip());
        let (values, state) = (noise(41, [tokens, heads, dim]), noise(42, [heads, dim, size]));
        let parts = [keys(43), share(44, [tokens, heads, size]), keys(45), values, keys(46), keys(47), state];
        agrees(Op::WkvScan, &parts, 1e-5);
    }
}

#[test]
fn attention() {
    let (q, k, v) = (noise(9, [5, 4, 32]), noise(10, [9, 2, 32]), noise(11, [9, 2, 64]));
    let plain = Sdpa {
        scale: 0.3,
        causal: true,
        window: None,
        softcap: None,
        format: None,
        first: 0,
        sinks: false,
        precision: Precision::Exact,
    };
    let variants = [
        plain,
        Sdpa { causal: false, ..plain },
        Sdpa { window: Some(3), first: 7, ..plain },
        Sdpa { softcap: Some(0.7), ..plain },
    ];
    for sdpa in variants {
        agrees(Op::Sdpa(sdpa), &[q.clone(), k.clone(), v.clone()], 1e-5);
        let half = [k.cast(Dtype::F16), v.cast(Dtype::F16)];
        agrees(Op::Sdpa(sdpa), &[q.clone(), half[0].clone(), half[1].clone()], 1e-5);
    }
    agrees(Op::Sdpa(Sdpa { sinks: true, ..plain }), &[q.clone(), k.clone(), v.clone(), noise(12, [4])], 1e-5);
    for bits in [2, 4, 8] {
        let format = QuantFormat { mode: QuantMode::Affine, bits, group: 32 };
        let mut inputs = vec![q.clone()];
        inputs.extend(k.clone().quantize(format));
        inputs.extend(v.clone().quantize(format));
        agrees(Op::Sdpa(Sdpa { format: Some(format), ..plain }), &inputs, 1e-5);
    }
}

fn formats() -> impl Iterator<Item = QuantFormat> {
    let affine =
        [1, 2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|group| (QuantMode::Affine, bits, group)));
    let float = [(QuantMode::Mxfp4, 4, 32), (QuantMode::Mxfp8, 8, 32), (QuantMode::Nvfp4, 4, 16)];
    affine.chain(float).map(|(mode, bits, group)| QuantFormat { mode, bits, group })
}

#[test]
fn packed_products() {
    for format in formats() {
        let weight = noise(13, [24, 256]).quantize(format);
        for rows in [1, 3, 9, 40] {
            for (transpose, columns) in [(true, 256), (false, 24)] {
                let op = Op::QuantizedMatmul { format, transpose, multiplier: 0.5, precision: Precision::Exact };
                let mut inputs = vec![noise(14, [rows, columns])];
                inputs.extend(weight.clone());
                agrees(op, &inputs, 1e-4);
                inputs.extend(noise(15, [16 + 8 * usize::from(!transpose), 256]).quantize(format));
                agrees(op, &inputs, 1e-4);
            }
        }
        let mut table: Vec<Tensor> = weight.into_iter().collect();
        table.push(Tensor::from_u32(&[23, 0, 7, 7], [4]));
        agrees(Op::TakeQuantized { format, multiplier: 2.0 }, &table, 1e-6);
    }
}

#[test]
fn experts() {
    let ids = Tensor::from_u32(&[2, 0, 1, 2, 0, 1], [3, 2]);
    let (experts, bias) = (noise(15, [3, 8, 64]), noise(16, [3, 8]));
    for x in [noise(17, [3, 64]), noise(18, [3, 2, 64])] {
        agrees(Op::GatherMatmul, &[x.clone(), ids.clone(), experts.clone()], 1e-5);
        agrees(Op::GatherMatmul, &[x.clone(), ids.clone(), experts.clone(), bias.clone()], 1e-5);
        let format = QuantFormat { mode: QuantMode::Affine, bits: 4, group: 32 };
        for with_bias in [false, true] {
            let mut inputs = vec![x.clone(), ids.clone()];
            inputs.extend(experts.clone().quantize(format));
            inputs.extend(with_bias.then(|| bias.clone()));
            agrees(
                Op::GatherQuantizedMatmul { format, multiplier: 1.0, bias: with_bias, precision: Precision::Exact },
                &inputs,
                1e-5,
            );
        }
    }
}

#[test]
fn messages_name_the_operation_and_both_shapes() {
    let spec = |shape: &[usize]| mlxengine_tensor::Spec::new(Dtype::F32, shape);
    let message = |op: Op, inputs: &[mlxengine_tensor::Spec]| infer(&op, inputs).unwrap_err().to_string();
    assert_eq!(
        message(Op::Matmul { transpose: false, precision: Precision::Exact }, &[spec(&[2, 13, 256]), spec(&[512, 64])]),
        "[matmul] F32[2,13,256] × F32[512,64]: inner dimensions differ"
    );
    assert_eq!(
        message(Op::RmsNorm { eps: 1e-5 }, &[spec(&[3, 8]), spec(&[9])]),
        "[rms_norm] F32[3,8] × F32[9]: parameters are as long as a row"
    );
    assert_eq!(
        message(Op::CausalConv, &[spec(&[3, 8]), spec(&[3, 8]), spec(&[3, 8])]),
        "[causal_conv] F32[3,8] × F32[3,8] × F32[3,8]: convolves [T, C] after [K - 1, C] by [K, C], with a bias [C]"
    );
    assert_eq!(
        message(Op::Slice { axis: 1, start: 3, count: 9 }, &[spec(&[4, 8])]),
        "[slice] F32[4,8]: 3 + 9 entries of axis 1 are not inside"
    );
    assert!(message(Op::Slice { axis: 0, start: usize::MAX, count: 2 }, &[spec(&[4])]).contains("not inside"));
}

#[test]
fn a_shared_tensor_never_changes_under_its_holder() {
    let x = Tensor::from_f32(&[1.0, 2.0, 3.0, 4.0], [2, 2]);
    let held = x.clone();
    let y = x.update(1, &Tensor::from_f32(&[9.0, 9.0], [1, 2]));
    assert_eq!(held.f32s(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(y.f32s(), [1.0, 2.0, 9.0, 9.0]);
    let address = y.f32s().as_ptr();
    let z = y.update(0, &Tensor::from_f32(&[7.0, 7.0], [1, 2]));
    assert_eq!(z.f32s(), [7.0, 7.0, 9.0, 9.0]);
    assert_eq!(z.f32s().as_ptr(), address, "what nobody else holds is overwritten in place");
    let row = z.clone().slice(0, 1, 1);
    let scaled = row.scale(2.0);
    assert_eq!((scaled.f32s(), z.f32s()), (&[18.0, 18.0][..], &[7.0, 7.0, 9.0, 9.0][..]));
}

#[test]
fn layout() {
    let x = Tensor::from_f32(&(0..24).map(|i| i as f32).collect::<Vec<_>>(), [2, 3, 4]);
    let p = x.clone().permute(&[2, 0, 1]);
    assert_eq!((p.shape()[..].to_vec(), p.f32s()[..4].to_vec()), (vec![4, 2, 3], vec![0.0, 4.0, 8.0, 12.0]));
    assert_eq!(x.clone().slice(1, 1, 2).f32s()[..4], [4.0, 5.0, 6.0, 7.0]);
    let joined = Tensor::concat([x.clone().slice(2, 0, 1), x.clone().slice(2, 3, 1)], 2);
    assert_eq!(joined.f32s()[..4], [0.0, 3.0, 4.0, 7.0]);
    let column = Tensor::from_f32(&[1.0, 10.0], [2, 1, 1]);
    assert_eq!(x.clone().mul(&column).f32s()[12..15], [120.0, 130.0, 140.0]);
    let ids = x.clone().reshape([6, 4]).top_k(2);
    assert_eq!(ids.u32s()[..4], [3, 2, 3, 2]);
    let picked: Tensors = [x.reshape([6, 4]).take_along(&ids)].into_iter().collect();
    assert_eq!(picked[0].f32s()[..4], [3.0, 2.0, 7.0, 6.0]);
}
