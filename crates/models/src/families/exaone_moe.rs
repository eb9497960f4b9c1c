//! K-EXAONE: a sigmoid router over experts beside shared ones; where some layers see a window, the others know no
//! positions.

use serde::Deserialize;

use crate::config::Mixture;
use crate::spec::{Attention, Decoder};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    is_moe_layer: Vec<bool>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config
        .without(&["attention_bias", "mlp_bias", "first_k_dense_replace"])
        .or("routed_scaling_factor", 2.5)
        .or("norm_topk_prob", true);
    let (mut c, own, mixture): (_, Own, _) = (config.common()?, config.read()?, Mixture::read(&config)?);
    let parameter = c.rope_parameters.take().and_then(|p| p.get("rope_theta")?.as_f64());
    c.rope_theta = parameter.map(|base| base as f32).or(c.rope_theta);
    let (rope, qk_norm) = (c.rope(1_000_000.0)?, Some(c.norm().into()));
    let some_slide = c.layer_types.iter().flatten().any(|kind| kind == "sliding_attention");
    let decoder = c.decoder(false, |index| {
        let window = c.window(index)?;
        let rope = Some(rope.clone()).filter(|_| window.is_some() || !some_slide);
        let sparse = own.is_moe_layer.get(index) == Some(&true);
        let mlp = if sparse { mixture.mlp(&c, index)? } else { c.mlp()? };
        Ok(c.layer(Attention { rope, qk_norm, window, ..c.attention()? }, mlp))
    })?;
    let renames = &[Mixture::SHARED, (".mlp.e_score_correction_bias", ".mlp.gate.e_score_correction_bias")];
    Ok(Decoder { renames, ..decoder })
}
