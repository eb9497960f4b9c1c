//! Mixtral: every layer a mixture of experts, shares by softmax over the chosen.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Experts, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Mixture {
    num_local_experts: usize,
    num_experts_per_tok: usize,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, mixture): (_, Mixture) = (config.common()?, config.read()?);
    let counts = [mixture.num_local_experts, mixture.num_experts_per_tok];
    let experts = Experts::new(counts, c.gated()?, Router::softmax(true));
    let rope = c.rope(1_000_000.0)?;
    let decoder =
        c.decoder(
            false,
            |_| Ok(c.layer(Attention { rope: Some(rope.clone()), ..c.attention()? }, experts.checked()?)),
        )?;
    let renames =
        &[(".block_sparse_moe.", ".mlp."), (".w1.", ".gate_proj."), (".w2.", ".down_proj."), (".w3.", ".up_proj.")];
    Ok(Decoder { renames, ..decoder })
}
