//! A checkpoint's `config.json`: any bytes give a decoder or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxengine_models::{Config, families};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = Config::parse(bytes) {
        let _ = families::decoder(&config);
    }
});
