//! GGUF files: what their blocks mean, and files that are cut, damaged or lie about themselves.

use std::path::Path;

use mlxengine_tensor::gguf::{Encoding, File, GROUP, Layout, MAGIC, Value, decode, groups};
use mlxengine_tensor::{Bytes, safetensors};
use proptest::prelude::*;

/// A file of `tools/make_gguf_tables.py`.
fn seed() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/gguf_header/values.gguf")).unwrap()
}

/// Blocks of an encoding with the numbers that the format's own package reads from them.
fn table(encoding: Encoding) -> Option<(Vec<u8>, Vec<f32>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf_blocks.safetensors");
    let file = safetensors::File::open(&path).unwrap();
    let part = |what: &str| file.tensor(&format!("{}.{what}", encoding.name()));
    Some((part("blocks")?.bytes().to_vec(), part("numbers")?.f32s().to_vec()))
}

#[test]
fn blocks_mean_what_the_format_says() {
    for encoding in Encoding::all().filter(|encoding| encoding.dtype().is_none()) {
        let (blocks, want) = table(encoding).unwrap_or_else(|| panic!("no table of {}", encoding.name()));
        let mut got = vec![f32::NAN; want.len()];
        let each = blocks.chunks_exact(encoding.block_bytes()).zip(got.chunks_exact_mut(encoding.block_len()));
        each.for_each(|(block, out)| decode(encoding, block, out));
        assert_eq!(got, want, "{}", encoding.name());
    }
}

#[test]
fn groups_are_codes_below_their_bits() {
    for encoding in Encoding::all() {
        let Some(bits) = encoding.affine_bits() else { continue };
        let (blocks, _) = table(encoding).unwrap();
        let mut count = 0;
        for block in blocks.chunks_exact(encoding.block_bytes()) {
            groups(encoding, block, |codes, _, _| {
                assert!(codes.iter().all(|code| u32::from(*code) < 1 << bits), "{}", encoding.name());
                count += 1;
            });
        }
        assert_eq!(count * GROUP, blocks.len() / encoding.block_bytes() * encoding.block_len());
    }
}

#[test]
fn every_kind_of_value_is_read() {
    let file = File::from_bytes(Bytes::from(seed()), "x").unwrap();
    let layout = file.layout();
    for (key, value) in [
        ("general.architecture", Value::Text("llama".into())),
        ("u8", Value::Unsigned(200)),
        ("i8", Value::Signed(-5)),
        ("u16", Value::Unsigned(60_000)),
        ("i16", Value::Signed(-30_000)),
        ("u32", Value::Unsigned(4_000_000_000)),
        ("i32", Value::Signed(-7)),
        ("u64", Value::Unsigned(1 << 40)),
        ("i64", Value::Signed(-(1 << 40))),
        ("f32", Value::Float(f64::from(1e-5f32))),
        ("f64", Value::Float(0.1)),
        ("yes", Value::Bool(true)),
        ("text", Value::Text("żółw".into())),
        ("integers", Value::Signeds(vec![1, -2, 3])),
        ("floats", Value::Floats(vec![0.5, -1.5])),
        ("truths", Value::Bools(vec![true, false])),
        ("texts", Value::Texts(vec!["a".into(), String::new(), "ß".into()])),
    ] {
        assert_eq!(layout.get(key), Some(&value), "{key}");
    }
    assert_eq!(layout.get("absent"), None);
    let plain = layout.tensor("plain").unwrap();
    assert_eq!((&plain.shape[..], plain.encoding), (&[2, 3][..], Encoding::F32));
    assert_eq!(file.blocks(plain)[4..8], 1.0f32.to_le_bytes());
    let coded = layout.tensor("coded").unwrap();
    assert_eq!((&coded.shape[..], coded.encoding), (&[2, 64][..], Encoding::Q8_0));
    assert_eq!(file.blocks(coded).len(), 4 * 34);
}

