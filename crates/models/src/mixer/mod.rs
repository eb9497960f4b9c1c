//! What mixes positions. A mixer says at loading what it keeps of a sequence, and finds it again in each pass.

mod attention;
mod conv;
mod short_conv;

use mlxengine_tensor::Tensor;

use crate::Result;
use crate::decoder::Span;
use crate::rope::{Rotation, Tables};
use crate::spec;
use crate::state::SlotSpec;
use crate::weights::Scope;
use attention::Attention;
use short_conv::ShortConv;

/// The part of a pass that every layer sees.
pub(crate) struct Pass<'a> {
    /// Tables of each rotation that the model uses.
    pub(crate) tables: &'a [Tables],
    /// First position and count of each span.
    pub(crate) positions: &'a [(usize, usize)],
}

/// What the mixers of a model ask for while it is loaded.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Rotations, each once.
    pub(crate) rotations: Vec<Rotation>,
    /// What a state has to keep.
    pub(crate) slots: Vec<SlotSpec>,
    /// Of each layer with attention, where its keys and values lie.
    pub(crate) keys: Vec<usize>,
}

impl Plan {
    /// Index of a rotation.
    pub(crate) fn rotation(&mut self, rope: &spec::Rope) -> usize {
        self.rotations.iter().position(|r| r.spec == *rope).unwrap_or_else(|| {
            self.rotations.push(Rotation::new(rope));
            self.rotations.len() - 1
        })
    }

    /// A new slot of a layer with attention.
    pub(crate) fn kept(&mut self, spec: SlotSpec) -> usize {
        let slot = self.slot(spec);
        self.keys.push(slot);
        slot
    }

    /// The slot of an earlier layer with attention, once more.
    pub(crate) fn shared(&mut self, layer: usize) -> usize {
        let slot = self.keys[layer];
        self.keys.push(slot);
        slot
    }

    /// A new slot.
    pub(crate) fn slot(&mut self, spec: SlotSpec) -> usize {
        self.slots.push(spec);
        self.slots.len() - 1
    }
}

#[derive(Debug)]
pub(crate) enum Mixer {
    Attention(Attention),
    ShortConv(ShortConv),
}

impl Mixer {
    /// `w` is the scope of the layer.
    pub(crate) fn load(spec: &spec::Mixer, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        Ok(match spec {
            spec::Mixer::Attention(spec) => {
                Mixer::Attention(Attention::load(spec, &w.first(&["self_attn", "mixer"]), dim, plan)?)
            }
            spec::Mixer::ShortConv(spec) => Mixer::ShortConv(ShortConv::load(spec, &w.at("conv"), dim, plan)?),
        })
    }

    /// `x [N, dim] -> [N, dim]`, where the rows are those of the spans one after another.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        match self {
            Mixer::Attention(mixer) => mixer.forward(x, pass, spans),
            Mixer::ShortConv(mixer) => mixer.forward(x, spans),
        }
    }
}
