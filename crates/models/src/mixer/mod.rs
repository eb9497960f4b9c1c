//! What mixes positions. A mixer says at loading what it keeps of a sequence, and finds it again in each pass.

mod attention;
mod block_sparse;
mod conv;
mod delta;
mod gated_recurrence;
mod indexer;
mod latent;
mod linear;
mod looped;
mod pooled;
mod rounded;
mod selected_state_space;
mod short_conv;
mod state_space;
mod wkv;

use mlxengine_tensor::{Tensor, Tensors};

use crate::decoder::Span;
use crate::rope::{Rotation, Tables};
use crate::spec;
use crate::state::SlotSpec;
use crate::weights::Scope;
use crate::{Error, Result};
pub(crate) use attention::{Attention, Inputs};
use block_sparse::BlockSparse;
pub(crate) use conv::Conv;
use delta::{GatedDelta, KeyedDelta};
use gated_recurrence::GatedRecurrence;
pub(crate) use indexer::best;
use latent::Latent;
use linear::LinearAttention;
pub(crate) use looped::Looped;
pub(crate) use pooled::{IndexSpec, Left, Pooled, PooledSpec};
pub(crate) use rounded::Rounded;
use selected_state_space::SelectedStateSpace;
use short_conv::ShortConv;
use state_space::{ScalarStateSpace, StateSpace};
pub(crate) use wkv::{Shift, Wkv};

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

/// Runs `work` on each span's rows of `parts`, and joins the results.
pub(crate) fn each_span<const N: usize>(
    spans: &mut [Span<'_>],
    parts: [Tensor; N],
    mut work: impl FnMut([Tensor; N], &mut Span<'_>) -> Tensor,
) -> Tensor {
    let mut start = 0;
    let results: Tensors = spans
        .iter_mut()
        .map(|span| {
            let count = span.tokens.len();
            let rows = parts.each_ref().map(|part| part.clone().slice(0, start, count));
            start += count;
            work(rows, span)
        })
        .collect();
    Tensor::concat(results, 0)
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer has one, and a box would cost a look-up a product")]
pub(crate) enum Mixer {
    Attention(Attention),
    Latent(Latent),
    BlockSparse(BlockSparse),
    ShortConv(ShortConv),
    GatedDelta(GatedDelta),
    KeyedDelta(KeyedDelta),
    LinearAttention(LinearAttention),
    GatedRecurrence(GatedRecurrence),
    SelectedStateSpace(SelectedStateSpace),
    StateSpace(StateSpace),
    ScalarStateSpace(ScalarStateSpace),
    Sum(Vec<Mixer>),
}

impl Mixer {
    /// `w` is the scope of the layer.
    pub(crate) fn load(spec: &spec::Mixer, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let [attention, recurrence] = [["self_attn", "mixer"], ["state_space", "mixer"]].map(|names| w.first(&names));
        Ok(match spec {
            spec::Mixer::Attention(spec) => Mixer::Attention(Attention::load(spec, &attention, dim, plan)?),
            spec::Mixer::Latent(spec) => Mixer::Latent(Latent::load(spec, &attention, dim, plan)?),
            spec::Mixer::BlockSparse(spec) => Mixer::BlockSparse(BlockSparse::load(spec, &attention, dim, plan)?),
            spec::Mixer::ShortConv(spec) => Mixer::ShortConv(ShortConv::load(spec, &w.at("conv"), dim, plan)?),
            spec::Mixer::GatedDelta(spec) => {
                Mixer::GatedDelta(GatedDelta::load(spec, &w.at("linear_attn"), dim, plan)?)
            }
            spec::Mixer::KeyedDelta(spec) => Mixer::KeyedDelta(KeyedDelta::load(spec, &attention, dim, plan)?),
            spec::Mixer::LinearAttention(spec) => {
                Mixer::LinearAttention(LinearAttention::load(spec, &attention, dim, plan)?)
            }
            spec::Mixer::GatedRecurrence(spec) => {
                Mixer::GatedRecurrence(GatedRecurrence::load(spec, &recurrence, dim, plan)?)
            }
            spec::Mixer::SelectedStateSpace(spec) => {
                Mixer::SelectedStateSpace(SelectedStateSpace::load(spec, &recurrence, dim, plan)?)
            }
            spec::Mixer::StateSpace(spec) => Mixer::StateSpace(StateSpace::load(spec, &recurrence, dim, plan)?),
            spec::Mixer::ScalarStateSpace(spec) => {
                Mixer::ScalarStateSpace(ScalarStateSpace::load(spec, &recurrence, dim, plan)?)
            }
            spec::Mixer::Wkv(_) => {
                let message = "layers that see values of the first one are not supported beside those of other kinds";
                return Err(Error::unsupported(message));
            }
            spec::Mixer::Sum(parts) => {
                Mixer::Sum(parts.iter().map(|part| Self::load(part, w, dim, plan)).collect::<Result<_>>()?)
            }
        })
    }

    /// Attention over latents, whose scope is `w` itself.
    pub(crate) fn latent(spec: &spec::Latent, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        Latent::load(spec, w, dim, plan).map(Mixer::Latent)
    }

    /// `x [N, dim] -> [N, dim]`, where the rows are those of the spans one after another.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        match self {
            Mixer::Attention(mixer) => mixer.forward(x, pass, spans),
            Mixer::Latent(mixer) => mixer.forward(x, pass, spans),
            Mixer::BlockSparse(mixer) => mixer.forward(x, pass, spans),
            Mixer::ShortConv(mixer) => mixer.forward(x, spans),
            Mixer::GatedDelta(mixer) => mixer.forward(x, spans),
            Mixer::KeyedDelta(mixer) => mixer.forward(x, spans),
            Mixer::LinearAttention(mixer) => mixer.forward(x, pass, spans),
            Mixer::GatedRecurrence(mixer) => mixer.forward(x, spans),
            Mixer::SelectedStateSpace(mixer) => mixer.forward(x, spans),
            Mixer::StateSpace(mixer) => mixer.forward(x, spans),
            Mixer::ScalarStateSpace(mixer) => mixer.forward(x, spans),
            Mixer::Sum(parts) => {
                let results = parts.iter().map(|part| part.forward(x, pass, spans));
                results.reduce(|sum, y| sum.add(&y)).expect("a sum has parts")
            }
        }
    }
}
