//! Files that are cut, damaged or lie about themselves.

use std::collections::HashMap;

use mlxengine_tensor::safetensors::{File, Layout, serialize};
use mlxengine_tensor::{Bytes, Dtype, Tensor};
use proptest::prelude::*;

fn file() -> Vec<u8> {
    let (a, b) = (Tensor::from_f32(&[1.0, 2.0, 3.0], [3]), Tensor::from_u32(&[7, 8], [2, 1]));
    serialize([("a", &a), ("b", &b)], HashMap::from([("format".to_owned(), "mlx".to_owned())])).unwrap()
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn what_is_written_is_read() {
    let read = File::from_bytes(Bytes::from(file()), "x").unwrap();
    assert_eq!(read.layout().metadata["format"], "mlx");
    assert_eq!(read.tensor("a").unwrap().to_f32().unwrap().f32s(), [1.0, 2.0, 3.0]);
    assert_eq!(read.tensor("b").unwrap().dtype(), Dtype::U32);
    assert!(read.tensor("c").is_none());
}

#[test]
fn every_fault_is_named() {
    let whole = file();
    let cases = [
        (Vec::new(), "too few"),
        (whole[..7].to_vec(), "too few"),
        (whole[..whole.len() - 1].to_vec(), "do not fill the file"),
        ([whole.clone(), vec![0]].concat(), "do not fill the file"),
        (u64::MAX.to_le_bytes().to_vec(), "claims 18446744073709551615 bytes"),
        (with_header("{", 0), "not valid JSON"),
        (with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4), "contradicts itself"),
        (with_header(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8), "contradicts itself"),
        (
            with_header(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#, 4),
            "contradicts itself",
        ),
        (with_header(r#"{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#, 8), "C64"),
        (with_header(r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1],"data_offsets":[0,1]}}"#, 1), "7 axes"),
    ];
    for (bytes, expected) in cases {
        let message = Layout::parse(&bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        assert!(!message.contains('\n') && message.len() < 300, "{message:?} is one sentence");
    }
}

#[test]
fn a_missing_file_is_named() {
    let message = File::open(std::path::Path::new("no/such.safetensors")).unwrap_err().to_string();
    assert!(message.starts_with("cannot read no/such.safetensors"), "{message}");
}

proptest! {
    #[test]
    fn damage_never_panics(at in 0usize..200, byte: u8, cut in 0usize..220) {
        let mut bytes = file();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(cut.min(length));
        if let Ok(file) = File::from_bytes(Bytes::from(bytes), "x") {
            for (_, tensor) in file.tensors() {
                prop_assert_eq!(tensor.bytes().len(), tensor.spec().bytes());
            }
        }
    }
}
