//! The header of a safetensors file: any bytes give a layout or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxengine_tensor::safetensors::Layout;

fuzz_target!(|bytes: &[u8]| {
    let _ = Layout::parse(bytes);
});
