//! Granite: Llama with a factor on embeddings, scores, residuals and logits.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Experts, Layer, Mlp, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    logits_scaling: f32,
    attention_multiplier: f32,
    embedding_multiplier: f32,
    residual_multiplier: f32,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    layers(config, c.mlp()?)
}

/// The same with a mixture in every layer.
pub(super) fn mixture(config: &Config) -> Result<Decoder> {
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let counts = [own.num_local_experts.unwrap_or(0), own.num_experts_per_tok.unwrap_or(0)];
    let experts = Experts::new(counts, c.gated()?, Router::softmax(true)).checked()?;
    let renames = &[
        (".block_sparse_moe.", ".mlp."),
        (".router.layer.", ".gate."),
        (".input_linear.", ".experts.gate_up_proj."),
        (".output_linear.", ".experts.down_proj."),
    ];
    Ok(Decoder { renames, ..layers(config, experts)? })
}

fn layers(config: &Config, mlp: Mlp) -> Result<Decoder> {
    let config = config.without(&["head_dim"]);
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let decoder = c.decoder(true, |_| {
        let attention = Attention { scale: own.attention_multiplier, ..c.attention()? };
        Ok(Layer { scales: [own.residual_multiplier; 2], ..c.layer(attention, mlp) })
    })?;
    let logit_scale = Some(1.0 / own.logits_scaling);
    Ok(Decoder { embed_scale: Some(own.embedding_multiplier), logit_scale, ..decoder })
}
