//! How long a large vocabulary takes: making a constrainer, compiling a schema, and the mask of each token.
//!
//! `cargo run --release -p mlxengine-engine --example vocabulary -- 150000` makes up a byte-level vocabulary of that size.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::time::{Duration, Instant};

use mlxengine_engine::text::{Tokenizer, TokenizerFiles};
use mlxengine_engine::{AnswerFormat, Constrainer, Grammar, ToolChoice, ToolFormat, Tools};
use serde_json::{Map, Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let size = std::env::args().nth(1).map_or(Ok(150_000), |size| size.parse())?;
    let file = serde_json::to_vec(&tokenizer(size))?;
    let begun = Instant::now();
    let tokenizer =
        Tokenizer::from_files(&TokenizerFiles { tokenizer_json: Some(&file), ..TokenizerFiles::default() })?;
    println!("{:>8.1} ms  tokenizer of {} tokens", ms(begun.elapsed()), tokenizer.vocab_size());
    let end = tokenizer.token_to_id("<end>").ok_or("no end token")?;
    let begun = Instant::now();
    let constrainer = Constrainer::new(&tokenizer, tokenizer.vocab_size(), &[end])?;
    println!("{:>8.1} ms  constrainer", ms(begun.elapsed()));
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["name", "tags", "size"], "properties": {
        "name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 40}},
        "size": {"type": "number"}, "kind": {"enum": ["small", "large"]}}});
    let answer = r#"{"name": "a name of some words", "tags": ["one", "two and more"], "size": 12.5, "kind": "small"}"#;
    let tool = json!({"name": "f", "parameters": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}});
    let format = ToolFormat::named("qwen3_coder").ok_or("no such format")?;
    let format = AnswerFormat::Marked { reasoning: None, response: None, tools: Some(format) };
    let call = constrainer.calls(&format, &Tools::from(vec![tool]), &ToolChoice::Auto)?;
    let called =
        "Text. <tool_call>\n<function=f>\n<parameter=text>\nsome words\n</parameter>\n</function>\n</tool_call>";
    for (what, grammar, answer) in [
        ("schema", Grammar::JsonSchema(schema), answer),
        ("regex", Grammar::Regex(r"(?:[a-z]+ ){3,}\d{4}".to_owned()), "some words and a year 1999"),
        ("call in tags", call, called),
    ] {
        let begun = Instant::now();
        let mut constraint = constrainer.compile(&grammar)?;
        println!("{:>8.1} ms  {what} compiled", ms(begun.elapsed()));
        let tokens = tokenizer.encode(answer, false)?;
        let mut times = Vec::new();
        for token in &tokens {
            let begun = Instant::now();
            constraint.mask()?;
            times.push(begun.elapsed());
            constraint.accept(*token)?;
        }
        times.sort_unstable();
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        let (middle, most) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "{:>8.3} ms  a mask on average, {:.3} ms in the middle, {:.3} ms at most, of {} tokens",
            ms(mean),
            ms(middle),
            ms(most),
            tokens.len()
        );
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A byte-level tokenizer of every byte and of made-up words, with and without a space before them.
fn tokenizer(size: usize) -> Value {
    let mut vocab = Map::new();
    let mut moved = 0x100u32..;
    for byte in 0..256u32 {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let c = if printable { byte } else { moved.next().unwrap_or_default() };
        vocab.insert(char::from_u32(c).unwrap_or_default().to_string(), byte.into());
    }
    let mut state = 1u64;
    while vocab.len() + 1 < size {
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        // Like real ones: mostly short words of letters, some of digits and marks, many with a space before them.
        let (letters, space) = (next(10), next(5) < 3);
        let alphabet = if letters == 0 { "0123456789.,:;\"'{}[]()<>/=-_" } else { "etaoinshrdlucmfwypvbgkjqxzETAOINS" };
        let word: String =
            (0..2 + next(9)).filter_map(|_| alphabet.chars().nth(next(alphabet.len() as u64) as usize)).collect();
        let word = if space { format!("Ġ{word}") } else { word };
        if !vocab.contains_key(&word) {
            vocab.insert(word, vocab.len().into());
        }
    }
    let end = json!({"id": vocab.len(), "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    json!({"version": "1.0", "added_tokens": [end], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}})
}
