//! A GGUF file as a model: any bytes give a checkpoint's files or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxengine_models::gguf::Model;
use mlxengine_tensor::Bytes;
use mlxengine_tensor::gguf::File;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = File::from_bytes(Bytes::from(bytes.to_vec()), "x") {
        let _ = Model::read(&file);
    }
});
