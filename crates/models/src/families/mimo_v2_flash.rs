//! MiMo-V2-Flash: layers with a window have heads, a base and sinks of their own; values are smaller than keys, and scaled.

use serde::Deserialize;

use crate::config::Mixture;
use crate::spec::{Attention, Decoder, Head, Layer};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    hybrid_layer_pattern: Vec<u8>,
    moe_layer_freq: Vec<u8>,
    add_swa_attention_sink_bias: bool,
    add_full_attention_sink_bias: bool,
    sliding_window_size: usize,
    swa_rope_theta: f32,
    swa_num_attention_heads: usize,
    swa_num_key_value_heads: usize,
    swa_head_dim: usize,
    swa_v_head_dim: usize,
    v_head_dim: usize,
    attention_value_scale: Option<f32>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("rms_norm_eps", "layernorm_epsilon").without(&["attention_bias", "mlp_bias"]);
    let (c, own, mixture): (_, Own, _) = (config.common()?, config.read()?, Mixture::read(&config)?);
    let mut sliding = c.with_heads([own.swa_num_attention_heads, own.swa_num_key_value_heads])?;
    (sliding.head_dim, sliding.rope_theta) = (Some(own.swa_head_dim), Some(own.swa_rope_theta));
    sliding.check()?;
    let decoder = c.decoder(false, |index| {
        let slides = own.hybrid_layer_pattern.get(index) == Some(&1);
        let (heads, sinks, value_dim) = match slides {
            true => (&sliding, own.add_swa_attention_sink_bias, own.swa_v_head_dim),
            false => (&c, own.add_full_attention_sink_bias, own.v_head_dim),
        };
        let window = slides.then_some(own.sliding_window_size.max(1));
        let rope = Some(heads.plain_rope(10_000.0)?);
        let attention = Attention { sinks, value_dim, window, rope, ..heads.attention()? };
        let sparse = own.moe_layer_freq.get(index) == Some(&1);
        let mlp = if sparse { mixture.experts(&c)?.checked()? } else { c.mlp()? };
        Ok(Layer { scales: [own.attention_value_scale.unwrap_or(1.0), 1.0], ..c.layer(attention, mlp) })
    })?;
    let renames = &[(".attention_sink_bias", ".sinks"), Mixture::SHARED];
    Ok(Decoder { head: Head::OwnIfPresent, renames, ..decoder })
}
