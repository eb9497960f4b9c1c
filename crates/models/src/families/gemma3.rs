//! Gemma 3 that sees images: the text model.

use serde_json::json;

use crate::spec::Decoder;
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let text = config.text().defaults(json!({"num_attention_heads": 8, "num_key_value_heads": 4}));
    let vocab = config.or_key_of(&text, "vocab_size").or("vocab_size", 262_208);
    super::gemma3_text::decoder(&text.without(&["vocab_size"]).or_key_of(&vocab, "vocab_size"))
}
