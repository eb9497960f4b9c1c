//! Checkpoints of other quantizers whose tensors do not fit: every one is refused in a sentence, and none panics.

use mlxengine_models::weights::Storage;
use mlxengine_models::{
    CacheOptions, Checkpoint, Config, ErrorKind, LanguageModel, Precision, Result, Source, Span, decoder,
};
use mlxengine_tensor::{Bytes, Dtype, QuantFormat, QuantMode, Spec, Tensor};
use serde_json::{Value, json};

const MODULE: &str = "model.layers.0.self_attn.o_proj";

type Parts = Vec<(&'static str, Tensor)>;

fn noise(dtype: Dtype, shape: &[usize], byte: impl Fn(usize) -> u8) -> Tensor {
    let spec = Spec::new(dtype, shape);
    Tensor::lying(Bytes::from((0..spec.bytes()).map(byte).collect::<Vec<_>>()), spec)
}

/// A tensor of codes, of any bits.
fn codes(dtype: Dtype, shape: &[usize]) -> Tensor {
    noise(dtype, shape, |i| (i * 37 % 119) as u8)
}

fn floats(dtype: Dtype, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|i| (i * 7 % 31) as f32 / 100.0 + 0.01).collect();
    Tensor::from_f32(&numbers, shape).cast(dtype)
}

/// The weights of three values are scaled by a number, or by one over it, as config.json says.
#[test]
fn the_class_says_what_three_values_are_times() {
    let scale = |class: Option<&str>, number: f32| {
        let settings = json!({"quant_method": "bitnet", "linear_class": class, "quantization_mode": "offline"});
        let scale = Tensor::from_f32(&[number], [1]);
        let parts = vec![("weight", codes(Dtype::U8, &[16, 64])), ("weight_scale", scale)];
        hidden(&*load(&settings, &parts).unwrap())
    };
    assert_eq!(scale(Some("autobitlinear"), 0.25), scale(None, 4.0));
    assert_eq!(scale(Some("autobitlinear"), 0.25), scale(Some("bitlinear"), 4.0));
    assert_ne!(scale(Some("autobitlinear"), 4.0), scale(None, 4.0));
}

/// A layer of Llama, all of it plain but the module that has these parts.
fn checkpoint(settings: &Value, parts: &Parts) -> Checkpoint {
    let layer = "model.layers.0.";
    let shapes: [(&str, &[usize]); 8] = [
        ("self_attn.q_proj.weight", &[64, 64]),
        ("self_attn.k_proj.weight", &[32, 64]),
        ("self_attn.v_proj.weight", &[32, 64]),
        ("mlp.gate_proj.weight", &[96, 64]),
        ("mlp.up_proj.weight", &[96, 64]),
        ("mlp.down_proj.weight", &[64, 96]),
        ("input_layernorm.weight", &[64]),
        ("post_attention_layernorm.weight", &[64]),
    ];
    let plain = |(name, shape): &(&str, &[usize])| (format!("{layer}{name}"), floats(Dtype::F32, shape));
    let mut tensors: Vec<(String, Tensor)> = shapes.iter().map(plain).collect();
    tensors.push(("model.embed_tokens.weight".into(), floats(Dtype::F32, &[40, 64])));
    tensors.push(("model.norm.weight".into(), floats(Dtype::F32, &[64])));
    tensors.extend(parts.iter().map(|(name, tensor)| (format!("{MODULE}.{name}"), tensor.clone())));
    let config = json!({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 96,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": 40,
        "max_position_embeddings": 128, "tie_word_embeddings": true, "quantization_config": settings});
    Checkpoint {
        source: Source::Embedded { name: "test", files: &[] },
        config: Config::parse(config.to_string().as_bytes()).unwrap(),
        tensors,
        mlx_format: false,
        missing_shards: Vec::new(),
    }
}

fn load(settings: &Value, parts: &Parts) -> Result<Box<dyn LanguageModel>> {
    decoder::load(&checkpoint(settings, parts), Precision::Exact, |_, _| {})
}

fn storage(settings: &Value, parts: &Parts) -> Storage {
    let model = load(settings, parts).unwrap();
    model.record().taken.iter().find(|taken| taken.module == MODULE).unwrap().storage
}

