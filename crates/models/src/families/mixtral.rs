//! Mixtral: every layer a mixture of experts, shares by softmax over the chosen.

use serde::Deserialize;

use crate::spec::{Decoder, Experts, Layer, Mixer, Mlp, Residual, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Mixture {
    num_local_experts: usize,
    num_experts_per_tok: usize,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, mixture): (_, Mixture) = (config.common()?, config.read()?);
    let experts = Experts {
        count: mixture.num_local_experts,
        active: mixture.num_experts_per_tok,
        hidden: c.intermediate_size,
        act: c.act()?,
        router: Router::SoftmaxOfChosen,
    };
    let decoder = c.decoder(false, |_| {
        Ok(Layer {
            mixer: Some(Mixer::Attention(crate::spec::Attention {
                rope: Some(c.rope(1_000_000.0)?),
                ..c.attention()?
            })),
            mlp: Some(Mlp::Experts(experts.checked()?)),
            residual: Residual::PreNorm,
            norm: c.norm(),
        })
    })?;
    let renames =
        &[(".block_sparse_moe.", ".mlp."), (".w1.", ".gate_proj."), (".w2.", ".down_proj."), (".w3.", ".up_proj.")];
    Ok(Decoder { renames, ..decoder })
}
