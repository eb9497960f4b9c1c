//! A GGUF file: any bytes give a layout whose every block can be read, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxengine_tensor::gguf::{Layout, decode};

fuzz_target!(|bytes: &[u8]| {
    let Ok(layout) = Layout::parse(bytes) else { return };
    for tensor in &layout.tensors {
        let mut numbers = vec![0.0; tensor.encoding.block_len()];
        for block in bytes[tensor.range.clone()].chunks_exact(tensor.encoding.block_bytes()) {
            decode(tensor.encoding, block, &mut numbers);
        }
    }
});