fn compressed(bits: u32, kind: &str) -> Value {
    json!({"quant_method": "compressed-tensors", "config_groups": {"group_0":
        {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind, "symmetric": true}}}})
}

/// Each layout whole: what config.json says, the module's tensors, and how it is kept.
fn layouts() -> Vec<(Value, Parts, Storage)> {
    let affine = |bits| Storage::Quantized(QuantFormat { mode: QuantMode::Affine, bits, group: 32 });
    let micro = |mode, bits, group| Storage::Quantized(QuantFormat { mode, bits, group });
    let order = Tensor::lying(
        Bytes::from((0..64i32).flat_map(|i| (i / 32).to_le_bytes()).collect::<Vec<_>>()),
        Spec::new(Dtype::I32, [64]),
    );
    let awq = vec![
        ("qweight", codes(Dtype::I32, &[64, 8])),
        ("qzeros", codes(Dtype::I32, &[2, 8])),
        ("scales", floats(Dtype::F16, &[2, 64])),
    ];
    let gptq = vec![
        ("qweight", codes(Dtype::I32, &[8, 64])),
        ("qzeros", codes(Dtype::I32, &[2, 8])),
        ("scales", floats(Dtype::F16, &[2, 64])),
        ("g_idx", order),
        ("bias", noise(Dtype::F16, &[64], |_| 0)),
    ];
    let packed = vec![
        ("weight_packed", codes(Dtype::I32, &[64, 8])),
        ("weight_scale", floats(Dtype::Bf16, &[64, 2])),
        ("weight_zero_point", codes(Dtype::I32, &[8, 2])),
    ];
    let bytes = vec![("weight", codes(Dtype::I8, &[64, 64])), ("weight_scale", floats(Dtype::F32, &[64, 2]))];
    let blocks = vec![("weight", codes(Dtype::F8E4m3, &[64, 64])), ("weight_scale_inv", floats(Dtype::F32, &[1, 2]))];
    let fours = vec![
        ("weight", codes(Dtype::U8, &[64, 32])),
        ("weight_scale", codes(Dtype::F8E4m3, &[64, 4])),
        ("weight_scale_2", floats(Dtype::F32, &[])),
        ("input_scale", floats(Dtype::F32, &[])),
    ];
    let powers = vec![("weight_packed", codes(Dtype::U8, &[64, 32])), ("weight_scale", codes(Dtype::U8, &[64, 2]))];
    let threes = vec![
        ("weight_packed", codes(Dtype::I32, &[64, 6])),
        ("weight_scale", floats(Dtype::Bf16, &[64, 2])),
        ("weight_zero_point", codes(Dtype::I32, &[6, 2])),
    ];
    let whole = vec![("weight_packed", codes(Dtype::I32, &[64, 13])), ("weight_scale", floats(Dtype::Bf16, &[64, 2]))];
    let ternary = vec![("weight", codes(Dtype::U8, &[16, 64])), ("weight_scale", floats(Dtype::Bf16, &[1]))];
    let two = Storage::Quantized(QuantFormat { mode: QuantMode::Affine, bits: 2, group: 64 });
    vec![
        (compressed(3, "int"), threes, affine(3)),
        (compressed(6, "int"), whole, affine(6)),
        (json!({"quant_method": "bitnet"}), ternary, two),
        (json!({"quant_method": "awq"}), awq, affine(4)),
        (json!({"quant_method": "gptq"}), gptq, affine(4)),
        (compressed(4, "int"), packed, affine(4)),
        (compressed(8, "int"), bytes, affine(8)),
        (json!({"quant_method": "fp8", "weight_block_size": [128, 32]}), blocks, Storage::Dense(Dtype::Bf16)),
        (json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), fours, micro(QuantMode::Nvfp4, 4, 16)),
        (compressed(4, "float"), powers, micro(QuantMode::Mxfp4, 4, 32)),
    ]
}

#[test]
fn each_layout_is_kept_as_one_of_mlx() {
    for (settings, parts, want) in layouts() {
        assert_eq!(storage(&settings, &parts), want, "{settings}");
    }
}

