//! OLMo Hybrid: the gated delta rule behind norms, and OLMo's attention before them in every few layers.

use serde::Deserialize;
use serde_json::Value;

use crate::spec::{Attention, Decoder, DeltaProjection, Layer, Mixer, Norm, QkNorm, QkSpan, Residual};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Keys {
    layer_norm_epsilon: Option<f32>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, keys): (_, Keys) = (config.without(&["mlp_bias", "rope_scaling"]).common()?, config.read()?);
    let norm = Norm { eps: keys.layer_norm_epsilon.unwrap_or(1e-5), ..c.norm() };
    let delta = config.gated_delta(norm, DeltaProjection::Each)?;
    // No base at all, where the key says so, means that nothing turns.
    let still = config.values().get("rope_theta") == Some(&Value::Null) && config.get("rope_parameters").is_none();
    let rope = (!still).then(|| c.plain_rope(10_000.0)).transpose()?;
    let qk_norm = Some(QkNorm { span: QkSpan::Projection, ..c.norm().into() });
    c.decoder(false, |index| {
        let attends = match &c.layer_types {
            Some(types) => types.get(index).is_none_or(|name| name != "linear_attention"),
            None => index % 4 == 3,
        };
        let layer = c.layer(Attention { qk_norm, rope: rope.clone(), ..c.attention()? }, c.mlp()?);
        Ok(match attends {
            true => Layer { residual: Residual::PostNorm, ..layer },
            false => Layer { mixer: Some(Mixer::GatedDelta(delta)), ..layer },
        })
    })
}
