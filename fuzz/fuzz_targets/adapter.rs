//! An adapter: any configuration, and after a zero byte any tensors, give a small model that computes, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxengine_fuzz::small_model;
use mlxengine_models::{Adapter, CacheOptions, Span};
use mlxengine_tensor::safetensors;

fuzz_target!(|bytes: &[u8]| {
    let (config, file) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(0));
    let Ok(config) = serde_json::from_slice(config) else { return };
    let Ok(file) = safetensors::File::from_bytes(file[1..].to_vec().into(), "fuzzed") else { return };
    let tensors = file.tensors().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    let Ok(adapter) = Adapter::from_parts(&config, tensors) else { return };
    if let Ok(model) = small_model(Some(&adapter)) {
        let mut state = model.state(&CacheOptions::default()).expect("the default fits");
        model.forward(&mut [Span { tokens: &[1, 2], state: &mut state }]);
    }
});
