//! What the registry knows of one model.

use std::collections::BTreeMap;

use mlxengine_engine::{EngineError, Result};
use mlxengine_models::{Config, Precision};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cost::ModelCost;

/// What a known model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Text to text.
    Language,
    /// Images and text to text.
    Vision,
    /// Text to a vector.
    Embedding,
    /// How well a text answers a question.
    Rerank,
    /// Text to an image.
    Diffusion,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 5] =
        [Purpose::Language, Purpose::Vision, Purpose::Embedding, Purpose::Rerank, Purpose::Diffusion];

    /// Its name, as in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Language => "language",
            Purpose::Vision => "vision",
            Purpose::Embedding => "embedding",
            Purpose::Rerank => "rerank",
            Purpose::Diffusion => "diffusion",
        }
    }
}

/// What a model can do beyond its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ability {
    /// Calls tools.
    Tools,
    /// Thinks before it answers, always or when asked.
    Thinking,
    /// Sees images.
    Vision,
}

/// How the weights are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
pub enum Storage {
    /// Integers with a 16-bit scale and a 16-bit bias per group.
    Affine {
        /// Of an integer.
        bits: u32,
        /// Weights per group.
        group: u32,
    },
    /// Four-bit floats with an 8-bit scale per group.
    Mxfp4 {
        /// Weights per group.
        group: u32,
    },
    /// Plain floats.
    Float {
        /// Of a float.
        bits: u32,
    },
}

impl Storage {
    /// Bits per weight, with scales and biases.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        match *self {
            Storage::Affine { bits, group } => f64::from(bits) + 32.0 / f64::from(group),
            Storage::Mxfp4 { group } => 4.0 + 8.0 / f64::from(group),
            Storage::Float { bits } => f64::from(bits),
        }
    }

    /// Its short name: `4bit`, `mxfp4`, `float16`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Storage::Affine { bits, .. } => format!("{bits}bit"),
            Storage::Mxfp4 { .. } => "mxfp4".to_owned(),
            Storage::Float { bits } => format!("float{bits}"),
        }
    }

    fn is_sane(&self) -> bool {
        let groups = |group: u32| group.is_power_of_two() && (16..=128).contains(&group);
        match *self {
            Storage::Affine { bits, group } => (1..=8).contains(&bits) && groups(group),
            Storage::Mxfp4 { group } => groups(group),
            Storage::Float { bits } => bits == 16 || bits == 32,
        }
    }
}

/// What some layers keep of the text that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum LayerCache {
    /// Keys and values of each token, or of the last `window`.
    Attention {
        /// How many layers.
        layers: u64,
        /// Heads of the keys, as many as of the values.
        kv_heads: u64,
        /// Of a key and of a value.
        head_dim: u64,
        /// The tokens that are kept, if not all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        window: Option<u64>,
    },
    /// One vector for each token, from which keys and values are made.
    Latent {
        /// How many layers.
        layers: u64,
        /// Numbers per token.
        values: u64,
    },
    /// A state whose size does not depend on the text.
    Recurrent {
        /// How many layers.
        layers: u64,
        /// Numbers in a state.
        values: u64,
    },
}

impl LayerCache {
    /// Bytes after `context` tokens, in 16-bit floats.
    #[must_use]
    pub fn bytes(&self, context: u64) -> u64 {
        let values = match *self {
            LayerCache::Attention { layers, kv_heads, head_dim, window } => {
                let tokens = window.map_or(context, |window| window.min(context));
                [2, layers, kv_heads, head_dim, tokens].into_iter().fold(1, u64::saturating_mul)
            }
            LayerCache::Latent { layers, values } => layers.saturating_mul(values).saturating_mul(context),
            LayerCache::Recurrent { layers, values } => layers.saturating_mul(values),
        };
        values.saturating_mul(2)
    }

    fn is_sane(&self) -> bool {
        match *self {
            LayerCache::Attention { layers, kv_heads, head_dim, window } => {
                layers > 0 && kv_heads > 0 && head_dim > 0 && window != Some(0)
            }
            LayerCache::Latent { layers, values } | LayerCache::Recurrent { layers, values } => {
                layers > 0 && values > 0
            }
        }
    }
}

/// Bytes, and whether somebody counted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// How many.
    pub bytes: u64,
    /// Whether they were computed from the parameters and how those are stored.
    pub estimated: bool,
}

/// What a model needs in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RegistryMemory {
    /// The weights.
    pub weights: Bytes,
    /// The cache of a text as long as was asked, in 16-bit floats.
    pub cache: u64,
}

