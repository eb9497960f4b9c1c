//! InternLM2: queries, keys and values joined by groups, under other names.

use crate::spec::{Attention, Decoder, Projection};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "attention_bias", "mlp_bias"]);
    let c = config.or_key("attention_bias", "bias").or("attention_bias", true).common()?;
    let decoder =
        c.decoder(false, |_| Ok(c.layer(Attention { projection: Projection::Grouped, ..c.attention()? }, c.mlp()?)))?;
    let renames = &[
        ("^model.tok_embeddings.", "^model.embed_tokens."),
        ("^output.", "^lm_head."),
        (".attention.wqkv.", ".self_attn.qkv_proj."),
        (".attention.wo.", ".self_attn.o_proj."),
        (".feed_forward.w1.", ".mlp.gate_proj."),
        (".feed_forward.w3.", ".mlp.up_proj."),
        (".feed_forward.w2.", ".mlp.down_proj."),
        (".attention_norm.", ".input_layernorm."),
        (".ffn_norm.", ".post_attention_layernorm."),
    ];
    Ok(Decoder { renames, ..decoder })
}
