//! Token ids to text, one token at a time, never a broken character.

use serde_json::{Value, json};

use super::tokenizer::Tokenizer;

/// How tokens become text while they stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetokenizerKind {
    /// Tokens are bytes written as characters (GPT-2's alphabet). One leading space of the text is dropped.
    ByteLevel,
    /// Tokens are text with `▁` for spaces and `<0x0A>` for bytes.
    SentencePiece {
        /// One leading space of the text is dropped.
        trim_space: bool,
    },
    /// Anything else: whole decodes of the last tokens are compared.
    Naive {
        /// Decoding glues punctuation to the word before it, so a final space waits.
        clean_spaces: bool,
    },
}

impl DetokenizerKind {
    /// Chooses by the `decoder` of `tokenizer.json`.
    pub fn from_decoder(decoder: &Value) -> Self {
        let steps = |strip: bool| {
            let mut list = vec![
                json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                json!({"type": "ByteFallback"}),
                json!({"type": "Fuse"}),
            ];
            if strip {
                list.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            }
            json!({"type": "Sequence", "decoders": list})
        };
        if decoder.get("type").and_then(Value::as_str) == Some("ByteLevel") {
            DetokenizerKind::ByteLevel
        } else if *decoder == steps(true) {
            DetokenizerKind::SentencePiece { trim_space: true }
        } else if *decoder == steps(false) {
            DetokenizerKind::SentencePiece { trim_space: false }
        } else {
            DetokenizerKind::Naive { clean_spaces: false }
        }
    }
}

/// The detokenizer of one stream of tokens.
///
/// The pieces are those of the reference implementation, its habits included: a byte-level text loses one leading space,
/// a sentencepiece text whose decoder strips loses its leading spaces, and byte 0 of a byte-level token shows as `Ā`.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    ByteLevel(ByteLevel),
    SentencePiece(SentencePiece),
    Naive(Naive),
}

impl Detokenizer {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        let state = match tokenizer.detokenizer_kind() {
            DetokenizerKind::ByteLevel => State::ByteLevel(ByteLevel::default()),
            DetokenizerKind::SentencePiece { trim_space } => {
                State::SentencePiece(SentencePiece { trim_space, ..Default::default() })
            }
            DetokenizerKind::Naive { clean_spaces } => State::Naive(Naive { clean_spaces, ..Default::default() }),
        };
        Detokenizer { tokenizer, state }
    }

    /// Takes a token; gives the text that has become complete, often empty, never a part of a character.
    pub fn push(&mut self, id: u32) -> String {
        match &mut self.state {
            State::ByteLevel(state) => state.push(&self.tokenizer.id_to_token(id).unwrap_or_default()),
            State::SentencePiece(state) => state.push(&self.tokenizer.id_to_token(id).unwrap_or_default()),
            State::Naive(state) => state.push(&self.tokenizer, id),
        }
    }

    /// Ends the stream: gives what was held back, with U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        match &mut self.state {
            State::ByteLevel(state) => state.finish(),
            State::SentencePiece(state) => state.flush(),
            State::Naive(state) => state.finish(&self.tokenizer),
        }
    }

    /// Forgets everything, for the next stream.
    pub fn reset(&mut self) {
        *self = Detokenizer::new(self.tokenizer.clone());
    }
}

/// True if decoding `bytes` would end in U+FFFD: an incomplete or invalid tail, or that character itself.
///
/// UTF-8 synchronizes itself, so the last four bytes decide; this keeps long held-back runs linear.
fn ends_unfinished(bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return false;
    }
    let tail = &bytes[bytes.len().saturating_sub(4)..];
    match tail.iter().rposition(|b| b & 0xC0 != 0x80) {
        None => true,
        Some(lead) => std::str::from_utf8(&tail[lead..]).map_or(true, |c| c == "\u{FFFD}"),
    }
}

