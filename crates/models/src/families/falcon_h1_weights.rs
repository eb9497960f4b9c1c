//! The weights of Falcon H1 in original files: without the multipliers that a conversion has worked in.

use mlxengine_tensor::Tensor;
use serde::Deserialize;

use super::falcon_h1::defaults;
use crate::decoder::{Decoder as Running, LanguageModel};
use crate::spec::Decoder;
use crate::weights::Weights;
use crate::{Config, Result};

#[derive(Deserialize)]
struct Multipliers {
    embedding_multiplier: f32,
    lm_head_multiplier: f32,
    attention_in_multiplier: f32,
    attention_out_multiplier: f32,
    ssm_in_multiplier: f32,
    ssm_out_multiplier: f32,
    ssm_multipliers: [f32; 5],
    mlp_multipliers: [f32; 2],
    mamba_n_groups: usize,
    mamba_d_state: usize,
    mamba_d_ssm: usize,
}

impl Multipliers {
    /// What the conversion multiplies a weight's rows by. It means to multiply keys by `key_multiplier` too, but no name matches.
    fn of(&self, name: &str, rows: usize) -> Option<Vec<f32>> {
        let factor = match name.rsplit_once('.')?.0.rsplit('.').next()? {
            "embed_tokens" => self.embedding_multiplier,
            "lm_head" => self.lm_head_multiplier,
            "q_proj" | "k_proj" => self.attention_in_multiplier,
            "o_proj" => self.attention_out_multiplier,
            "out_proj" => self.ssm_out_multiplier,
            "gate_proj" => self.mlp_multipliers[0],
            "down_proj" => self.mlp_multipliers[1],
            "in_proj" => return Some(self.parts(rows)),
            _ => return None,
        };
        Some(vec![factor])
    }

    /// The factors of the rows that give gate, `x`, `b`, `c` and time steps.
    fn parts(&self, rows: usize) -> Vec<f32> {
        let shared = self.mamba_n_groups * self.mamba_d_state;
        let both = self.mamba_d_ssm;
        let sizes = [both, both, shared, shared, rows.saturating_sub(2 * (both + shared))];
        let parts = sizes.iter().zip(self.ssm_multipliers);
        parts.flat_map(|(size, factor)| vec![self.ssm_in_multiplier * factor; *size]).collect()
    }
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let multipliers: Multipliers = config.defaults(defaults()).read()?;
    let change = |name: &str, tensor: &Tensor| {
        let rows =
            tensor.shape().first().copied().filter(|_| tensor.dtype().is_float() && name.ends_with(".weight"))?;
        let factors = multipliers.of(name, rows).filter(|factors| factors.len() == 1 || factors.len() == rows)?;
        // Factors have the precision of what they multiply.
        let factors = Tensor::from_f32(&factors, [factors.len(), 1]).cast(tensor.dtype()).to_f32()?;
        Some(tensor.to_f32()?.mul(&factors).cast(tensor.dtype()))
    };
    let weights = if weights.root().converted() { weights } else { weights.changed(change) };
    Ok(Box::new(Running::load(spec, weights, progress)?))
}
