//! EXAONE 3: Llama under other names.

use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.aliases(&[("num_hidden_layers", "num_layers"), ("rms_norm_eps", "layer_norm_epsilon")]);
    let c = config.common()?;
    let rope = c.rope(10_000.0)?;
    let decoder =
        c.decoder(true, |_| Ok(c.layer(Attention { rope: Some(rope.clone()), ..c.attention()? }, c.mlp()?)))?;
    let renames = &[
        ("^transformer.h.", "^model.layers."),
        ("^transformer.wte.", "^model.embed_tokens."),
        ("^transformer.ln_f.", "^model.norm."),
        (".attn.attention.", ".self_attn."),
        (".out_proj.", ".o_proj."),
        (".ln_1.", ".input_layernorm."),
        (".ln_2.", ".post_attention_layernorm."),
        (".c_fc_0.", ".gate_proj."),
        (".c_fc_1.", ".up_proj."),
        (".mlp.c_proj.", ".mlp.down_proj."),
    ];
    Ok(Decoder { renames, ..decoder })
}