#[test]
fn tensors_of_any_type_and_shape_are_read_or_refused() {
    let types = [Dtype::F32, Dtype::F16, Dtype::I32, Dtype::U8, Dtype::I8, Dtype::F8E4m3, Dtype::I64, Dtype::Bool];
    let shapes: [&[usize]; 14] = [
        &[],
        &[1],
        &[64],
        &[1, 1],
        &[0, 64],
        &[2, 8],
        &[8, 2],
        &[2, 64],
        &[64, 2],
        &[8, 64],
        &[64, 8],
        &[64, 63],
        &[64, 64],
        &[2, 64, 64],
    ];
    for (settings, parts, _) in layouts() {
        for part in 0..parts.len() {
            for (dtype, shape) in types.iter().flat_map(|dtype| shapes.map(|shape| (*dtype, shape))) {
                let mut odd = parts.clone();
                odd[part].1 = noise(dtype, shape, |i| 255 - (i % 3) as u8);
                if let Err(error) = load(&settings, &odd) {
                    assert!(!error.to_string().contains('\n'), "{error}");
                }
            }
        }
    }
}

#[test]
fn tensors_that_are_not_there_are_named() {
    for (settings, parts, _) in layouts() {
        for part in 0..parts.len() {
            let mut fewer = parts.clone();
            let (name, _) = fewer.remove(part);
            // Without these there is nothing to shift, to order or to multiply by.
            if matches!(name, "g_idx" | "bias" | "input_scale" | "weight_scale_2" | "weight_zero_point")
                || (name == "qzeros" && settings["quant_method"] == "awq")
            {
                assert!(load(&settings, &fewer).is_ok(), "{settings} without {name}");
                continue;
            }
            let error = load(&settings, &fewer).err().unwrap_or_else(|| panic!("{settings} without {name}"));
            assert!(error.to_string().contains(MODULE), "{error}");
        }
    }
}

#[test]
fn what_config_says_is_held_against_the_tensors() {
    let all = layouts();
    let (_, packed, _) = &all[5];
    let refused = |settings: &Value, parts: &Parts, kind, says: &str| {
        let error = load(settings, parts).err().expect("refused");
        assert!(error.kind() == kind && error.to_string().contains(says), "{error}");
    };
    refused(&compressed(8, "int"), packed, ErrorKind::InvalidCheckpoint, "codes of 4 bits, and config.json says 8");
    let mut left_out = compressed(4, "int");
    left_out["ignore"] = json!([MODULE]);
    refused(&left_out, packed, ErrorKind::InvalidCheckpoint, "leaves it out");
    refused(&Value::Null, packed, ErrorKind::InvalidCheckpoint, "no `quantization_config`");
    let mut signed = compressed(4, "int");
    signed["config_groups"]["group_0"]["weights"]["symmetric"] = json!(false);
    let fewer: Parts = packed.iter().filter(|(name, _)| *name != "weight_zero_point").cloned().collect();
    refused(&signed, &fewer, ErrorKind::InvalidCheckpoint, "no `weight_zero_point`");
    let (gptq, parts, _) = &all[4];
    let mut biased = parts.clone();
    biased[4].1 = floats(Dtype::F16, &[64]);
    refused(gptq, &biased, ErrorKind::InvalidCheckpoint, "o_proj.bias");
    let mut mixed = parts.clone();
    mixed[3].1 = Tensor::from_u32(&(0..64).map(|i| i % 2).collect::<Vec<_>>(), [64]).read_as(Dtype::I32).unwrap();
    assert_eq!(storage(gptq, &mixed), Storage::Dense(Dtype::F16));
    mixed[3].1 = Tensor::from_u32(&[2; 64], [64]).read_as(Dtype::I32).unwrap();
    refused(gptq, &mixed, ErrorKind::InvalidCheckpoint, "order of groups");
}

