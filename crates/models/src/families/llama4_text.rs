//! MobileLLM-R1: some layers know no positions, and norms without weights on queries and keys.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Gated};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    intermediate_size_mlp: usize,
    no_rope_layers: Vec<u8>,
    use_qk_norm: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, own): (_, Own) = (config.without(&["attention_bias", "mlp_bias"]).common()?, config.read()?);
    let rope = c.plain_rope(10_000.0)?.neighbours();
    let qk_norm = own.use_qk_norm.then_some(c.norm().bare().into());
    let mlp = Gated { hidden: own.intermediate_size_mlp, ..c.gated()? };
    let decoder = c.decoder(false, |index| {
        let turns = own.no_rope_layers.get(index).is_none_or(|turns| *turns != 0);
        let rope = Some(rope.clone()).filter(|_| turns);
        Ok(c.layer(Attention { rope, qk_norm, ..c.attention()? }, mlp.into()))
    })?;
    Ok(Decoder { renames: &[(".feed_forward.", ".mlp."), ("^output.", "^lm_head.")], ..decoder })
}
