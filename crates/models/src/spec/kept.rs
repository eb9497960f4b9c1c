//! What mixers keep of a sequence, from their description alone.

use mlxengine_tensor::{Dtype, Precision, Shape};
use smallvec::{SmallVec, smallvec};

use super::{
    Attention, BlockSparse, Decoder, GatedDelta, GatedRecurrence, Indexer, KeyedDelta, Latent, LinearAttention, Mixer,
    ScalarStateSpace, SelectedStateSpace, ShortConv, StateSpace, Wkv,
};
use crate::state::{KvShape, SlotSpec};

/// The floats in which keys and values are kept: half the bytes where products round their inputs anyway.
pub(crate) fn kept(precision: Precision) -> Dtype {
    match precision {
        Precision::Exact => Dtype::F32,
        Precision::Fast | Precision::Mixed => Dtype::F16,
    }
}

impl Decoder {
    /// What a sequence keeps, one entry for each thing that a mixer asks for, in the order of the layers.
    pub fn slots(&self, precision: Precision) -> Vec<SlotSpec> {
        let mixers = self.layers.iter().filter_map(|layer| layer.mixer.as_ref());
        mixers.flat_map(|mixer| mixer.slots(self.dim, kept(precision))).collect()
    }
}

impl Mixer {
    fn slots(&self, dim: usize, kept: Dtype) -> SmallVec<[SlotSpec; 2]> {
        match self {
            Mixer::Attention(a) if a.keys_of.is_some() => SmallVec::new(),
            Mixer::Attention(a) => smallvec![a.slot(kept)],
            Mixer::Latent(l) => [l.slot()].into_iter().chain(l.indexer.as_ref().map(Indexer::slot)).collect(),
            Mixer::BlockSparse(s) => smallvec![s.attention.slot(kept), s.slot()],
            Mixer::ShortConv(c) => smallvec![c.slot(dim)],
            Mixer::GatedDelta(d) => smallvec![d.slot()],
            Mixer::KeyedDelta(d) => smallvec![d.slot()],
            Mixer::LinearAttention(l) => smallvec![l.slot()],
            Mixer::Wkv(w) => smallvec![w.slot(dim)],
            Mixer::GatedRecurrence(r) => smallvec![r.slot()],
            Mixer::SelectedStateSpace(m) => smallvec![m.slot()],
            Mixer::StateSpace(m) => smallvec![m.slot()],
            Mixer::ScalarStateSpace(m) => smallvec![m.slot()],
            Mixer::Sum(parts) => parts.iter().flat_map(|part| part.slots(dim, kept)).collect(),
        }
    }
}

/// One key a position.
fn keys(key_dim: usize) -> SlotSpec {
    SlotSpec::Kv { shape: KvShape { heads: 1, key_dim, value_dim: None }, dtype: Dtype::F32, window: None }
}

/// The last inputs of a convolution, and a state.
fn behind_conv([channels, kernel]: [usize; 2], state: [usize; 3]) -> SlotSpec {
    SlotSpec::Recurrent(smallvec![tail([channels, kernel]), state.into()])
}

/// The inputs that a convolution carries from one pass to the next.
fn tail([channels, kernel]: [usize; 2]) -> Shape {
    [kernel.saturating_sub(1), channels].into()
}

impl Attention {
    /// Where no keys and values of an earlier layer serve.
    pub(crate) fn slot(&self, dtype: Dtype) -> SlotSpec {
        let shape = KvShape { heads: self.kv_heads, key_dim: self.head_dim, value_dim: Some(self.value_dim) };
        SlotSpec::Kv { shape, dtype, window: self.window }
    }
}

impl Latent {
    pub(crate) fn slot(&self) -> SlotSpec {
        keys(self.rank + self.rope_dim)
    }
}

impl Indexer {
    pub(crate) fn slot(&self) -> SlotSpec {
        keys(self.head_dim)
    }
}

impl BlockSparse {
    /// That of the index, beside that of the attention.
    pub(crate) fn slot(&self) -> SlotSpec {
        keys(self.head_dim)
    }
}

impl ShortConv {
    pub(crate) fn slot(&self, dim: usize) -> SlotSpec {
        SlotSpec::Recurrent(smallvec![tail([dim, self.kernel])])
    }
}

impl GatedDelta {
    pub(crate) fn slot(&self) -> SlotSpec {
        let channels = 2 * self.key_heads * self.key_dim + self.heads * self.value_dim;
        behind_conv([channels, self.kernel], [self.heads, self.value_dim, self.key_dim])
    }
}

impl KeyedDelta {
    pub(crate) fn slot(&self) -> SlotSpec {
        behind_conv([3 * self.heads * self.head_dim, self.kernel], [self.heads, self.head_dim, self.head_dim])
    }
}

impl LinearAttention {
    pub(crate) fn slot(&self) -> SlotSpec {
        SlotSpec::Recurrent(smallvec![[self.rates.len(), self.head_dim, self.head_dim].into()])
    }
}

impl Wkv {
    /// The vector before, the state, and the vector before that the unit sees.
    pub(crate) fn slot(&self, dim: usize) -> SlotSpec {
        let before: Shape = [1, dim].into();
        SlotSpec::Recurrent(smallvec![before, [self.heads, self.head_dim, self.head_dim].into(), before])
    }
}

impl GatedRecurrence {
    pub(crate) fn slot(&self) -> SlotSpec {
        SlotSpec::Recurrent(smallvec![tail([self.width, self.kernel]), [self.width].into()])
    }
}

impl SelectedStateSpace {
    pub(crate) fn slot(&self) -> SlotSpec {
        behind_conv([self.inner(), self.kernel], [self.heads, self.head_dim, self.state_dim])
    }
}

impl StateSpace {
    pub(crate) fn slot(&self) -> SlotSpec {
        behind_conv([self.inner, self.kernel], [self.inner, 1, self.state_dim])
    }
}

impl ScalarStateSpace {
    pub(crate) fn slot(&self) -> SlotSpec {
        behind_conv([self.channels(), self.kernel], [self.heads, self.head_dim, self.state_dim])
    }
}
