//! MiMo-V2-Flash: layers with a window have heads, a base and sinks of their own; values are smaller than keys, and scaled.

use serde::Deserialize;
use serde_json::json;

use crate::config::Common;
use crate::spec::{Attention, Decoder, Experts, Gated, Groups, Head, Layer, Router, Shared, Unit};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    num_experts_per_tok: usize,
    hybrid_layer_pattern: Vec<u8>,
    moe_layer_freq: Vec<u8>,
    add_swa_attention_sink_bias: bool,
    add_full_attention_sink_bias: bool,
    sliding_window_size: usize,
    moe_intermediate_size: usize,
    n_shared_experts: Option<usize>,
    n_routed_experts: Option<usize>,
    routed_scaling_factor: Option<f32>,
    norm_topk_prob: bool,
    n_group: usize,
    topk_group: usize,
    swa_rope_theta: f32,
    swa_num_attention_heads: usize,
    swa_num_key_value_heads: usize,
    swa_head_dim: usize,
    swa_v_head_dim: usize,
    v_head_dim: usize,
    attention_value_scale: Option<f32>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("rms_norm_eps", "layernorm_epsilon").without(&["attention_bias"]);
    config.only("topk_method", &json!("noaux_tc"))?;
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let sliding = Common {
        num_attention_heads: own.swa_num_attention_heads,
        num_key_value_heads: Some(own.swa_num_key_value_heads),
        head_dim: Some(own.swa_head_dim),
        rope_theta: Some(own.swa_rope_theta),
        ..c.clone()
    };
    sliding.check()?;
    let unit = |hidden| Ok::<_, crate::Error>(Gated { hidden, ..c.gated()? });
    let normalize = own.norm_topk_prob && own.num_experts_per_tok > 1;
    let router = Router {
        groups: Groups::of(own.n_group, own.topk_group, 2),
        ..Router::sigmoid(normalize, own.routed_scaling_factor.unwrap_or(1.0))
    };
    let shared = own.n_shared_experts.map(|count| unit(own.moe_intermediate_size.saturating_mul(count))).transpose()?;
    let experts = Experts {
        shared: shared.map(|unit| Shared { unit: Unit::Gated(unit), gate: false }),
        ..Experts::new(
            [own.n_routed_experts.unwrap_or(0), own.num_experts_per_tok],
            unit(own.moe_intermediate_size)?,
            router,
        )
    };
    let decoder = c.decoder(false, |index| {
        let slides = own.hybrid_layer_pattern.get(index) == Some(&1);
        let (c, sinks, value_dim) = match slides {
            true => (&sliding, own.add_swa_attention_sink_bias, own.swa_v_head_dim),
            false => (&c, own.add_full_attention_sink_bias, own.v_head_dim),
        };
        let window = slides.then_some(own.sliding_window_size.max(1));
        let rope = Some(c.plain_rope(10_000.0)?);
        let attention = Attention { sinks, value_dim, window, rope, ..c.attention()? };
        let mlp = if own.moe_layer_freq.get(index) == Some(&1) { experts.checked()? } else { c.mlp()? };
        Ok(Layer { scales: [own.attention_value_scale.unwrap_or(1.0), 1.0], ..c.layer(attention, mlp) })
    })?;
    let renames = &[(".attention_sink_bias", ".sinks"), (".shared_experts.", ".shared_expert.")];
    Ok(Decoder { head: Head::OwnIfPresent, renames, ..decoder })
}
