//! A prompt cache: any bytes give a state of a small model that reads on, or an error.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mlxengine_fuzz::small_model;
use mlxengine_models::{CacheFile, CacheOptions, LanguageModel, Span, State};

fuzz_target!(|bytes: &[u8]| {
    static MODEL: OnceLock<Box<dyn LanguageModel>> = OnceLock::new();
    let Ok(file) = CacheFile::parse(bytes.to_vec().into(), "fuzzed") else { return };
    let model = MODEL.get_or_init(|| small_model(None).expect("it is whole"));
    if let Ok(mut state) = State::restore(&**model, &file, Some(3), &CacheOptions::default()) {
        model.forward(&mut [Span { tokens: &[1, 2], state: &mut state }]);
    }
});
