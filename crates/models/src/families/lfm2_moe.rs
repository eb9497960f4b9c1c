//! LFM2 with experts in all but the first layers, chosen by sigmoids.

use serde::Deserialize;

use super::lfm2;
use crate::spec::{Decoder, Experts, Gated, Layer, Mlp, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Mixture {
    moe_intermediate_size: usize,
    num_experts: usize,
    num_experts_per_tok: usize,
    norm_topk_prob: bool,
    use_expert_bias: bool,
    num_dense_layers: usize,
    routed_scaling_factor: Option<f32>,
}

const RENAMES: &[(&str, &str)] = &[
    ("q_layernorm", "q_norm"),
    ("k_layernorm", "k_norm"),
    ("self_attn.out_proj", "self_attn.o_proj"),
    ("operator_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("embedding_norm", "norm"),
    (".feed_forward.expert_bias", ".mlp.gate.e_score_correction_bias"),
    (".feed_forward.", ".mlp."),
    (".w1.", ".gate_proj."),
    (".w2.", ".down_proj."),
    (".w3.", ".up_proj."),
];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or("block_multiple_of", 1).without(&["block_auto_adjust_ff_dim", "block_ff_dim"]);
    let config = config.or("block_auto_adjust_ff_dim", false);
    let (mixture, mut decoder): (Mixture, _) = (config.read()?, lfm2::decoder(&config)?);
    let router = Router {
        correction: mixture.use_expert_bias,
        eps: 1e-6,
        ..Router::sigmoid(mixture.norm_topk_prob, mixture.routed_scaling_factor.unwrap_or(1.0))
    };
    let unit =
        Gated { hidden: mixture.moe_intermediate_size, ..config.or_key("rms_norm_eps", "norm_eps").common()?.gated()? };
    let mlp: Mlp = Experts::new([mixture.num_experts, mixture.num_experts_per_tok], unit, router).checked()?;
    for layer in decoder.layers.iter_mut().skip(mixture.num_dense_layers) {
        *layer = Layer { mlp: Some(mlp), ..layer.clone() };
    }
    Ok(Decoder { renames: RENAMES, ..decoder })
}
