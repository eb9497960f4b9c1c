//! GPT-NeoX and Pythia: both halves of a layer side by side, each behind a norm of its own; joined projections by heads.

use mlxengine_tensor::Unary;
use serde::Deserialize;

use crate::spec::{Attention, Decoder, Head, Layer, Plain, Projection, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    hidden_size: usize,
    use_parallel_residual: Option<bool>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let own: Own = config.read()?;
    let config = config
        .without(&["head_dim", "num_key_value_heads", "intermediate_size"])
        .aliases(&[
            ("rms_norm_eps", "layer_norm_eps"),
            ("rope_theta", "rotary_emb_base"),
            ("partial_rotary_factor", "rotary_pct"),
        ])
        .or("intermediate_size", own.hidden_size.saturating_mul(4));
    let c = config.common()?;
    let (norm, rope) = (c.layer_norm(true), c.plain_rope(10_000.0)?);
    let parallel = own.use_parallel_residual.unwrap_or(true);
    let residual = if parallel { Residual::ParallelNorms } else { Residual::PreNorm };
    let mlp = Plain { hidden: c.intermediate_size, act: Unary::GeluTanh, bias: true };
    let decoder = c.decoder(false, |_| {
        let projection = Projection::Grouped;
        let rope = Some(rope.clone());
        let attention = Attention { projection, qkv_bias: true, out_bias: true, rope, ..c.attention()? };
        Ok(Layer { residual, norm, ..c.layer(attention, mlp.into()) })
    })?;
    Ok(Decoder { norm, head: Head::Own, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    ("^gpt_neox.", "^model."),
    ("^model.h.", "^model.layers."),
    ("^model.embed_in.", "^model.embed_tokens."),
    ("^model.embed_out.", "^lm_head."),
    ("^embed_out.", "^lm_head."),
    ("^model.final_layer_norm.", "^model.norm."),
    (".attention.query_key_value.", ".self_attn.qkv_proj."),
    (".attention.dense.", ".self_attn.o_proj."),
    (".dense_h_to_4h.", ".up_proj."),
    (".dense_4h_to_h.", ".down_proj."),
];
