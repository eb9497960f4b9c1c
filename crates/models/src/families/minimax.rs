//! MiniMax-M2: one norm over all queries and one over all keys, a part of each head turns, a sigmoid router.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Experts, QkNorm, QkSpan, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    num_local_experts: usize,
    num_experts_per_tok: usize,
    rotary_dim: usize,
    use_qk_norm: Option<bool>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("scoring_func", &json!("sigmoid"))?;
    let config = config.without(&["attention_bias", "mlp_bias", "layer_types", "rope_scaling"]);
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let rope = c.rope_of(own.rotary_dim, c.rope_theta.unwrap_or(10_000.0))?;
    let qk_norm = QkNorm { span: QkSpan::Projection, ..QkNorm::from(c.norm()) };
    let qk_norm = own.use_qk_norm.unwrap_or(true).then_some(qk_norm);
    let counts = [own.num_local_experts, own.num_experts_per_tok];
    let experts = Experts::new(counts, c.gated()?, Router::sigmoid(true, 1.0)).checked()?;
    let decoder =
        c.decoder(false, |_| Ok(c.layer(Attention { rope: Some(rope.clone()), qk_norm, ..c.attention()? }, experts)))?;
    let renames = &[
        (".block_sparse_moe.e_score_correction_bias", ".mlp.gate.e_score_correction_bias"),
        (".block_sparse_moe.", ".mlp."),
        (".w1.", ".gate_proj."),
        (".w2.", ".down_proj."),
        (".w3.", ".up_proj."),
    ];
    Ok(Decoder { more_layers: true, renames, ..decoder })
}
