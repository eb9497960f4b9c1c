//! DeepSeek V3.2, and GLM with its attention: an indexer chooses the positions that are attended to.

use serde::Deserialize;

use crate::config::within;
use crate::spec::{Decoder, Indexer, Rope};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Keys {
    index_head_dim: Option<usize>,
    index_n_heads: Option<usize>,
    index_topk: Option<usize>,
    indexer_rope_interleave: Option<bool>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    // GLM's has its positions in one place, and turns neighbours.
    let glm = config.model_type() == "glm_moe_dsa";
    let config = if glm { config.without(&["rope_theta", "rope_scaling"]) } else { config.clone() };
    let keys: Keys = config.read()?;
    super::deepseek_v3::indexed(&config, |c| {
        let head_dim = within("index_head_dim", keys.index_head_dim.unwrap_or(128))?;
        let rope = c.rope(10_000.0)?;
        if rope.dims > head_dim {
            return Err(Error::invalid(format!("config.json: {} of index_head_dim {head_dim} cannot turn", rope.dims)));
        }
        Ok(Some(Indexer {
            heads: within("index_n_heads", keys.index_n_heads.unwrap_or(64))?,
            head_dim,
            top: within("index_topk", keys.index_topk.unwrap_or(2048))?,
            rope: Rope { traditional: keys.indexer_rope_interleave.unwrap_or(glm), ..rope },
        }))
    })
}
