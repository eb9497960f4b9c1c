//! The keys of gated delta rules.

use serde::Deserialize;

use super::{Config, within};
use crate::spec::{DeltaProjection, GatedDelta, Norm};
use crate::{Error, Result};

#[derive(Deserialize)]
struct Keys {
    linear_num_key_heads: usize,
    linear_num_value_heads: usize,
    linear_key_head_dim: usize,
    linear_value_head_dim: usize,
    linear_conv_kernel_dim: usize,
    #[serde(default)]
    linear_allow_neg_eigval: bool,
}

impl Config {
    /// The gated delta rule that keys beginning with `linear_` describe.
    ///
    /// # Errors
    /// Those of [`Config::read`], and sizes that no model can have.
    pub fn gated_delta(&self, norm: Norm, projection: DeltaProjection) -> Result<GatedDelta> {
        let keys: Keys = self.read()?;
        let (key_heads, heads) =
            (keys.linear_num_key_heads, within("linear_num_value_heads", keys.linear_num_value_heads)?);
        if key_heads == 0 || !heads.is_multiple_of(key_heads) {
            return Err(Error::invalid(format!("config.json: {heads} value heads cannot share {key_heads} key heads")));
        }
        Ok(GatedDelta {
            key_heads,
            heads,
            key_dim: within("linear_key_head_dim", keys.linear_key_head_dim)?,
            value_dim: within("linear_value_head_dim", keys.linear_value_head_dim)?,
            kernel: within("linear_conv_kernel_dim", keys.linear_conv_kernel_dim)?,
            norm,
            projection,
            strength: if keys.linear_allow_neg_eigval { 2.0 } else { 1.0 },
        })
    }
}
