//! Which tokens end an answer, and who said so.

use serde_json::Value;

use super::tokenizer::Tokenizer;

/// A token that ends an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndToken {
    /// Its id.
    pub id: u32,
    /// Its text, if the tokenizer has one for it.
    pub text: Option<String>,
    /// Where it comes from, such as `generation_config.json eos_token_id`; several sources may name one token.
    pub reasons: Vec<String>,
}

/// Tokens that end a turn in the chat formats in use. They count only where the checkpoint's own template writes them.
const TURN_ENDS: [&str; 7] =
    ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<turn|>", "<|END_OF_TURN_TOKEN|>"];

/// In the harmony format `<|end|>` closes each message of an answer and `<|return|>` the answer itself.
const HARMONY_RETURN: &str = "<|return|>";

#[derive(Default)]
struct Collected(Vec<EndToken>);

impl Collected {
    fn add(&mut self, tokenizer: &Tokenizer, id: u32, reason: impl Into<String>) {
        let reason = reason.into();
        match self.0.iter_mut().find(|end| end.id == id) {
            Some(end) => end.reasons.push(reason),
            None => {
                self.0.push(EndToken { id, text: tokenizer.id_to_token(id), reasons: vec![reason] });
            }
        }
    }
}

/// The union of everything that marks the end of an answer.
///
/// `generation_config.json`'s `eos_token_id` replaces that of `config.json`; `text_config`'s counts where it names a
/// special token (elsewhere it is a default that nobody checked); the tokenizer's own end token is added; and so are
/// the turn-end tokens that the chat template writes.
pub fn end_tokens(
    tokenizer: &Tokenizer,
    generation_config: Option<&Value>,
    config: Option<&Value>,
    chat_template: Option<&str>,
) -> Vec<EndToken> {
    let mut found = Collected::default();
    let from_generation = ids(generation_config, "eos_token_id");
    if from_generation.is_empty() {
        for id in ids(config, "eos_token_id") {
            found.add(tokenizer, id, "config.json eos_token_id");
        }
    }
    for id in from_generation {
        found.add(tokenizer, id, "generation_config.json eos_token_id");
    }
    for id in ids(config.and_then(|c| c.get("text_config")), "eos_token_id") {
        if tokenizer.is_added(id) {
            found.add(tokenizer, id, "config.json text_config.eos_token_id");
        }
    }
    if let Some(id) = tokenizer.eos_id() {
        found.add(tokenizer, id, "the tokenizer's eos_token");
    }
    let template = chat_template.unwrap_or_default();
    let harmony = tokenizer.token_to_id(HARMONY_RETURN).is_some();
    for token in TURN_ENDS {
        let Some(id) = tokenizer.token_to_id(token) else { continue };
        if template.contains(token) && tokenizer.is_added(id) && !(harmony && token == "<|end|>") {
            found.add(tokenizer, id, format!("the chat template ends turns with {token}"));
        }
    }
    found.0
}

/// An id or a list of ids under `key`.
fn ids(value: Option<&Value>, key: &str) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value.and_then(|v| v.get(key)) {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::tiny;
    use serde_json::json;

    #[test]
    fn union_with_reasons() {
        let tokenizer = tiny(&["<|endoftext|>", "<|im_end|>", "<|end|>"], json!({"eos_token": "<|endoftext|>"}));
        let (eot, im_end) =
            (tokenizer.token_to_id("<|endoftext|>").unwrap(), tokenizer.token_to_id("<|im_end|>").unwrap());
        let ends = end_tokens(
            &tokenizer,
            Some(&json!({"eos_token_id": [eot, 7]})),
            Some(&json!({"eos_token_id": 5, "text_config": {"eos_token_id": 0}})),
            Some("{{ m.content }}<|im_end|>"),
        );
        let ids: Vec<u32> = ends.iter().map(|e| e.id).collect();
        assert_eq!(ids, [eot, 7, im_end]);
        assert_eq!(ends[0].reasons, ["generation_config.json eos_token_id", "the tokenizer's eos_token"]);
        assert_eq!(ends[2].reasons, ["the chat template ends turns with <|im_end|>"]);
        let ends = end_tokens(&tokenizer, None, Some(&json!({"eos_token_id": 5})), None);
        assert_eq!(ends.iter().map(|e| e.id).collect::<Vec<_>>(), [5, eot]);
    }

    #[test]
    fn harmony_messages_do_not_end_the_answer() {
        let tokenizer = tiny(&["<|return|>", "<|end|>"], json!({"eos_token": "<|return|>"}));
        let ends = end_tokens(&tokenizer, None, None, Some("x<|end|>y<|return|>"));
        assert_eq!(ends.iter().map(|e| e.text.as_deref().unwrap()).collect::<Vec<_>>(), ["<|return|>"]);
        let tokenizer = tiny(&["<|end|>"], json!({}));
        assert_eq!(end_tokens(&tokenizer, None, None, Some("x<|end|>")).len(), 1);
    }
}