/// Decodes and drops one leading space if `trim`.
fn decode_trimmed(bytes: &[u8], trim: bool) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.strip_prefix(' ') {
        Some(rest) if trim => rest.to_owned(),
        _ => text.into_owned(),
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 for itself, the 68 others from U+0100.
pub(crate) fn alphabet_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[derive(Debug, Clone, Default)]
struct ByteLevel {
    held: String,
    held_bytes: Vec<u8>,
    started: bool,
}

impl ByteLevel {
    fn push(&mut self, token: &str) -> String {
        self.held.push_str(token);
        for c in token.chars() {
            // Byte 0 is left as the character that stands for it, as the reference does.
            match alphabet_byte(c) {
                Some(byte) if byte != 0 => self.held_bytes.push(byte),
                _ => self.held_bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        // A lone space waits for the next token: at the beginning of the text it is dropped together with it.
        if ends_unfinished(&self.held_bytes) || token == "Ġ" {
            return String::new();
        }
        let text = decode_trimmed(&self.held_bytes, !self.started);
        self.emit(text)
    }

    fn finish(&mut self) -> String {
        let text = decode_trimmed(&byte_level_bytes(&self.held), !self.started);
        self.emit(text)
    }

    fn emit(&mut self, text: String) -> String {
        self.held.clear();
        self.held_bytes.clear();
        self.started |= !text.is_empty();
        text
    }
}

/// The bytes of a token in GPT-2's alphabet; a character outside it stands for itself.
pub(super) fn byte_level_bytes(token: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(token.len());
    for c in token.chars() {
        match alphabet_byte(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// The bytes of a token with `▁` for spaces and `<0x0A>` for a byte.
pub(super) fn sentencepiece_bytes(token: &str) -> Vec<u8> {
    match byte_token(token) {
        Some(byte) => vec![byte],
        None => replace_spaces(token.as_bytes()),
    }
}

fn byte_token(token: &str) -> Option<u8> {
    token.strip_prefix("<0x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok())
}

#[derive(Debug, Clone, Default)]
struct SentencePiece {
    held: Vec<u8>,
    started: bool,
    trim_space: bool,
}

impl SentencePiece {
    fn push(&mut self, token: &str) -> String {
        match byte_token(token) {
            Some(byte) => self.held.push(byte),
            None => self.held.extend_from_slice(token.as_bytes()),
        }
        if ends_unfinished(&self.held) { String::new() } else { self.flush() }
    }

    fn flush(&mut self) -> String {
        // On bytes, because three byte tokens may spell the `▁`.
        let spaced = replace_spaces(&self.held);
        self.held.clear();
        let text = decode_trimmed(&spaced, self.trim_space && !self.started);
        self.started |= !text.is_empty();
        text
    }
}

fn replace_spaces(bytes: &[u8]) -> Vec<u8> {
    let mark = "▁".as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        match rest.strip_prefix(mark) {
            Some(after) => {
                out.push(b' ');
                rest = after;
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Tokens kept as context when the window of whole decodes moves on.
const CONTEXT: usize = 16;
/// Tokens in the window at which it moves on.
const WINDOW: usize = 96;

#[derive(Debug, Clone, Default)]
struct Naive {
    window: Vec<u32>,
    /// Characters of the window's text that were given out.
    shown: usize,
    clean_spaces: bool,
}

impl Naive {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.window.push(id);
        let decoded = tokenizer.decode(&self.window, false).unwrap_or_default();
        let mut text = decoded.as_str();
        if text.ends_with('\u{FFFD}') {
            text = text.trim_end_matches('\u{FFFD}');
        } else if self.clean_spaces {
            text = text.strip_suffix(' ').unwrap_or(text);
        }
        let new: String = text.chars().skip(self.shown).collect();
        if text.ends_with('\n') {
            self.window.clear();
            self.shown = 0;
        } else {
            self.shown = text.chars().count();
            if self.window.len() >= WINDOW && text.len() == decoded.len() {
                self.move_on(tokenizer);
            }
        }
        new
    }

    /// Keeps only the last tokens, so that a long line costs a constant per token.
    fn move_on(&mut self, tokenizer: &Tokenizer) {
        let context = &self.window[self.window.len() - CONTEXT..];
        let text = tokenizer.decode(context, false).unwrap_or_default();
        // A context that begins inside a character would decode differently: wait for a better place.
        if text.starts_with('\u{FFFD}') || text.is_empty() {
            return;
        }
        self.shown = text.chars().count();
        self.window.drain(..self.window.len() - CONTEXT);
    }

    fn finish(&mut self, tokenizer: &Tokenizer) -> String {
        let text = tokenizer.decode(&self.window, false).unwrap_or_default();
        let new = text.chars().skip(self.shown).collect();
        self.window.clear();
        self.shown = 0;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::tiny;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen = [false; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = alphabet_byte(c) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true), "{byte} twice");
            }
        }
        assert!(seen.iter().all(|s| *s));
        assert_eq!((alphabet_byte('Ġ'), alphabet_byte('Ċ'), alphabet_byte('Ń')), (Some(b' '), Some(b'\n'), Some(0xAD)));
    }

    #[test]
    fn unfinished_tails_agree_with_whole_decodes() {
        let samples: [&[u8]; 9] = [
            b"",
            b"a",
            b"\xE2",
            b"\xE2\x82",
            b"\xE2\x82\xAC",
            b"a\x80",
            "x\u{FFFD}".as_bytes(),
            b"\xF0\x9F\x98\x80",
            b"\x80\x80\x80\x80\x80",
        ];
        for bytes in samples {
            let want = String::from_utf8_lossy(bytes).ends_with('\u{FFFD}');
            assert_eq!(ends_unfinished(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn byte_level_drops_one_leading_space_and_holds_lone_spaces() {
        let tokenizer = tiny(&[], serde_json::json!({}));
        let mut stream = tokenizer.detokenizer();
        let pieces: Vec<String> = [26, 26, 0, 26, 1, 26].iter().map(|id| stream.push(*id)).collect();
        assert_eq!(pieces, ["", "", " a", "", " b", ""]);
        assert_eq!(stream.finish(), " ");
        stream.reset();
        assert_eq!(stream.push(26) + &stream.push(0), "a");
    }

    #[test]
    fn sentencepiece_joins_bytes() {
        let mut state = SentencePiece { trim_space: true, ..Default::default() };
        let pieces: Vec<String> = ["▁", "▁a", "<0xE2>", "<0x82>", "<0xAC>", "<0xE2>", "<0x96>", "<0x81>", "<0xE2>"]
            .map(|t| state.push(t))
            .into();
        assert_eq!(pieces, ["", "a", "", "", "€", "", "", " ", ""]);
        assert_eq!(state.flush(), "\u{FFFD}");
    }
}
