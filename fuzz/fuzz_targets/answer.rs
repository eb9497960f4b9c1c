//! What a model says: any text, cut anywhere, gives the same pieces as the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxengine_engine::answer::{AnswerFormat, AnswerParser, Piece, ReasoningMarkers, TOOL_FORMATS, Tools};

/// The pieces of an answer that arrives in these parts, like next to like made one.
fn parse(format: &AnswerFormat, parts: &[&str], inside: bool) -> Vec<Piece> {
    let tool = serde_json::json!({"name": "now", "parameters": {"properties": {"x": {"type": "integer"}}}});
    let mut parser = AnswerParser::new(format, Some(Tools::from(vec![tool])), inside);
    let mut whole: Vec<Piece> = Vec::new();
    let pieces: Vec<Piece> = parts.iter().flat_map(|part| parser.push(part)).collect();
    for piece in pieces.into_iter().chain(parser.finish()) {
        match (whole.last_mut(), piece) {
            (Some(Piece::Text(text)), Piece::Text(more)) | (Some(Piece::Reasoning(text)), Piece::Reasoning(more)) => {
                text.push_str(&more);
            }
            (_, piece) => whole.push(piece),
        }
    }
    whole
}

// The first byte chooses the format, the second where the text is cut.
fuzz_target!(|bytes: &[u8]| {
    let [choice, cut, text @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let markers = ReasoningMarkers { start: "<think>".to_owned(), end: "</think>".to_owned() };
    let format = match TOOL_FORMATS.get(usize::from(choice & 127) % (TOOL_FORMATS.len() + 1)) {
        None => AnswerFormat::Channels,
        Some(tools) => AnswerFormat::Marked {
            reasoning: Some(markers),
            response: Some(("<response>", "</response>")),
            tools: Some(*tools),
        },
    };
    let inside = choice & 128 != 0;
    let cut = (0..=usize::from(*cut).min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let whole = parse(&format, &[text], inside);
    assert_eq!(parse(&format, &[&text[..cut], &text[cut..]], inside), whole);
    let characters: Vec<&str> = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect();
    assert_eq!(parse(&format, &characters, inside), whole);
});
