//! What a checkpoint is, read from its files.

use mlxengine_engine::{GenerateParams, LoadedModel, Result};
use mlxengine_models::weights::{Record, Storage};
use mlxengine_models::{CacheOptions, Checkpoint, families};
use serde::{Deserialize, Serialize};

use crate::card::Card;
use crate::cost::ModelCost;

/// What a model takes in and gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModelKind {
    /// Text to text.
    Language,
}

/// A way of storing weights, and how many are stored so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageShare {
    /// As in `4-bit affine group 64` or `BF16`.
    pub format: String,
    /// How many weights.
    pub parameters: u64,
}

/// A token that ends an answer, and who said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndTokenInfo {
    /// Its id.
    pub id: u32,
    /// Its text, if it has one.
    pub text: Option<String>,
    /// The files that name it.
    pub reasons: Vec<String>,
}

/// Memory that a model needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Tokens of each sequence that this is for.
    pub context: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Weights: pages of the mapped file, which several processes share.
    pub weights: u64,
    /// What sequences keep: keys and values, states of recurrences.
    pub cache: u64,
    /// Activations at the peak.
    pub activations: u64,
}

impl MemoryPlan {
    /// Everything together.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.activations)
    }
}

/// What a checkpoint is. Immutable, and the same for everybody who holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelConfiguration {
    /// What the user called it.
    pub name: String,
    /// The family whose rules it follows.
    pub family: String,
    /// `model_type` of its configuration.
    pub model_type: String,
    /// What it takes in and gives out.
    pub kind: ModelKind,
    /// Number of weights.
    pub parameters: u64,
    /// Weights that work on one token, where a router picks experts.
    pub active_parameters: u64,
    /// How the weights are stored, the most frequent way first.
    pub storage: Vec<StorageShare>,
    /// The tool in whose layout the files have the weights, where that is not MLX's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantizer: Option<String>,
    /// Longest sequence that it was made for, in tokens.
    pub context_length: Option<usize>,
    /// Number of tokens that it knows.
    pub vocabulary: usize,
    /// Size of its residual stream.
    pub hidden_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// The file that holds its chat template, if it has one.
    pub chat_template: Option<String>,
    /// The tokens that end an answer.
    pub end_tokens: Vec<EndTokenInfo>,
    /// What its makers advise for sampling.
    pub default_params: GenerateParams,
    /// Memory for a sequence of its whole context (or 4096 tokens, where it names none).
    pub memory: MemoryPlan,
    /// Licence, if its card names one.
    pub licence: Option<String>,
    /// Tags of its card.
    pub tags: Vec<String>,
    /// The model that it was made from, if its card names one.
    pub base_model: Option<String>,
    /// Tensors in its files that are not used, with the reason.
    pub ignored_tensors: Vec<(String, String)>,
}

/// Prompt tokens that one pass reads, for plans of memory.
pub(crate) const PLANNED_PASS: usize = 512;

impl ModelConfiguration {
    pub(crate) fn new(name: &str, checkpoint: &Checkpoint, model: &LoadedModel, cost: &ModelCost) -> Result<Self> {
        let (spec, record) = (model.network.spec(), model.network.record());
        let readme = checkpoint.source.read("README.md")?;
        let card = readme.map(|bytes| Card::parse(&String::from_utf8_lossy(&bytes))).unwrap_or_default();
        let model_type = checkpoint.config.model_type().to_owned();
        let parameters = record.parameters() as u64;
        Ok(Self {
            name: name.to_owned(),
            family: families::find(&model_type).map(|f| f.name.to_owned()).unwrap_or_default(),
            model_type,
            kind: ModelKind::Language,
            parameters,
            active_parameters: parameters - idle(model),
            storage: storage(record),
            quantizer: record.quantizer.map(str::to_owned),
            context_length: spec.context,
            vocabulary: spec.vocab,
            hidden_size: spec.dim,
            layers: spec.layers.len(),
            chat_template: (!model.templates.is_empty()).then(|| model.templates.origin().to_owned()),
            end_tokens: model
                .end_tokens
                .iter()
                .map(|e| EndTokenInfo { id: e.id, text: e.text.clone(), reasons: e.reasons.clone() })
                .collect(),
            default_params: model
                .generation_config
                .as_ref()
                .map(GenerateParams::from_generation_config)
                .unwrap_or_default(),
            memory: cost.plan(spec.context.unwrap_or(4096), 1, &CacheOptions::default()),
            licence: card.licence,
            tags: card.tags,
            base_model: card.base_model,
            ignored_tensors: record.ignored.iter().map(|(name, why)| (name.clone(), (*why).to_owned())).collect(),
        })
    }

    /// Checks generation parameters against this model.
    ///
    /// # Errors
    /// With the name of the first parameter that is out of range.
    pub fn validate(&self, params: &GenerateParams) -> Result<()> {
        params.validate(self.vocabulary)
    }

    /// The storage of the weights in a few words: that of most of them.
    pub fn quantization(&self) -> &str {
        self.storage.first().map_or("none", |s| s.format.as_str())
    }
}

/// How weights are stored, the most frequent way first.
pub(crate) fn storage(record: &Record) -> Vec<StorageShare> {
    let share = |(storage, count): (Storage, usize)| {
        let format = match storage {
            Storage::Dense(dtype) => dtype.to_string(),
            Storage::Quantized(format) => format.to_string(),
        };
        StorageShare { format, parameters: count as u64 }
    };
    record.storages().into_iter().map(share).collect()
}

/// Weights of experts that do not work on a given token.
fn idle(model: &LoadedModel) -> u64 {
    let spec = model.network.spec();
    let experts = spec.layers.iter().flat_map(|layer| &layer.mlp).map(|mlp| mlp.idle(spec.dim));
    experts.sum::<usize>() as u64
}
