//! Qwen2-VL and Qwen2.5-VL, the text model: its rotations count text alone as Qwen2 does.

use crate::spec::Decoder;
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    super::qwen2::decoder(&config.text().or_key_of(config, "tie_word_embeddings"))
}
