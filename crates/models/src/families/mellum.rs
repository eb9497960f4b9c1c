//! Mellum with experts: windows and full layers each with rotations of their own, every layer a mixture.

use serde::Deserialize;
use serde_json::Value;

use crate::config::Common;
use crate::spec::{Attention, Decoder, Experts, Gated, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    num_experts: usize,
    num_experts_per_tok: usize,
    moe_intermediate_size: usize,
    norm_topk_prob: bool,
    rope_parameters: Value,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["attention_bias", "mlp_bias", "rope_scaling", "rope_theta"]);
    let (c, own): (_, Own) = (config.without(&["rope_parameters"]).common()?, config.read()?);
    let unit = Gated { hidden: own.moe_intermediate_size, ..c.gated()? };
    let counts = [own.num_experts, own.num_experts_per_tok];
    let experts = Experts::new(counts, unit, Router::softmax(own.norm_topk_prob)).checked()?;
    let qk_norm = Some(c.norm().into());
    c.decoder(false, |index| {
        let window = c.window(index)?;
        let kind = if window.is_some() { "sliding_attention" } else { "full_attention" };
        let turns = Common { rope_parameters: own.rope_parameters.get(kind).cloned(), ..c.clone() };
        let kind = turns.rope_parameters.as_ref().and_then(|p| p.get("rope_type")).and_then(Value::as_str);
        // The reference stretches nothing linearly here.
        let plain = matches!(kind, None | Some("default" | "linear"));
        let rope = Some(if plain { turns.plain_rope(10_000.0)? } else { turns.rope(10_000.0)? });
        Ok(c.layer(Attention { rope, qk_norm, window, ..c.attention()? }, experts))
    })
}
