//! MiniMax M3, text: attention over blocks that an index chooses, and experts chosen by corrected sigmoids.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{
    Attention, BlockSparse, Decoder, Experts, Gate, Gated, Layer, Mixer, Norm, Rope, Router, Shared, Unit,
};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Keys {
    dense_intermediate_size: usize,
    shared_intermediate_size: usize,
    num_local_experts: usize,
    num_experts_per_tok: usize,
    routed_scaling_factor: f32,
    use_qk_norm: bool,
    use_gemma_norm: bool,
    swiglu_alpha: f32,
    swiglu_limit: f32,
    rotary_dim: Option<usize>,
    index_n_heads: Option<usize>,
    index_head_dim: Option<usize>,
    index_block_size: Option<usize>,
    index_topk_blocks: Option<usize>,
    index_local_blocks: Option<usize>,
}

/// Keys, and where they lie in published files.
const DEEP: &[(&str, &str, &str)] = &[
    ("index_n_heads", "sparse_attention_config", "sparse_num_index_heads"),
    ("index_head_dim", "sparse_attention_config", "sparse_index_dim"),
    ("index_block_size", "sparse_attention_config", "sparse_block_size"),
    ("index_topk_blocks", "sparse_attention_config", "sparse_topk_blocks"),
    ("index_local_blocks", "sparse_attention_config", "sparse_local_block"),
    ("sparse_attention_freq", "sparse_attention_config", "sparse_attention_freq"),
    ("rope_theta", "rope_parameters", "rope_theta"),
    ("partial_rotary_factor", "rope_parameters", "partial_rotary_factor"),
];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let all = config.text().lifted(DEEP);
    let config = all.without(&["layer_types", "mlp_bias", "attention_bias", "hidden_act", "rope_scaling"]);
    let config = config.defaults(json!({
        "rms_norm_eps": 1e-6, "rope_theta": 5e6, "head_dim": 128, "partial_rotary_factor": 0.5, "use_qk_norm": true,
        "use_gemma_norm": true, "routed_scaling_factor": 2.0, "swiglu_alpha": 1.702, "swiglu_limit": 7.0,
    }));
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    let norm = Norm { offset: if keys.use_gemma_norm { 1.0 } else { 0.0 }, ..c.norm() };
    let mut rope = c.rope(5e6)?;
    rope.dims = keys.rotary_dim.unwrap_or(rope.dims);
    let qk_norm = keys.use_qk_norm.then(|| norm.into());
    let attention = Attention { qk_norm, rope: Some(rope.clone()), ..c.attention()? };
    let sparse = BlockSparse {
        attention: attention.clone(),
        heads: keys.index_n_heads.unwrap_or(0),
        head_dim: keys.index_head_dim.unwrap_or(0),
        block: keys.index_block_size.unwrap_or(0),
        top: keys.index_topk_blocks.unwrap_or(0),
        local: keys.index_local_blocks.unwrap_or(1),
        norm,
        rope: Rope { dims: rope.dims.min(keys.index_head_dim.unwrap_or(0)), ..rope },
    };
    let act = Gate::ClampedSwish { alpha: keys.swiglu_alpha, limit: keys.swiglu_limit, shift: 1.0 };
    let unit = |hidden| Ok::<_, Error>(Gated { hidden, act, ..c.gated()? });
    let shared = Some(Shared { unit: Unit::Gated(unit(keys.shared_intermediate_size)?), gated: false });
    let (counts, router) =
        ([keys.num_local_experts, keys.num_experts_per_tok], Router::sigmoid(true, keys.routed_scaling_factor));
    let experts = Experts { shared, ..Experts::new(counts, unit(c.intermediate_size)?, router) };
    let decoder = c.decoder(false, |index| {
        let mixture = all.marks(["mlp_layer_types", "moe_layer_freq"], |name| name == "sparse", index);
        let mlp = if mixture { experts.checked()? } else { unit(keys.dense_intermediate_size)?.into() };
        let layer = Layer { norm, ..c.layer(attention.clone(), mlp) };
        let chooses = all.marks(["layer_types", "sparse_attention_freq"], |name| name != "full_attention", index);
        let mixer = || Ok::<_, Error>(Some(Mixer::BlockSparse(sparse.clone().checked()?)));
        Ok(if keys.index_block_size.is_some() && chooses { Layer { mixer: mixer()?, ..layer } } else { layer })
    })?;
    Ok(Decoder { norm, renames: super::kimi_linear::RENAMES, ..decoder })
}
