//! The maps between heads and the latents that they share.

use mlxengine_tensor::{Dtype, Weight};

use super::Scope;
use crate::Result;
use crate::linear::ExpertLinear;

impl Scope<'_> {
    /// Of each head, the map from a query to the latents, `[rank, nope]`, and that from the latents to a value,
    /// `[value, rank]`: stacked as `embed_q` and `unembed_out` (MLX), or both in the rows of `kv_b_proj`.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub(crate) fn latent_heads(
        &self,
        heads: usize,
        rank: usize,
        [nope, value]: [usize; 2],
    ) -> Result<[ExpertLinear; 2]> {
        let precision = self.weights.precision;
        let map = |weight| ExpertLinear { weight, bias: None, precision };
        let joined = self.at("kv_b_proj");
        if !joined.has("weight") {
            let absorb = self.at("embed_q").weight(&[heads, rank, nope])?;
            let release = self.at("unembed_out").weight(&[heads, value, rank])?;
            return Ok([map(absorb), map(release)]);
        }
        let both = match joined.weight(&[heads * (nope + value), rank])? {
            Weight::Dense(tensor) => tensor,
            Weight::Quantized(q) => q.dequantize(Dtype::F32),
        };
        let both = both.reshape([heads, nope + value, rank]);
        let absorb = both.clone().slice(1, 0, nope).permute(&[0, 2, 1]);
        let release = both.slice(1, nope, value);
        Ok([map(Weight::Dense(absorb)), map(Weight::Dense(release))])
    }
}
