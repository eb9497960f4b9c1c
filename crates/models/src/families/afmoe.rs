//! AFMoE, Trinity: a gate on attention, windows with positions and full layers without, a sigmoid router.

use serde::Deserialize;
use serde_json::json;

use crate::config::Mixture;
use crate::spec::{Attention, Decoder, HeadGate, Layer, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    mup_enabled: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("score_func", &json!("sigmoid"))?;
    let renamed = [
        ("first_k_dense_replace", "num_dense_layers"),
        ("norm_topk_prob", "route_norm"),
        ("routed_scaling_factor", "route_scale"),
    ];
    let config = config.without(&["attention_bias", "mlp_bias"]).aliases(&renamed).defaults(json!({
        "vocab_size": 200_192, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 1024,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "num_experts": 128, "num_experts_per_tok": 8,
        "num_shared_experts": 1, "first_k_dense_replace": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.826,
        "sliding_window": 2048, "mup_enabled": true
    }));
    let (c, own, mixture): (_, Own, _) = (config.common()?, config.read()?, Mixture::read(&config)?);
    let (rope, qk_norm) = (c.rope(10_000.0)?, Some(c.norm().into()));
    let decoder = c.decoder(false, |index| {
        let window = c.window(index)?;
        let rope = window.map(|_| rope.clone());
        let attention = Attention { rope, qk_norm, window, gate: Some(HeadGate::Each), ..c.attention()? };
        Ok(Layer { residual: Residual::Sandwich, ..c.layer(attention, mixture.mlp(&c, index)?) })
    })?;
    let renames = &[
        (".pre_mlp_layernorm.", ".pre_feedforward_layernorm."),
        (".post_mlp_layernorm.", ".post_feedforward_layernorm."),
        (".mlp.router.gate.", ".mlp.gate."),
        (".mlp.expert_bias", ".mlp.gate.e_score_correction_bias"),
        Mixture::SHARED,
    ];
    let embed_scale = own.mup_enabled.then_some((c.hidden_size as f32).sqrt());
    Ok(Decoder { embed_scale, renames, ..decoder })
}
