//! How a configuration says that rotary frequencies are stretched.

use serde_json::Value;

use super::Common;
use crate::spec::RopeScaling;
use crate::{Error, Result};

impl RopeScaling {
    /// Reads `rope_scaling` (or `rope_parameters`).
    pub(super) fn read(value: &Value, common: &Common, dims: usize, base: f32) -> Result<RopeScaling> {
        let name = value.get("rope_type").or_else(|| value.get("type")).and_then(Value::as_str).unwrap_or("default");
        let name = value.get("type").and_then(Value::as_str).unwrap_or(name);
        let number = |key: &str| value.get(key).and_then(Value::as_f64).map(|x| x as f32);
        let need = |key: &str| {
            number(key)
                .filter(|x| *x > 0.0)
                .ok_or_else(|| Error::invalid(format!("config.json: rope scaling `{name}` needs a positive `{key}`")))
        };
        let context = common.max_position_embeddings;
        Ok(match name {
            "default" | "mrope" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: need("factor")? },
            "dynamic" => RopeScaling::Dynamic {
                factor: need("factor")?,
                context: context.filter(|c| *c > 0 && dims > 2).ok_or_else(|| {
                    Error::invalid("config.json: dynamic rope scaling needs `max_position_embeddings`")
                })?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: number("low_freq_factor").unwrap_or(1.0),
                high_freq_factor: number("high_freq_factor").unwrap_or(4.0),
                context: number("original_max_position_embeddings").unwrap_or(8192.0),
            },
            name if name.ends_with("yarn") => {
                let factor = need("factor")?;
                let stretch = |mscale: f32| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
                if base <= 1.0 {
                    return Err(Error::invalid(format!("config.json: yarn cannot stretch a rope_theta of {base}")));
                }
                RopeScaling::Yarn {
                    factor,
                    context: number("original_max_position_embeddings").unwrap_or(4096.0),
                    beta_fast: number("beta_fast").unwrap_or(32.0),
                    beta_slow: number("beta_slow").unwrap_or(1.0),
                    mscale: stretch(number("mscale").unwrap_or(1.0)) / stretch(number("mscale_all_dim").unwrap_or(0.0)),
                }
            }
            "proportional" => {
                let part = number("partial_rotary_factor").unwrap_or(1.0);
                let factor = number("factor").unwrap_or(1.0);
                let rotated = (dims as f32 * part) as usize;
                if rotated > dims || factor <= 0.0 {
                    return Err(Error::invalid(format!("config.json: {rotated} of {dims} numbers cannot be rotated")));
                }
                RopeScaling::Proportional { rotated, factor }
            }
            "longrope" | "su" => Self::longrope(value, common, dims)?,
            other => return Err(Error::unsupported(format!("config.json: rope scaling `{other}` is not supported"))),
        })
    }

    /// MLX always divides by `long_factor`, whatever the length; so does this.
    fn longrope(value: &Value, common: &Common, dims: usize) -> Result<RopeScaling> {
        let factors: Option<Vec<f32>> = match value.get("long_factor") {
            Some(Value::Array(list)) => list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect(),
            Some(Value::Number(one)) => one.as_f64().map(|x| vec![x as f32; dims / 2]),
            _ => None,
        };
        let factors = factors.filter(|f| f.len() == dims / 2).ok_or_else(|| {
            Error::invalid(format!("config.json: rope scaling `long_factor` is not a list of {} numbers", dims / 2))
        })?;
        let original = value.get("original_max_position_embeddings").and_then(Value::as_f64);
        let original = original.or(common.original_max_position_embeddings.map(|x| x as f64)).unwrap_or(4096.0);
        let stretch = common.max_position_embeddings.unwrap_or(131_072) as f64 / original;
        let mscale = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
        let mscale = value.get("long_mscale").and_then(Value::as_f64).unwrap_or(mscale);
        Ok(RopeScaling::PerFrequency { factors, mscale: mscale as f32 })
    }
}
