//! Mistral Small 3.1 and what else sees images and speaks by a Mistral or Llama of its own: the text model.

use crate::spec::Decoder;
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let text = config.text().or("tie_word_embeddings", false);
    match text.model_type() {
        "ministral3" | "mistral4" => super::decoder(&text),
        _ => super::llama::decoder(&text),
    }
}
