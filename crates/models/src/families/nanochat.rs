//! Nanochat: norms without weights, also of embeddings and of queries and keys after their rotation, which goes backwards.

use mlxengine_tensor::Unary;
use serde_json::json;

use crate::spec::{Attention, Decoder, Head, Layer, Plain, QkNorm, Rope};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    // The reference reads neither the epsilon nor anything of the head's size, of biases, stretches and functions.
    let config = config.without(&["head_dim", "attention_bias", "mlp_bias", "rope_scaling", "rope_parameters"]);
    let config = config.without(&["rms_norm_eps", "partial_rotary_factor", "hidden_act"]).defaults(json!({
        "hidden_size": 1280, "num_hidden_layers": 20, "num_attention_heads": 10, "num_key_value_heads": 10,
        "vocab_size": 65_536, "max_position_embeddings": 2048, "intermediate_size": 5120, "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-5
    }));
    let c = config.common()?;
    let norm = c.norm().bare();
    let rope = Rope { backwards: true, ..c.rope(10_000.0)? };
    let unit = Plain { hidden: c.intermediate_size, act: Unary::Relu2, bias: false };
    let decoder = c.decoder(false, |_| {
        let qk_norm = Some(QkNorm { turned: true, ..norm.into() });
        let attention = Attention { qk_norm, rope: Some(rope.clone()), ..c.attention()? };
        Ok(Layer { norm, ..c.layer(attention, unit.into()) })
    })?;
    Ok(Decoder {
        norm,
        embed_norm: Some(norm),
        head: Head::Own,
        logit_softcap: Some(15.0),
        renames: RENAMES,
        ..decoder
    })
}

const RENAMES: &[(&str, &str)] = &[
    ("^transformer.h.", "^model.layers."),
    ("^transformer.wte.", "^model.embed_tokens."),
    (".attn.c_q.", ".self_attn.q_proj."),
    (".attn.c_k.", ".self_attn.k_proj."),
    (".attn.c_v.", ".self_attn.v_proj."),
    (".attn.c_proj.", ".self_attn.o_proj."),
    (".mlp.c_fc.", ".mlp.up_proj."),
    (".mlp.c_proj.", ".mlp.down_proj."),
];
