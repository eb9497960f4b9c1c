//! Prompt caches in files: what comes back, and what is refused.

use std::collections::{BTreeMap, HashMap};

use mlxengine_models::{
    CacheFile, CacheOptions, Checkpoint, Config, KvQuantization, LanguageModel, Precision, Source, Span, State, decoder,
};
use mlxengine_tensor::{Dtype, Spec, Tensor, safetensors};
use serde_json::json;

fn model(layers: usize) -> Box<dyn LanguageModel> {
    let config = json!({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": layers, "intermediate_size": 32,
        "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": 16,
        "max_position_embeddings": 128, "tie_word_embeddings": true});
    let square =
        || Tensor::from_f32(&(0..1024).map(|i| ((i * 7) % 31) as f32 / 100.0 - 0.15).collect::<Vec<_>>(), [32, 32]);
    let ones = || Tensor::from_f32(&[1.0; 32], [32]);
    let mut tensors = vec![("model.norm.weight".to_owned(), ones())];
    tensors.push(("model.embed_tokens.weight".to_owned(), square().slice(0, 0, 16)));
    for layer in 0..layers {
        for part in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"] {
            tensors.push((format!("model.layers.{layer}.{part}_proj.weight"), square()));
        }
        for part in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{part}.weight"), ones()));
        }
    }
    let checkpoint = Checkpoint {
        source: Source::Embedded { name: "a test", files: &[] },
        config: Config::parse(config.to_string().as_bytes()).unwrap(),
        tensors,
        mlx_format: true,
        missing_shards: Vec::new(),
    };
    decoder::load(&checkpoint, Precision::Exact, |_, _| {}).unwrap()
}

fn read(model: &dyn LanguageModel, state: &mut State, tokens: &[u32]) -> Vec<f32> {
    let hidden = model.forward(&mut [Span { tokens, state }]);
    model.logits(&hidden).f32s().to_vec()
}

fn after(model: &dyn LanguageModel, options: &CacheOptions, count: u32) -> State {
    let mut state = model.state(options).unwrap();
    read(model, &mut state, &(0..count).map(|i| i % 16).collect::<Vec<_>>());
    state
}

type Parts = (BTreeMap<String, Tensor>, HashMap<String, String>);

fn parts(bytes: &[u8]) -> Parts {
    let file = safetensors::File::from_bytes(bytes.to_vec().into(), "a test").unwrap();
    (file.tensors().map(|(name, t)| (name.to_owned(), t)).collect(), file.layout().metadata.clone())
}

fn parse((tensors, metadata): &Parts) -> mlxengine_models::Result<CacheFile> {
    let tensors = tensors.iter().map(|(name, t)| (name.as_str(), t));
    CacheFile::parse(safetensors::serialize(tensors, metadata.clone()).unwrap().into(), "a test")
}

/// What today's layout says of a cache, as mlx-lm wrote it before 0.32.1.
fn of_old((tensors, metadata): &Parts, class: &str, numbers: &[&str]) -> Parts {
    let arrays = ["0.0", "0.1", "0.0.0", "0.0.1", "0.0.2", "0.1.0", "0.1.1", "0.1.2"];
    let kept = arrays.iter().filter_map(|name| Some(((*name).to_owned(), tensors.get(*name)?.clone())));
    let mut old = HashMap::from([("2.0".to_owned(), class.to_owned())]);
    for (key, value) in metadata {
        old.extend(key.strip_prefix("0.").map(|key| (format!("1.{key}"), value.clone())));
    }
    old.extend(numbers.iter().enumerate().map(|(i, number)| (format!("0.0.{i}"), (*number).to_owned())));
    if numbers.is_empty() {
        old.insert("0.0".to_owned(), String::new());
    }
    (kept.collect(), old)
}

