//! Embeddings of a token for each layer, and the gate by which a layer takes its own in.

use mlxengine_tensor::{Tensor, Unary};

use crate::linear::{Embedding, Linear};
use crate::norm::Norm;
use crate::spec;
use crate::weights::Scope;
use crate::{Error, Result};

/// Sizes of the embeddings for each layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerLayer {
    /// Rows of the table; tokens beyond them read the first.
    pub(crate) vocab: usize,
    /// Size for one layer.
    pub(crate) size: usize,
    /// Layers.
    pub(crate) layers: usize,
}

/// A table of embeddings for all layers, and a projection of the usual embedding beside it.
#[derive(Debug)]
pub(crate) struct PerLayerInputs {
    sizes: PerLayer,
    table: Embedding,
    projection: Linear,
    norm: Norm,
}

impl PerLayerInputs {
    pub(crate) fn load(sizes: PerLayer, norm: spec::Norm, w: &Scope<'_>, dim: usize) -> Result<Self> {
        if sizes.size > 1 << 24 {
            return Err(Error::invalid(format!("config.json: embeddings of {} numbers for each layer", sizes.size)));
        }
        let all = sizes.layers * sizes.size;
        Ok(Self {
            sizes,
            table: w.embedding("embed_tokens_per_layer", [sizes.vocab, all])?,
            projection: w.linear("per_layer_model_projection", [dim, all], false)?,
            norm: Norm::load(norm, w, "per_layer_projection_norm", sizes.size)?,
        })
    }

    /// What layers take in, `[layers, N, size]`, of tokens and their embeddings `[N, dim]`.
    pub(crate) fn forward(&self, ids: &[u32], embeddings: &Tensor) -> Tensor {
        let PerLayer { vocab, size, layers } = self.sizes;
        let (rows, dim) = (ids.len(), embeddings.shape().last());
        let known: Vec<u32> = ids.iter().map(|id| if (*id as usize) < vocab { *id } else { 0 }).collect();
        let looked_up = self.table.take(&Tensor::from_u32(&known, [rows])).scale((size as f32).sqrt());
        let projected = self.projection.forward(embeddings).scale((dim as f32).powf(-0.5));
        let projected = self.norm.forward(&projected.reshape([rows, layers, size]));
        let both = projected.add(&looked_up.reshape([rows, layers, size])).scale(0.5f32.sqrt());
        both.permute(&[1, 0, 2])
    }
}

/// How a layer takes its input in: `norm(projection(gelu(gate(x)) * input))`.
#[derive(Debug)]
pub(crate) struct PerLayerGate {
    gate: Linear,
    projection: Linear,
    norm: Norm,
}

impl PerLayerGate {
    pub(crate) fn load(size: usize, norm: spec::Norm, w: &Scope<'_>, dim: usize) -> Result<Self> {
        Ok(Self {
            gate: w.linear("per_layer_input_gate", [dim, size], false)?,
            projection: w.linear("per_layer_projection", [size, dim], false)?,
            norm: Norm::load(norm, w, "post_per_layer_input_norm", dim)?,
        })
    }

    /// `x [N, dim]`, `inputs [layers, N, size]` `-> [N, dim]`.
    pub(crate) fn forward(&self, x: &Tensor, inputs: &Tensor, layer: usize) -> Tensor {
        let [rows, size] = [inputs.shape()[1], inputs.shape()[2]];
        let input = inputs.clone().slice(0, layer, 1).reshape([rows, size]);
        self.norm.forward(&self.projection.forward(&self.gate.forward(x).glu(Unary::GeluTanh, &input)))
    }
}
