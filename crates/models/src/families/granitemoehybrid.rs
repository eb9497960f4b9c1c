//! Granite 4: state spaces and attention, experts beside a unit that works on every token, or one unit alone.

use serde::Deserialize;
use serde_json::json;

use super::mamba2::state_space;
use crate::spec::{Attention, Decoder, Experts, GateNorm, Gated, Layer, Mixer, Projection, Router, Shared, Unit};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Keys {
    embedding_multiplier: f32,
    attention_multiplier: f32,
    logits_scaling: f32,
    residual_multiplier: f32,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    shared_intermediate_size: Option<usize>,
    position_embedding_type: Option<String>,
}

const RENAMES: &[(&str, &str)] = &[
    (".mamba.", ".state_space."),
    (".block_sparse_moe.router.layer.", ".mlp.gate."),
    (".block_sparse_moe.input_linear.", ".mlp.experts.gate_up_proj."),
    (".block_sparse_moe.output_linear.", ".mlp.experts.down_proj."),
    (".block_sparse_moe.", ".mlp."),
    (".shared_mlp.input_linear.", ".mlp.shared_expert.gate_up_proj."),
    (".shared_mlp.output_linear.", ".mlp.shared_expert.down_proj."),
];
const DENSE: &[(&str, &str)] = &[
    (".mamba.", ".state_space."),
    (".shared_mlp.input_linear.", ".mlp.gate_up_proj."),
    (".shared_mlp.output_linear.", ".mlp.down_proj."),
];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["rope_scaling", "head_dim"]).or("time_step_limit", json!([0.001, 100.0]));
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    let rope = (keys.position_embedding_type.as_deref() != Some("nope")).then(|| c.plain_rope(10_000.0)).transpose()?;
    let attention = Attention { rope, scale: keys.attention_multiplier, ..c.attention()? };
    let sparse = keys.num_local_experts.filter(|count| *count > 0);
    let mlp = match sparse {
        Some(count) => {
            let unit = Gated { bias: false, ..c.gated()? };
            let hidden = keys.shared_intermediate_size.unwrap_or(0);
            let shared = Gated { hidden, projection: Projection::Joined, ..unit };
            let shared = Some(Shared { unit: Unit::Gated(shared), gated: false });
            let counts = [count, keys.num_experts_per_tok.unwrap_or(0)];
            Experts { shared, ..Experts::new(counts, unit, Router::softmax(true)) }.checked()?
        }
        None => c.mlp()?,
    };
    let norm = GateNorm { eps: c.rms_norm_eps, groups: 1, before_gate: false };
    let types = c.layer_types.clone().unwrap_or_default();
    let decoder = c.decoder(true, |index| {
        let mut layer = Layer { scales: [keys.residual_multiplier; 2], ..c.layer(attention.clone(), mlp) };
        if types.get(index).is_some_and(|name| name == "mamba") {
            layer.mixer = Some(Mixer::ScalarStateSpace(state_space(&config, Some(norm))?));
        }
        Ok(layer)
    })?;
    let renames = if sparse.is_some() { RENAMES } else { DENSE };
    let (embed_scale, logit_scale) = (Some(keys.embedding_multiplier), Some(1.0 / keys.logits_scaling));
    Ok(Decoder { embed_scale, logit_scale, renames, ..decoder })
}
