//! Llama, and what is Llama under another name: Mistral. A `sliding_window` counts only where `layer_types` uses it, as in
//! the reference.

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    c.decoder(true, |index| Ok(c.layer(Attention { window: c.window(index)?, ..c.attention()? }, c.mlp()?)))
}
