//! OLMoE: every layer a mixture, one norm over all queries and one over all keys.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Experts, QkNorm, QkSpan, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Mixture {
    num_experts: usize,
    num_experts_per_tok: usize,
    #[serde(default)]
    norm_topk_prob: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, mixture): (_, Mixture) = (config.common()?, config.read()?);
    let qk_norm = Some(QkNorm { span: QkSpan::Projection, ..QkNorm::from(c.norm()) });
    let counts = [mixture.num_experts, mixture.num_experts_per_tok];
    let experts = Experts::new(counts, c.gated()?, Router::softmax(mixture.norm_topk_prob));
    c.decoder(true, |_| Ok(c.layer(Attention { qk_norm, ..c.attention()? }, experts.checked()?)))
}
