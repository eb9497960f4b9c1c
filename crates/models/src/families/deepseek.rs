//! DeepSeek-MoE, the first: Llama with a mixture beside shared experts in most layers.

use serde::Deserialize;
use serde_json::json;

use crate::config::Mixture;
use crate::spec::{Decoder, Experts, Head, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    first_k_dense_replace: usize,
    moe_layer_freq: usize,
    n_routed_experts: Option<usize>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "mlp_bias", "topk_method", "norm_topk_prob"]).defaults(json!({
        "vocab_size": 102_400, "hidden_size": 4096, "intermediate_size": 11008, "moe_intermediate_size": 1407,
        "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 32, "moe_layer_freq": 1,
        "first_k_dense_replace": 0, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "num_experts_per_tok": 0
    }));
    let (c, own, mixture): (_, Own, _) = (config.common()?, config.read()?, Mixture::read(&config)?);
    let decoder = c.decoder(false, |index| {
        let step = index.is_multiple_of(own.moe_layer_freq.max(1));
        let sparse = own.n_routed_experts.is_some() && index >= own.first_k_dense_replace && step;
        let experts = Experts { router: Router::softmax(false), ..mixture.experts(&c)? };
        Ok(c.layer(c.attention()?, if sparse { experts.checked()? } else { c.mlp()? }))
    })?;
    Ok(Decoder { head: Head::OwnIfPresent, renames: &[Mixture::SHARED], ..decoder })
}
