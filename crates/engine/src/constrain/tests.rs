use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::sample::LogitsProcessor;
use crate::text::TokenizerFiles;

pub(super) const SPECIAL: [&str; 8] =
    ["<end>", "<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"];

fn tokenizer() -> Tokenizer {
    tokenizer_with(&SPECIAL)
}

/// A byte-level tokenizer of every byte, some words, and control tokens.
pub(super) fn tokenizer_with(special: &[&str]) -> Tokenizer {
    let mut vocab = Map::new();
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut moved = 0x100..;
    for byte in 0..256u32 {
        let c = if printable(&byte) { byte } else { moved.next().unwrap() };
        vocab.insert(char::from_u32(c).unwrap().to_string(), byte.into());
    }
    for word in ["true", "{\"", "\":", "ab", "Ġ\"", "name", "null"] {
        vocab.insert(word.to_owned(), vocab.len().into());
    }
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({"id": vocab.len() + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let json = json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    let bytes = serde_json::to_vec(&json).unwrap();
    Tokenizer::from_files(&TokenizerFiles { tokenizer_json: Some(&bytes), ..Default::default() }).unwrap()
}

fn constrainer() -> (Tokenizer, Constrainer, u32) {
    let tokenizer = tokenizer();
    let end = tokenizer.token_to_id("<end>").unwrap();
    // Models have more scores than tokens now and then.
    let constrainer = Constrainer::new(&tokenizer, tokenizer.vocab_size() + 3, &[end]).unwrap();
    (tokenizer, constrainer, end)
}

pub(super) fn allowed(constraint: &mut Constraint) -> Vec<u32> {
    let mask = constraint.mask().unwrap();
    let bits =
        mask.iter().enumerate().flat_map(|(i, word)| (0..32).map(move |b| (i as u32 * 32 + b, word >> b & 1 == 1)));
    bits.filter(|(_, set)| *set).map(|(token, _)| token).collect()
}

/// An answer of allowed tokens, drawn at random; `None` if it has not ended after many of them.
fn walk(constraint: &mut Constraint, end: u32, seed: u64) -> Option<Vec<u32>> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut tokens = Vec::new();
    while tokens.len() < 3000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let choices = allowed(constraint);
        let token = choices[(state >> 33) as usize % choices.len()];
        if token == end {
            return Some(tokens);
        }
        constraint.accept(token).unwrap();
        tokens.push(token);
    }
    None
}

/// Texts of random answers under a grammar.
fn answers(grammar: &Grammar, count: u64) -> Vec<String> {
    let (tokenizer, constrainer, end) = constrainer();
    let constraint = constrainer.compile(grammar).unwrap();
    let walks = (0..count).filter_map(|seed| walk(&mut constraint.clone(), end, seed));
    let texts: Vec<String> = walks.map(|tokens| tokenizer.decode(&tokens, false).unwrap()).collect();
    assert!(texts.len() as u64 * 10 >= count * 9, "only {} of {count} answers ended", texts.len());
    texts
}

#[test]
fn a_regular_expression_is_matched_as_a_whole() {
    for text in answers(&Grammar::Regex("[ab]{2,5}-[0-9]{3}".to_owned()), 100) {
        let (letters, digits) = text.split_once('-').unwrap();
        assert!((2..=5).contains(&letters.len()) && letters.chars().all(|c| "ab".contains(c)), "{text}");
        assert!(digits.len() == 3 && digits.chars().all(|c| c.is_ascii_digit()), "{text}");
    }
}

