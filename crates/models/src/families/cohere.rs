//! Command R: attention and a gated unit side by side behind one norm, neighbours turn, logits scaled.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Head, Layer, QkNorm, QkSpan, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    #[serde(default)]
    layer_norm_bias: bool,
    #[serde(default)]
    use_qk_norm: bool,
    logit_scale: f32,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("rms_norm_eps", "layer_norm_eps").without(&["head_dim"]).defaults(json!({
        "hidden_size": 8192, "num_hidden_layers": 40, "intermediate_size": 22528, "num_attention_heads": 64,
        "num_key_value_heads": 64, "vocab_size": 256_000, "rms_norm_eps": 1e-5, "logit_scale": 0.0625
    }));
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let norm = c.layer_norm(own.layer_norm_bias);
    let rope = c.plain_rope(8_000_000.0)?.neighbours();
    let qk_norm = own.use_qk_norm.then_some(QkNorm { span: QkSpan::EachHead, ..QkNorm::from(c.layer_norm(false)) });
    let decoder = c.decoder(true, |_| {
        let attention = Attention { rope: Some(rope.clone()), qk_norm, ..c.attention()? };
        Ok(Layer { residual: Residual::Parallel, norm, ..c.layer(attention, c.mlp()?) })
    })?;
    Ok(Decoder { norm, head: Head::Tied, logit_scale: Some(own.logit_scale), ..decoder })
}
