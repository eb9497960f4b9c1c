//! Solar Open: as GLM-4.5 without norms of queries and keys unless they are asked for.

use crate::spec::Decoder;
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    super::glm4_moe::decoder(&config.or("use_qk_norm", false).or("attention_bias", false))
}
