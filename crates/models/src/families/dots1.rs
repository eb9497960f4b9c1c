//! dots.llm1: Qwen3's attention and a sigmoid router over experts beside shared ones.

use crate::config::Mixture;
use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["attention_bias", "topk_method"]);
    let (c, mixture) = (config.common()?, Mixture::read(&config)?);
    let qk_norm = Some(c.norm().into());
    let decoder =
        c.decoder(false, |index| Ok(c.layer(Attention { qk_norm, ..c.attention()? }, mixture.mlp(&c, index)?)))?;
    Ok(Decoder { renames: &[Mixture::SHARED], ..decoder })
}