#[test]
fn json_obeys_its_schema() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age", "tags"],
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
            "extra": {"$ref": "#/$defs/extra"}},
        "$defs": {"extra": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}}});
    for text in answers(&Grammar::JsonSchema(schema), 150) {
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(value["name"].as_str().unwrap().chars().count() <= 8, "{text}");
        assert!((0..=150).contains(&value["age"].as_i64().unwrap()), "{text}");
        let tags = value["tags"].as_array().unwrap();
        assert!(tags.len() <= 3 && tags.iter().all(|tag| tag == "x" || tag == "y"), "{text}");
        assert!(value.get("extra").is_none_or(|extra| extra.is_null() || extra.is_boolean()), "{text}");
    }
    for text in answers(&Grammar::JsonObject, 40) {
        // A `Value` has no place for the number 1e999.
        let valid = serde_json::from_str::<serde::de::IgnoredAny>(&text);
        assert!(valid.is_ok() && text.starts_with('{'), "{text}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let (_, constrainer, _) = constrainer();
    for (grammar, what) in [
        (Grammar::JsonSchema(json!({"type": "string", "format": "no-such-format"})), "JSON schema"),
        (Grammar::JsonSchema(json!({"not": {"type": "string"}})), "JSON schema"),
        (Grammar::JsonSchema(json!({"type": "string", "pattern": "(?=a)b"})), "JSON schema"),
        (Grammar::JsonSchema(json!(false)), "JSON schema"),
        (Grammar::JsonSchema(json!({"x-guidance": {"lenient": true}})), "JSON schema"),
        (Grammar::JsonSchema(json!({"type": "string", "maxLength": 1, "minLength": 2})), "JSON schema"),
        (Grammar::Regex("(".to_owned()), "regular expression"),
        (Grammar::Lark("start: nothing".to_owned()), "grammar"),
        (Grammar::Lark(String::new()), "grammar"),
    ] {
        let error = constrainer.compile(&grammar).map(|_| ()).expect_err(&format!("{grammar:?}"));
        assert!(error.to_string().starts_with(&format!("the {what} cannot be enforced: ")), "{error}");
    }
    let error = Constrainer::new(&tokenizer(), 100, &[]).unwrap_err();
    assert!(error.to_string().contains("no end token"), "{error}");
}

#[test]
fn thoughts_are_free() {
    let (tokenizer, constrainer, end) = constrainer();
    let yes = constrainer.compile(&Grammar::Regex("yes".to_owned())).unwrap();
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    let say = |constraint: &mut Constraint, text: &str| {
        for token in tokenizer.encode(text, false).unwrap() {
            assert!(allowed(constraint).contains(&token), "{text}");
            constraint.accept(token).unwrap();
        }
    };
    let mut begun = yes.clone().after(Thoughts::Begun { end: "</think>".to_owned() });
    assert!(!allowed(&mut begun).contains(&end));
    say(&mut begun, "no </think>");
    assert_eq!(allowed(&mut begun), [id("y")]);
    say(&mut begun, "yes");
    assert_eq!(allowed(&mut begun), [end]);
    assert!(begun.is_complete());
    begun.rollback(4).unwrap();
    assert!(allowed(&mut begun).contains(&id("</think>")));

    let start = vec![id("<think>")];
    let mut possible = yes.after(Thoughts::Possible { start, end: "</think>".to_owned() });
    let mut first = vec![id("y"), id("<think>")];
    first.sort_unstable();
    assert_eq!(allowed(&mut possible), first);
    let mut thinking = possible.clone();
    say(&mut thinking, "<think>hm</think>ye");
    say(&mut possible, "ye");
    assert_eq!(allowed(&mut thinking), allowed(&mut possible));
    possible.rollback(2).unwrap();
    assert_eq!(allowed(&mut possible), first);
}

#[test]
fn thoughts_end_with_their_budget() {
    let (tokenizer, _, _) = constrainer();
    let id = |text: &str| tokenizer.token_to_id(text).unwrap();
    let begun = || Thoughts::Begun { end: "</think>".to_owned() };
    let possible = || Thoughts::Possible { start: vec![id("<think>")], end: "</think>".to_owned() };
    // For each token said: what had to be said in its place, if anything had.
    let forced = |thoughts: Thoughts, end: &str, budget: usize, said: &[&str]| {
        let mut processor = ThinkingBudget::new(&tokenizer, thoughts, end, budget).unwrap();
        let mut history = vec![1, 2, 3];
        let mut found = Vec::new();
        for text in said {
            let mut logits = vec![f32::NEG_INFINITY; tokenizer.vocab_size()];
            logits[0] = 0.0;
            processor.process(&history, &mut logits);
            assert!(processor.take_failure().is_none());
            let free: Vec<usize> = (0..logits.len()).filter(|token| logits[*token] != f32::NEG_INFINITY).collect();
            found.push(if free == [0] { None } else { tokenizer.id_to_token(free[0] as u32) });
            history.push(id(found.last().unwrap().as_deref().unwrap_or(text)));
        }
        found.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>()
    };
    assert_eq!(forced(begun(), "</think>", 2, &["a", "b", "c", "a", "b"]), ["", "", "</think>", "", ""]);
    assert_eq!(forced(begun(), "</think>", 2, &["a", "</think>", "c", "a", "b"]), [""; 5]);
    assert_eq!(forced(begun(), "</think>", 0, &["a", "b"]), ["</think>", ""]);
    assert_eq!(forced(begun(), "<end></think>", 1, &["a", "b", "c", "d"]), ["", "<end>", "</think>", ""]);
    assert_eq!(forced(possible(), "</think>", 1, &["<think>", "a", "b", "c"]), ["", "", "</think>", ""]);
    assert_eq!(forced(possible(), "</think>", 0, &["<think>", "a", "b"]), ["", "</think>", ""]);
    assert_eq!(forced(possible(), "</think>", 0, &["a", "<think>", "b"]), [""; 3]);
}

#[test]
fn a_processor_follows_the_history() {
    let (tokenizer, constrainer, end) = constrainer();
    let mut constraint = constrainer.compile(&Grammar::Regex("ab?c".to_owned())).unwrap();
    let id = |text: &str| tokenizer.token_to_id(text).unwrap();
    let mut next = |history: &[u32]| {
        let mut logits = vec![0.0; tokenizer.vocab_size() + 7];
        constraint.process(history, &mut logits);
        let free = logits.iter().enumerate().filter(|(_, logit)| **logit == 0.0);
        free.map(|(token, _)| token as u32).collect::<Vec<_>>()
    };
    let prompt = [1, 2, 3];
    assert_eq!(next(&prompt), [id("a"), id("ab")]);
    assert_eq!(next(&[1, 2, 3, id("ab")]), [id("c")]);
    assert_eq!(next(&[1, 2, 3, id("a")]), [id("b"), id("c")]);
    assert_eq!(next(&[1, 2, 3, id("a"), id("c")]), [end]);
    assert_eq!(next(&prompt), [id("a"), id("ab")]);
    assert_eq!(next(&[1, 2, 3, id("x")]), [0u32; 0]);
    assert!(constraint.take_failure().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn going_back_leaves_no_trace(seed in any::<u64>(), steps in prop::collection::vec((0usize..6, any::<u32>()), 1..40)) {
        let (_, constrainer, end) = constrainer();
        let schema = json!({"type": "array", "items": {"type": "object", "properties": {"ab": {"type": "boolean"}}}});
        let fresh = constrainer.compile(&Grammar::JsonSchema(schema)).unwrap()
            .after(Thoughts::Possible { start: vec![end + 1], end: "</think>".to_owned() });
        let mut constraint = fresh.clone();
        let mut tokens: Vec<u32> = Vec::new();
        for (back, pick) in steps {
            let back = back.saturating_sub(3).min(tokens.len());
            constraint.rollback(back).unwrap();
            tokens.truncate(tokens.len() - back);
            let choices: Vec<u32> = allowed(&mut constraint).into_iter().filter(|token| *token != end).collect();
            let Some(token) = choices.get((seed as usize ^ pick as usize) % choices.len().max(1)) else { break };
            constraint.accept(*token).unwrap();
            tokens.push(*token);
            let mut again = fresh.clone();
            tokens.iter().for_each(|token| again.accept(*token).unwrap());
            prop_assert_eq!(allowed(&mut constraint), allowed(&mut again));
        }
    }
}
