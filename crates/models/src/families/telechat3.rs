//! TeleChat3: Llama with a head of its own.

use crate::spec::Decoder;
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    super::llama::decoder(&config.without(&["layer_types"]).or("tie_word_embeddings", false))
}
