//! Phi-1 to Phi-2: attention and a unit side by side behind one norm, biases everywhere, the head included.

use mlxengine_tensor::Unary;
use serde_json::json;

use crate::spec::{Attention, Decoder, Head, Layer, Plain, Residual};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or_key("rms_norm_eps", "layer_norm_eps").without(&["head_dim"]).defaults(json!({
        "max_position_embeddings": 2048, "vocab_size": 51200, "hidden_size": 2560, "num_attention_heads": 32,
        "num_hidden_layers": 32, "partial_rotary_factor": 0.4, "intermediate_size": 10240, "rms_norm_eps": 1e-5
    }));
    let c = config.common()?;
    let norm = c.layer_norm(true);
    let rope = c.plain_rope(10_000.0)?;
    let mlp = Plain { hidden: c.intermediate_size, act: Unary::GeluTanh, bias: true };
    let decoder = c.decoder(false, |_| {
        let attention = Attention { qkv_bias: true, out_bias: true, rope: Some(rope.clone()), ..c.attention()? };
        Ok(Layer { residual: Residual::Parallel, norm, ..c.layer(attention, mlp.into()) })
    })?;
    let renames = &[
        (".self_attn.dense.", ".self_attn.o_proj."),
        (".mlp.fc1.", ".mlp.up_proj."),
        (".mlp.fc2.", ".mlp.down_proj."),
        ("^model.final_layernorm.", "^model.norm."),
    ];
    Ok(Decoder { norm, head: Head::Own, head_bias: true, renames, ..decoder })
}
