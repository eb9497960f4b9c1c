//! What the headers of a checkpoint's files say of its weights, before a model is made of them.

use super::names;
use crate::{Checkpoint, spec};

/// Bytes of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// All that a model takes.
    pub all: u64,
    /// Of these what one token of an answer reads: of the experts those that a router picks, and one row of an embedding that
    /// is not the head as well.
    pub token: u64,
}

impl WeightBytes {
    /// Those of a checkpoint that a spec describes.
    pub fn of(checkpoint: &Checkpoint, spec: &spec::Decoder) -> Self {
        let named = |(name, tensor): &(String, mlxengine_tensor::Tensor)| {
            (names::canonical(name, spec.renames), tensor.spec().bytes() as u64)
        };
        let tensors: Vec<(String, u64)> =
            checkpoint.tensors.iter().map(named).filter(|(n, _)| taken(n, spec)).collect();
        let shares = Shares::new(spec, tensors.iter().any(|(name, _)| name.starts_with("lm_head.")));
        Self {
            all: tensors.iter().map(|(_, bytes)| bytes).sum(),
            token: tensors.iter().map(|(name, bytes)| shares.read(name, *bytes)).sum(),
        }
    }
}

/// Whether a model asks for a tensor.
fn taken(name: &str, spec: &spec::Decoder) -> bool {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    names::needless(name).is_none()
        && layer.is_none_or(|layer| layer < spec.layers.len())
        && !(spec.head == spec::Head::Tied && name.starts_with("lm_head."))
}

/// How much of a tensor one token reads.
pub(super) struct Shares {
    own_head: bool,
    vocab: u64,
    /// Of the experts those that work on a token, and all.
    experts: Option<[u64; 2]>,
}

impl Shares {
    pub(super) fn new(spec: &spec::Decoder, own_head: bool) -> Self {
        let experts = spec.layers.iter().find_map(|layer| match &layer.mlp {
            Some(spec::Mlp::Experts(e)) => Some([e.active as u64, e.count as u64]),
            _ => None,
        });
        Self { own_head, vocab: spec.vocab as u64, experts }
    }

    /// Bytes that one token reads of a tensor or module of `bytes`.
    pub(super) fn read(&self, name: &str, bytes: u64) -> u64 {
        match self.experts {
            _ if self.own_head && name.contains("embed_tokens") => bytes / self.vocab.max(1),
            Some([active, all]) if [".switch_mlp.", ".experts."].iter().any(|part| name.contains(part)) => {
                bytes * active / all
            }
            _ => bytes,
        }
    }
}
