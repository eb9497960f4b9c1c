//! Phixtral: Phi-2 whose unit is a mixture of such units.

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Experts, Head, Layer, Plain, Projection, Residual, Router, Unit};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    num_local_experts: usize,
    num_experts_per_tok: usize,
    rotary_dim: usize,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    // The reference knows these keys and no others: an epsilon, a base or a size under other names changes nothing.
    let keys = ["num_vocab", "model_dim", "num_heads", "num_layers"];
    let own = ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"];
    let config = config.without(&own).without(&["head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta"]);
    let config = config.without(&["rope_scaling", "rope_parameters", "partial_rotary_factor"]).defaults(json!({
        "num_vocab": 51_200, "model_dim": 2560, "num_heads": 32, "num_layers": 32, "rotary_dim": 32,
        "num_experts_per_tok": 2, "num_local_experts": 4, "rms_norm_eps": 1e-5
    }));
    let names = ["vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers"];
    let config = names.iter().zip(keys).fold(config, |config, (name, key)| config.or_key(name, key));
    let dim = config.get("hidden_size").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let config = config.or("intermediate_size", dim.saturating_mul(4));
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let norm = c.layer_norm(true);
    let rope = c.rope_of(own.rotary_dim, 10_000.0)?;
    let unit = Plain { hidden: c.intermediate_size, act: Unary::GeluTanh, bias: true };
    let gated = c.gated()?;
    let counts = [own.num_local_experts, own.num_experts_per_tok];
    let experts = Experts { unit: Unit::Plain(unit), ..Experts::new(counts, gated, Router::softmax(true)) };
    let decoder = c.decoder(false, |_| {
        let attention = Attention {
            projection: Projection::Joined,
            qkv_bias: true,
            out_bias: true,
            rope: Some(rope.clone()),
            ..c.attention()?
        };
        Ok(Layer { residual: Residual::Parallel, norm, ..c.layer(attention, experts.checked()?) })
    })?;
    Ok(Decoder { norm, head: Head::Own, head_bias: true, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    ("^transformer.h.", "^model.layers."),
    ("^transformer.embd.wte.", "^model.embed_tokens."),
    ("^lm_head.ln.", "^model.norm."),
    ("^lm_head.linear.", "^lm_head."),
    (".ln.", ".input_layernorm."),
    (".mixer.Wqkv.", ".self_attn.qkv_proj."),
    (".mixer.out_proj.", ".self_attn.o_proj."),
    (".moe.mlp.", ".mlp.experts."),
    (".moe.", ".mlp."),
    (".fc1.", ".up_proj."),
    (".fc2.", ".down_proj."),
];
