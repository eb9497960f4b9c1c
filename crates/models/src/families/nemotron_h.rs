//! Nemotron H: layers of one half each, a state space, attention without positions, or a unit, in the order of a pattern.

use mlxengine_tensor::Unary;
use serde_json::{Value, json};

use super::mamba2::state_space;
use crate::spec::{Attention, Decoder, ExpertLatent, Experts, GateNorm, Head, Layer, Mixer, Plain, Shared, Unit};
use crate::{Config, Error, Result};

const ALIASES: &[(&str, &str)] = &[
    ("mamba_n_heads", "mamba_num_heads"),
    ("mamba_d_head", "mamba_head_dim"),
    ("mamba_n_groups", "n_groups"),
    ("mamba_d_state", "ssm_state_size"),
    ("mamba_d_conv", "conv_kernel"),
    ("mamba_conv_bias", "use_conv_bias"),
    ("rms_norm_eps", "layer_norm_epsilon"),
];

const RENAMES: &[(&str, &str)] = &[
    ("^backbone.", "^model."),
    (".embeddings.", ".embed_tokens."),
    (".norm_f.", ".norm."),
    (".shared_experts.", ".shared_expert."),
    (".fc1_latent_proj.", ".latent_down."),
    (".fc2_latent_proj.", ".latent_up."),
    (".switch_mlp.fc1.", ".switch_mlp.up_proj."),
    (".switch_mlp.fc2.", ".switch_mlp.down_proj."),
];

/// One letter a layer.
fn pattern(config: &Config) -> Result<Vec<char>> {
    let letter = |name: &Value| match name.as_str() {
        Some("M" | "linear_attention" | "mamba" | "conv") => Ok('M'),
        Some("*" | "full_attention" | "attention") => Ok('*'),
        Some("-" | "mlp") => Ok('-'),
        Some("E" | "moe") => Ok('E'),
        _ => Err(Error::unsupported(format!("config.json: a layer is {name}, which is not supported"))),
    };
    let names = ["layers_block_type", "layer_types"].map(|name| ("hybrid_override_pattern", name));
    match config.aliases(&names).get("hybrid_override_pattern") {
        Some(Value::String(text)) => text.chars().map(|c| letter(&json!(c.to_string()))).collect(),
        Some(Value::Array(names)) => names.iter().map(letter).collect(),
        _ => Err(Error::invalid("config.json has neither `hybrid_override_pattern` nor `layers_block_type`")),
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let pattern = pattern(config)?;
    let config = config.without(&["rms_norm_eps", "num_hidden_layers", "layer_types", "rope_scaling"]);
    let config = config.aliases(ALIASES).or("num_hidden_layers", pattern.len());
    let (c, mixture) = (config.common()?, config.mixture()?);
    let groups = state_space(&config, None)?.groups;
    let mamba = state_space(&config, Some(GateNorm { eps: c.rms_norm_eps, groups, before_gate: false }))?;
    let unit = |hidden| Plain { hidden, act: Unary::Relu2, bias: c.mlp_bias };
    let experts = || {
        let size = mixture.moe_shared_expert_intermediate_size.filter(|_| mixture.n_shared_experts.is_some());
        let shared = size.map(|hidden| Shared { unit: Unit::Plain(unit(hidden)), gated: false });
        let counts = [mixture.n_routed_experts.unwrap_or(0), mixture.num_experts_per_tok.unwrap_or(0)];
        let each = Plain { bias: false, ..unit(mixture.moe_intermediate_size.unwrap_or(0)) };
        let experts = Experts::new(counts, c.gated()?, mixture.corrected()?);
        let latent = mixture.moe_latent_size.map(|dim| ExpertLatent { dim, norm: None, bias: c.mlp_bias });
        Experts { shared, latent, unit: Unit::Plain(each), ..experts }.checked()
    };
    let decoder = c.decoder(false, |index| {
        let (mixer, mlp) = match pattern[index] {
            'M' => (Some(Mixer::ScalarStateSpace(mamba)), None),
            '*' => (Some(Mixer::Attention(Attention { rope: None, ..c.attention()? })), None),
            '-' => (None, Some(unit(c.intermediate_size).into())),
            _ => (None, Some(experts()?)),
        };
        Ok(Layer { mixer, mlp, ..c.layer(c.attention()?, c.mlp()?) })
    })?;
    Ok(Decoder { head: Head::Own, renames: RENAMES, ..decoder })
}