/// Codes of 3, 5 and 6 bits mean the same in both ways in which they lie in words, zeros as well.
#[test]
fn codes_that_do_not_divide_a_word_lie_in_two_ways() {
    // Codes along an axis, `at` being the first bit of one, as words.
    let packed = |bits: usize, each: Option<usize>, lines: &[Vec<u32>]| -> Vec<Vec<u32>> {
        let at = |i: usize| each.map_or(i * bits, |each| i / each * 32 + i % each * bits);
        let line = |codes: &Vec<u32>| {
            let mut words = vec![0u32; (at(codes.len() - 1) + bits).div_ceil(32)];
            for (i, code) in codes.iter().enumerate() {
                (0..bits).for_each(|bit| words[(at(i) + bit) / 32] |= (code >> bit & 1) << ((at(i) + bit) % 32));
            }
            words
        };
        lines.iter().map(line).collect()
    };
    let words = |lines: Vec<Vec<u32>>, turned: bool| {
        let [down, across] = [lines.len(), lines[0].len()];
        let tensor = Tensor::from_u32(&lines.concat(), [down, across]);
        let tensor = if turned { turn(&lines) } else { tensor };
        tensor.read_as(Dtype::I32).unwrap()
    };
    for bits in [3, 5, 6] {
        let noise = |i: usize| (i * 2_654_435 % 1009) as u32 & ((1 << bits) - 1);
        let codes: Vec<Vec<u32>> = (0..64).map(|row| (0..64).map(|i| noise(row * 64 + i)).collect()).collect();
        let zeros: Vec<Vec<u32>> =
            (0..2).map(|group| (0..64).map(|row| noise(row * 2 + group + 9)).collect()).collect();
        let hidden = [None, Some(32 / bits)].map(|each| {
            let parts = vec![
                ("weight_packed", words(packed(bits, each, &codes), false)),
                ("weight_scale", floats(Dtype::Bf16, &[64, 2])),
                ("weight_zero_point", words(packed(bits, each, &zeros), true)),
            ];
            hidden(&*load(&compressed(bits as u32, "int"), &parts).unwrap())
        });
        assert_eq!(hidden[0], hidden[1], "{bits}");
    }
}

/// Lines as columns.
fn turn(lines: &[Vec<u32>]) -> Tensor {
    let down = lines[0].len();
    let turned: Vec<u32> = (0..down).flat_map(|i| lines.iter().map(move |line| line[i])).collect();
    Tensor::from_u32(&turned, [down, lines.len()])
}

/// What a model makes of a few tokens.
fn hidden(model: &dyn LanguageModel) -> Vec<f32> {
    let mut state = model.state(&CacheOptions::default()).unwrap();
    model.forward(&mut [Span { tokens: &[3, 1, 4], state: &mut state }]).f32s().to_vec()
}

#[test]
fn settings_beside_a_configuration_are_read_where_weights_are_packed() {
    let (_, parts, want) = layouts().swap_remove(4);
    let beside = |contents: &'static str, parts: &Parts| {
        let mut checkpoint = checkpoint(&Value::Null, parts);
        let files: &'static [(&'static str, &'static [u8])] =
            Box::leak(Box::new([("quantize_config.json", contents.as_bytes())]));
        checkpoint.source = Source::Embedded { name: "test", files };
        decoder::load(&checkpoint, Precision::Exact, |_, _| {})
    };
    let model = beside(r#"{"bits": 4, "group_size": 32, "desc_act": false, "sym": true}"#, &parts).unwrap();
    assert_eq!(model.record().taken.iter().find(|taken| taken.module == MODULE).unwrap().storage, want);
    for (settings, says) in [
        (r#"{"bits": 5, "desc_act": false}"#, "gptq with bits 5"),
        (r#"{"w_bit": 3, "version": "GEMM"}"#, "awq with w_bit 3"),
        (r#"{"bits": 4}"#, "`unnamed`"),
        (r#"{"quant_method": "marlin"}"#, "`marlin`"),
    ] {
        let error = beside(settings, &parts).err().expect("refused").to_string();
        assert!(error.contains(says) && error.contains("quantize_config.json"), "{error}");
        // Of plain weights it says nothing.
        assert!(beside(settings, &vec![("weight", floats(Dtype::F32, &[64, 64]))]).is_ok(), "{settings}");
    }
}
