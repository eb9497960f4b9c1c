//! Qwen3-VL with experts, the text model.

use crate::spec::{Decoder, Head};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let text = config.text().or_key_of(config, "tie_word_embeddings");
    Ok(Decoder { head: Head::OwnIfPresent, ..super::qwen3_moe::decoder(&text)? })
}
