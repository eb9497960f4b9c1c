//! GPT-J: both halves of a layer side by side behind one norm, neighbours turn in a part of each head.

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Head, Layer, Plain, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    n_embd: usize,
    rotary_dim: usize,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.defaults(json!({
        "n_embd": 4096, "vocab_size": 50400, "layer_norm_epsilon": 1e-5, "n_positions": 2048, "n_head": 16,
        "rotary_dim": 64, "n_layer": 28
    }));
    let own: Own = config.read()?;
    let config = config.without(&["head_dim", "num_key_value_heads"]).aliases(super::gpt2::KEYS);
    let c = config.or("intermediate_size", own.n_embd.saturating_mul(4)).common()?;
    let norm = c.layer_norm(true);
    let dims = if own.rotary_dim == 0 { c.head_dim() } else { own.rotary_dim };
    let rope = c.rope_of(dims, 10_000.0)?.neighbours();
    let mlp = Plain { hidden: c.intermediate_size, act: Unary::GeluTanh, bias: true };
    let decoder = c.decoder(false, |_| {
        let attention = Attention { rope: Some(rope.clone()), ..c.attention()? };
        Ok(Layer { residual: Residual::Parallel, norm, ..c.layer(attention, mlp.into()) })
    })?;
    Ok(Decoder { norm, head: Head::Own, head_bias: true, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    ("^transformer.", "^model."),
    ("^model.h.", "^model.layers."),
    ("^model.wte.", "^model.embed_tokens."),
    ("^model.ln_f.", "^model.norm."),
    (".ln_1.", ".input_layernorm."),
    (".attn.out_proj.", ".self_attn.o_proj."),
    (".attn.", ".self_attn."),
    (".mlp.fc_in.", ".mlp.up_proj."),
    (".mlp.fc_out.", ".mlp.down_proj."),
];