impl RegistryMemory {
    /// Both together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights.bytes.saturating_add(self.cache)
    }
}

/// What the registry knows of one model. What nobody could source is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegistryEntry {
    /// Its name on the Hub: `org/name`.
    pub name: String,
    /// Short names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What it is for.
    pub kind: Purpose,
    /// The `model_type` of its configuration, or the name of its pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// How many weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// How they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Storage>,
    /// The size of the files, if somebody stated it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The most tokens that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u64>,
    /// What its layers keep of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Vec<LayerCache>>,
    /// The sizes in its `config.json`, with what else there says how a layer works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
    /// The licence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// What it can do beyond its purpose.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Ability>,
    /// The languages that its makers name, as ISO 639 codes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// Where each of these facts comes from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub source: BTreeMap<String, String>,
}

impl RegistryEntry {
    /// A model of which nothing is known but its name and what it is for.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: Purpose) -> Self {
        RegistryEntry {
            name: name.into(),
            aliases: Vec::new(),
            kind,
            family: None,
            parameters: None,
            quantization: None,
            bytes: None,
            context: None,
            cache: None,
            config: None,
            license: None,
            capabilities: Vec::new(),
            languages: Vec::new(),
            source: BTreeMap::new(),
        }
    }

    /// Whether this is one of its names, in small or capital letters.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Its name and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// The weights: as stated, or estimated from the parameters and how they are stored.
    #[must_use]
    pub fn weights(&self) -> Option<Bytes> {
        let stated = self.bytes.map(|bytes| Bytes { bytes, estimated: false });
        stated.or_else(|| Some(Bytes { bytes: self.estimate()?, estimated: true }))
    }

    fn estimate(&self) -> Option<u64> {
        Some((self.parameters? as f64 * self.quantization.as_ref()?.bits_per_weight() / 8.0) as u64)
    }

    /// What it needs in memory with a text of `context` tokens: `weights + cache(context)`.
    #[must_use]
    pub fn memory(&self, context: u64) -> Option<RegistryMemory> {
        let cache = self.cache.as_ref()?.iter().map(|layers| layers.bytes(context)).fold(0, u64::saturating_add);
        Some(RegistryMemory { weights: self.weights()?, cache })
    }

    /// What it takes of a machine; none if its configuration or how its weights are stored is not known.
    ///
    /// # Errors
    /// If this build does not run such a configuration.
    pub fn cost(&self) -> Option<Result<ModelCost>> {
        let (config, storage) = (self.config.clone()?, self.quantization.as_ref()?);
        let cost = Config::of(config).map_err(EngineError::from);
        let cost = cost.and_then(|config| ModelCost::of_config(&config, storage.bits_per_weight(), Precision::Fast));
        let weighed = |cost: ModelCost| self.bytes.iter().fold(cost, |cost, bytes| cost.weighing(*bytes));
        Some(cost.map(weighed))
    }

    /// The first field that cannot be right, and why.
    pub(super) fn flaw(&self) -> Option<(&'static str, String)> {
        let parts: Vec<&str> = self.name.split('/').collect();
        let plain =
            |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let off =
            self.bytes.zip(self.estimate()).filter(|(stated, estimate)| stated.abs_diff(*estimate) * 100 > stated * 15);
        let refused = self.config.clone().and_then(|config| Config::of(config).err()).map(|error| error.to_string());
        let flaws = [
            ("name", parts.len() != 2 || !parts.iter().all(plain), "must be org/name, as on the Hub".to_owned()),
            (
                "aliases",
                self.aliases.iter().any(|a| !plain(&a.as_str()) || a == "demo"),
                "must be plain words".to_owned(),
            ),
            ("parameters", self.parameters == Some(0), "must be more than 0".to_owned()),
            (
                "quantization",
                self.quantization.as_ref().is_some_and(|q| !q.is_sane()),
                "has an impossible size".to_owned(),
            ),
            ("bytes", self.bytes == Some(0), "must be more than 0".to_owned()),
            (
                "bytes",
                off.is_some(),
                off.map_or_else(String::new, |(_, estimate)| {
                    format!("disagrees with parameters and quantization, which make {estimate}")
                }),
            ),
            ("context", self.context == Some(0), "must be more than 0".to_owned()),
            ("config", refused.is_some(), refused.unwrap_or_default()),
            ("cache", self.cache.iter().flatten().any(|layers| !layers.is_sane()), "has an empty size".to_owned()),
        ];
        flaws.into_iter().find(|(_, wrong, _)| *wrong).map(|(field, _, why)| (field, why))
    }
}