/// A header of these parts after magic, version and the counts of tensors and keys.
fn header(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    rest.iter().for_each(|part| bytes.extend(*part));
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn info(name: &str, axes: &[u64], encoding: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((axes.len() as u32).to_le_bytes());
    axes.iter().for_each(|axis| bytes.extend(axis.to_le_bytes()));
    bytes.extend(encoding.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn every_fault_is_named() {
    let whole = seed();
    let room = [0; 4096];
    let version = |version: u32| [&MAGIC[..], &version.to_le_bytes(), &[0; 16]].concat();
    let key = |kind: u32, value: &[u8]| [&text("k"), &kind.to_le_bytes()[..], value].concat();
    let list = |kind: u32, count: u64| key(9, &[&kind.to_le_bytes()[..], &count.to_le_bytes()].concat());
    let two = [info("a", &[8], 0, 0), info("b", &[8], 0, 0)].concat();
    let cases = [
        (Vec::new(), "no GGUF file"),
        (b"GGML1234".to_vec(), "no GGUF file"),
        (version(1), "version 1"),
        (version(9), "version 9"),
        (version(3u32.swap_bytes()), "big-endian"),
        (whole[..50].to_vec(), "cut short"),
        (whole[..whole.len() - 64].to_vec(), "cut short"),
        (header(0, u64::MAX, &[]), "claims 18446744073709551615 keys"),
        (header(u64::MAX / 24, 0, &[]), "tensors, more than the file can hold"),
        (header(0, 1, &[&u64::MAX.to_le_bytes(), &room]), "bytes of text"),
        (header(0, 1, &[&key(8, &[&2u64.to_le_bytes()[..], &[0xff, 0xff]].concat()), &room]), "UTF-8"),
        (header(0, 1, &[&key(13, &[]), &room]), "no type 13"),
        (header(0, 1, &[&key(7, &[2]), &room]), "truth value is 2"),
        (header(0, 1, &[&list(8, 1 << 60), &room]), "entries of a list"),
        (header(0, 1, &[&list(9, 1), &room]), "lists of lists"),
        (header(0, 2, &[&key(7, &[1]), &key(7, &[1]), &room]), "`k` occurs twice"),
        (header(1, 0, &[&info("t", &[1; 5], 0, 0), &room]), "5 axes"),
        (header(1, 0, &[&info("t", &[32], 29, 0), &room]), "IQ1_M"),
        (header(1, 0, &[&info("t", &[33], 2, 0), &room]), "blocks of 32"),
        (header(1, 0, &[&info("t", &[0], 0, 0), &room]), "rows of 0"),
        (header(1, 0, &[&info("t", &[1 << 40, 1 << 40], 0, 0), &room]), "larger than any memory"),
        (header(1, 0, &[&info("t", &[u64::MAX], 0, 0), &room]), "cut short"),
        (header(1, 0, &[&info("t", &[8], 0, u64::MAX), &room]), "cut short"),
        (header(1, 0, &[&info("t", &[8], 0, 4), &room]), "not aligned"),
        (header(2, 0, &[&two, &room]), "overlap"),
        (header(2, 0, &[&info("a", &[8], 0, 0), &info("a", &[8], 0, 32), &room]), "`a` occurs twice"),
    ];
    for (bytes, expected) in cases {
        let message = Layout::parse(&bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        assert!(!message.contains('\n') && message.len() < 300, "{message:?} is one sentence");
    }
}

proptest! {
    #[test]
    fn damage_never_panics(at in 0usize..2000, byte: u8, cut in 0usize..2000) {
        let mut bytes = seed();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(cut.max(length / 2).min(length));
        if let Ok(file) = File::from_bytes(Bytes::from(bytes), "x") {
            for tensor in &file.layout().tensors {
                prop_assert_eq!(file.blocks(tensor).len(), tensor.encoding.bytes(tensor.shape.elements()));
            }
        }
    }

    #[test]
    fn any_block_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 292)) {
        for encoding in Encoding::all() {
            let mut numbers = vec![0.0; encoding.block_len()];
            decode(encoding, &bytes[..encoding.block_bytes()], &mut numbers);
        }
    }
}
