//! Qwen3-VL, the text model: its rotations count text alone as Qwen3 does.

use crate::spec::Decoder;
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    super::qwen3::decoder(&config.text().or_key_of(config, "tie_word_embeddings"))
}
