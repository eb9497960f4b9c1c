//! StarCoder2: norms with mean and bias, units without gates, biases everywhere. Its sliding window is inert and its unit
//! the exact GELU, as in the reference.

use mlxengine_tensor::Unary;
use serde_json::json;

use crate::spec::{Attention, Decoder, Layer, Plain};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("rms_norm_eps", "norm_epsilon").without(&["head_dim"]);
    let c = config.defaults(json!({"rms_norm_eps": 1e-5, "vocab_size": 49152})).common()?;
    let norm = c.layer_norm(true);
    let rope = c.plain_rope(100_000.0)?;
    let mlp = Plain { hidden: c.intermediate_size, act: Unary::Gelu, bias: true };
    let decoder = c.decoder(true, |_| {
        let attention = Attention { qkv_bias: true, out_bias: true, rope: Some(rope.clone()), ..c.attention()? };
        Ok(Layer { norm, ..c.layer(attention, mlp.into()) })
    })?;
    let renames = &[(".mlp.c_fc.", ".mlp.up_proj."), (".mlp.c_proj.", ".mlp.down_proj.")];
    Ok(Decoder { norm, renames, ..decoder })
}
