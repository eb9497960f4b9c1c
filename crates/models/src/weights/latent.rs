//! The maps between heads and the latents that they share.

use mlxengine_tensor::{Dtype, Tensor, Weight};

use super::Scope;
use crate::Result;
use crate::adapters::{merged, plain};
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
        let map = |weight| ExpertLinear { weight, factors: None, bias: None, precision, delta: None };
        let joined = self.at("kv_b_proj");
        let size = [heads * (nope + value), rank];
        let halves = |both: Tensor| {
            let both = both.reshape([heads, nope + value, rank]);
            [both.clone().slice(1, 0, nope).permute(&[0, 2, 1]), both.slice(1, nope, value)]
        };
        // The two maps are read as they lie, outside of their layers, so that what changes them is worked in.
        if !joined.has_weight() {
            let maps = [
                self.at("embed_q").weight(&[heads, rank, nope])?,
                self.at("unembed_out").weight(&[heads, value, rank])?,
            ];
            let Some(change) = joined.difference(size)? else { return Ok(maps.map(map)) };
            let mut changes = halves(change).into_iter();
            return Ok(maps.map(|weight| {
                let change = changes.next().expect("one for each map");
                map(Weight::Dense(plain(&weight).add(&change)))
            }));
        }
        let weight = joined.weight(&size)?;
        let both = match (joined.delta(&weight)?, weight) {
            (Some(delta), weight) => merged(&weight, &delta, |rows| rows),
            (None, Weight::Dense(tensor)) => tensor,
            (None, Weight::Quantized(q)) => q.dequantize(Dtype::F32),
        };
        Ok(halves(both).map(|half| map(Weight::Dense(half))))
    }
}