#[test]
fn both_layouts_come_back() {
    let model = model(1);
    let quantize = Some(KvQuantization { bits: 4, group: 32, start: None });
    let cases: [(CacheOptions, &str, &[&str]); 3] = [
        (CacheOptions::default(), "KVCache", &[]),
        (CacheOptions { max_tokens: Some(8), quantize: None }, "RotatingKVCache", &["4", "8", "21", "8"]),
        (CacheOptions { max_tokens: None, quantize }, "QuantizedKVCache", &["21", "32", "4"]),
    ];
    for (options, class, numbers) in cases {
        let mut state = after(&*model, &options, 20);
        read(&*model, &mut state, &[7]);
        let said = BTreeMap::from([("model".to_owned(), "somebody's \"model\"".to_owned())]);
        let today = parts(&state.save(&*model, &said).unwrap());
        let want = read(&*model, &mut state, &[3, 4]);
        for file in [&today, &of_old(&today, class, numbers)] {
            let file = parse(file).unwrap();
            assert_eq!((file.offset(), &file.metadata), (Some(21), &said), "{class}");
            let mut back = State::restore(&*model, &file, None, &CacheOptions::default()).unwrap();
            assert_eq!(read(&*model, &mut back, &[3, 4]), want, "{class}");
        }
    }
}

/// Rows that a ring has overwritten come back in the order of their positions.
#[test]
fn rings_are_put_in_order() {
    let model = model(1);
    let options = CacheOptions { max_tokens: Some(8), quantize: None };
    let mut state = after(&*model, &options, 20);
    read(&*model, &mut state, &[7]);
    let mut ring = parts(&state.save(&*model, &BTreeMap::new()).unwrap());
    for name in ["0.0", "0.1"] {
        let rows = ring.0[name].clone();
        let part = |start, count| rows.clone().slice(2, start, count);
        // The first four stay, the next to be overwritten is row 6.
        ring.0.insert(name.to_owned(), Tensor::concat([part(0, 4), part(6, 2), part(4, 2)], 2));
    }
    let six = Tensor::lying(6i32.to_le_bytes().to_vec().into(), Spec::new(Dtype::I32, &[][..]));
    ring.0.insert("0.5".to_owned(), six);
    let mut back = State::restore(&*model, &parse(&ring).unwrap(), None, &CacheOptions::default()).unwrap();
    assert_eq!(read(&*model, &mut back, &[3]), read(&*model, &mut state, &[3]));
}

#[test]
fn other_models_and_damage_are_refused() {
    let (one, two) = (model(1), model(2));
    let whole = parts(&after(&*one, &CacheOptions::default(), 5).save(&*one, &BTreeMap::new()).unwrap());
    let restore = |parts: &Parts, model: &dyn LanguageModel, options: &CacheOptions| {
        State::restore(model, &parse(parts)?, None, options)
    };
    let refused = |parts: &Parts, says: &str| {
        let message = restore(parts, &*one, &CacheOptions::default()).unwrap_err().to_string();
        assert!(message.contains(says), "{message:?} does not say {says:?}");
    };
    let error = restore(&whole, &*two, &CacheOptions::default()).unwrap_err().to_string();
    assert!(error.contains("1 caches") && error.contains("needs 2"), "{error}");
    let number = |n: i32| Tensor::lying(n.to_le_bytes().to_vec().into(), Spec::new(Dtype::I32, &[][..]));
    let with = |name: &str, tensor: Option<Tensor>| {
        let mut parts = whole.clone();
        parts.0.remove(name);
        parts.0.extend(tensor.map(|t| (name.to_owned(), t)));
        parts
    };
    refused(&with("0.1", None), "lacks `0.1`");
    refused(&with("0.2", Some(number(6))), "rows that it does not have");
    refused(&with("0.2", Some(number(-1))), "a number is expected");
    refused(&with("0.2", Some(number(0))), "holds nothing");
    refused(&with("0.0", Some(Tensor::from_f32(&[0.0; 160], [1, 5, 32]))), "does not fit");
    refused(&with("0.0", Some(Tensor::from_f32(&[0.0; 160], [1, 5, 1, 32]))), "does not fit");
    refused(&with("0.0", Some(Tensor::from_f32(&[0.0; 80], [1, 1, 5, 16]))), "numbers of 32");
    let mut unknown = whole.clone();
    unknown.1.insert("1.0".to_owned(), "SecretCache".to_owned());
    refused(&unknown, "SecretCache");
    unknown.1.clear();
    refused(&unknown, "no caches");
    assert!(one.state(&CacheOptions::default()).unwrap().save(&*one, &BTreeMap::new()).is_err(), "nothing was read");
    let bounded = parts(
        &after(&*one, &CacheOptions { max_tokens: Some(8), quantize: None }, 20).save(&*one, &BTreeMap::new()).unwrap(),
    );
    let other = CacheOptions { max_tokens: Some(9), quantize: None };
    assert!(restore(&bounded, &*one, &other).unwrap_err().to_string().contains("remembers 8"));
}
