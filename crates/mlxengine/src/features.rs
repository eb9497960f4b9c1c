//! What a model can do here.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// One thing that a model on this backend may or may not be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Feature {
    /// Continues text.
    TextGeneration,
    /// Has a chat template.
    Chat,
    /// Hands out tokens as they come.
    Streaming,
    /// Weights in fewer bits.
    QuantizedWeights,
    /// Caches in fewer bits ([`crate::KvQuantization`]).
    QuantizedCache,
    /// Log-probabilities of tokens.
    Logprobs,
    /// Reuse of what a sequence has read before.
    PrefixReuse,
    /// Images in prompts.
    Vision,
    /// Text to vectors.
    Embedding,
    /// Text to images.
    Diffusion,
    /// Adapters over the weights.
    Lora,
    /// Calls of tools, parsed from answers.
    Tools,
    /// Answers that follow a schema.
    StructuredOutput,
    /// A draft model that speeds up the answer.
    SpeculativeDecoding,
    /// Learning from examples.
    Training,
}

/// The set of what a model can do here; ask before trying.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features(BTreeSet<Feature>);

impl Features {
    /// Whether this can be done.
    pub fn has(&self, feature: Feature) -> bool {
        self.0.contains(&feature)
    }

    /// Everything that can be done.
    pub fn iter(&self) -> impl Iterator<Item = Feature> {
        self.0.iter().copied()
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<T: IntoIterator<Item = Feature>>(features: T) -> Self {
        Self(features.into_iter().collect())
    }
}
