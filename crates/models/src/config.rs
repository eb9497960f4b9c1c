//! `config.json`, and what nearly every family's configuration shares.

mod delta;
mod latent;
mod mixture;
mod rope;

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::spec::{
    Attention, Decoder, Gated, Head, Layer, Mixer, Mlp, Norm, NormKind, NormParameters, Projection, Residual, Rope,
    RopeScaling,
};
use crate::{Error, Result};
pub use latent::{Routed, within};

pub(crate) use mixture::Mixture;

/// A parsed `config.json`.
#[derive(Clone, Debug)]
pub struct Config {
    values: Map<String, Value>,
}

impl Config {
    /// Reads the bytes of a `config.json`.
    ///
    /// # Errors
    /// If it is not a JSON object or names no `model_type`.
    pub fn parse(bytes: &[u8]) -> Result<Config> {
        let value: Value = serde_json::from_slice(bytes)
            .or_else(|e| serde_json::from_str(&without_bare_floats(bytes)).map_err(|_| e))
            .map_err(|e| Error::invalid(format!("config.json is not valid JSON: {e}")))?;
        let Value::Object(values) = value else {
            return Err(Error::invalid("config.json is not a JSON object"));
        };
        Self::of(values)
    }

    /// The values of a `config.json`.
    ///
    /// # Errors
    /// If they name no `model_type`.
    pub fn of(mut values: Map<String, Value>) -> Result<Config> {
        values.values_mut().for_each(untag_floats);
        let config = Config { values };
        config
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| Error::invalid("config.json has no `model_type`"))?;
        Ok(config)
    }

    /// The architecture's name.
    pub fn model_type(&self) -> &str {
        self.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// A value by key; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|v| !v.is_null())
    }

    /// The same, with a value where there is none.
    #[must_use]
    pub fn or(&self, key: &str, value: impl Into<Value>) -> Config {
        let mut config = self.clone();
        if self.get(key).is_none() {
            config.values.insert(key.to_owned(), value.into());
        }
        config
    }

    /// The same, with the value of another key where there is none.
    #[must_use]
    pub fn or_key(&self, key: &str, other: &str) -> Config {
        match self.get(other) {
            Some(value) => self.clone().or(key, value.clone()),
            None => self.clone(),
        }
    }

    /// The same, with a key's value in another configuration where there is none.
    #[must_use]
    pub fn or_key_of(&self, other: &Config, key: &str) -> Config {
        other.get(key).map_or_else(|| self.clone(), |value| self.or(key, value.clone()))
    }

    /// The same, with each first key's value taken from the second where there is none.
    #[must_use]
    pub fn aliases(&self, pairs: &[(&str, &str)]) -> Config {
        pairs.iter().fold(self.clone(), |config, (key, other)| config.or_key(key, other))
    }

    /// The same, with the values of a JSON object where there are none.
    #[must_use]
    pub fn defaults(&self, values: Value) -> Config {
        let values = if let Value::Object(map) = values { map } else { Map::new() };
        values.into_iter().fold(self.clone(), |config, (key, value)| config.or(&key, value))
    }

    /// The same with keys that lie deeper: each first key's value is that of the third in the object that the second names,
    /// where it is there.
    #[must_use]
    pub fn lifted(&self, keys: &[(&str, &str, &str)]) -> Config {
        keys.iter().fold(self.clone(), |config, (key, outer, name)| {
            let value = config.get(outer).and_then(|outer| outer.get(name)).cloned();
            value.map_or_else(|| config.clone(), |value| config.without(&[key]).or(key, value))
        })
    }

    /// Whether a list of names, or else one of numbers, marks layer `index`: by a name that `is` likes, or a number that is
    /// not 0. All layers are marked if there is no list.
    pub fn marks(&self, [names, numbers]: [&str; 2], is: impl Fn(&str) -> bool, index: usize) -> bool {
        let marks = self.get(names).or_else(|| self.get(numbers));
        marks.is_none_or(|list| match list.get(index) {
            Some(Value::String(name)) => is(name),
            number => number.and_then(Value::as_u64).is_some_and(|number| number != 0),
        })
    }

    /// The same without some keys, which a family does not read.
    #[must_use]
    pub fn without(&self, keys: &[&str]) -> Config {
        let mut values = self.values.clone();
        values.retain(|key, _| !keys.contains(&key.as_str()));
        Config { values }
    }

    /// The configuration of the text model inside one of several models, and this one where there is but one.
    #[must_use]
    pub fn text(&self) -> Config {
        match self.get("text_config") {
            Some(Value::Object(values)) => Config { values: values.clone() }.or("model_type", self.model_type()),
            _ => self.clone(),
        }
    }

    /// Holds a key to the one value that is supported.
    ///
    /// # Errors
    /// If it is there with another.
    pub fn only(&self, key: &str, supported: &Value) -> Result<()> {
        match self.get(key) {
            Some(value) if value != supported => {
                Err(Error::unsupported(format!("config.json: {key} is {value}; only {supported} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// All values.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The configuration as a family's own struct.
    ///
    /// # Errors
    /// With the key that is missing or of the wrong type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let present = self.values.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone()));
        let value = Value::Object(present.collect());
        serde_path_to_error::deserialize(value).map_err(|e| {
            let place = if e.path().iter().len() == 0 { String::new() } else { format!("{}: ", e.path()) };
            Error::invalid(format!("config.json of a {}: {place}{}", self.model_type(), e.inner()))
        })
    }

    /// What nearly every family shares, checked.
    ///
    /// # Errors
    /// Those of [`Config::read`], and sizes that no model can have.
    pub fn common(&self) -> Result<Common> {
        let common: Common = self.read()?;
        common.check()?;
        Ok(common)
    }
}

/// The same text where Python's names of non-finite floats, which are no JSON, are numbers or `null`.
fn without_bare_floats(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    // Outside of strings are the parts between quotes that have an even number, if no quote is escaped.
    let parts = text.split('"').enumerate().map(|(i, part)| match i % 2 {
        0 => part.replace("Infinity", "1e308").replace("NaN", "null"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("\"")
}

/// transformers writes non-finite floats as `{"__float__": "Infinity"}`; JSON has no such number, and the largest double
/// becomes infinite as `f32`.
fn untag_floats(value: &mut Value) {
    match value {
        Value::Object(map) => match map.get("__float__").and_then(Value::as_str) {
            Some("Infinity") => *value = f64::MAX.into(),
            Some("-Infinity") => *value = f64::MIN.into(),
            Some(_) => *value = Value::Null,
            None => map.values_mut().for_each(untag_floats),
        },
        Value::Array(items) => items.iter_mut().for_each(untag_floats),
        _ => {}
    }
}

/// The keys that nearly every decoder's configuration has.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are those of config.json")]
pub struct Common {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub rms_norm_eps: f32,
    pub vocab_size: usize,
    pub max_position_embeddings: Option<usize>,
    pub rope_theta: Option<f32>,
    pub rope_scaling: Option<Value>,
    pub rope_parameters: Option<Value>,
    #[serde(default)]
    pub rope_traditional: bool,
    pub partial_rotary_factor: Option<f32>,
    pub original_max_position_embeddings: Option<usize>,
    pub tie_word_embeddings: Option<bool>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    pub hidden_act: Option<String>,
    pub hidden_activation: Option<String>,
    pub query_pre_attn_scalar: Option<f32>,
    pub sliding_window: Option<usize>,
    pub layer_types: Option<Vec<String>>,
}

/// Beyond these no checkpoint goes; a damaged or hostile configuration does.
const MOST_LAYERS: usize = 4096;
const LARGEST_SIZE: usize = 1 << 24;

impl Common {
    /// Checks the sizes.
    ///
    /// # Errors
    /// For those that no model can have.
    pub(crate) fn check(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("vocab_size", self.vocab_size),
            ("head_dim", self.head_dim.unwrap_or(1)),
        ];
        for (key, size) in sizes {
            if size == 0 || size > LARGEST_SIZE {
                return Err(Error::invalid(format!("config.json: {key} is {size}, which no model has")));
            }
        }
        if self.num_hidden_layers == 0 || self.num_hidden_layers > MOST_LAYERS {
            return Err(Error::invalid(format!(
                "config.json: num_hidden_layers is {}, which no model has",
                self.num_hidden_layers
            )));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            return Err(Error::invalid(format!(
                "config.json: {} attention heads cannot be shared by {} key and value heads",
                self.num_attention_heads,
                self.kv_heads()
            )));
        }
        if self.head_dim().is_multiple_of(2) && self.head_dim() > 0 {
            return Ok(());
        }
        Err(Error::invalid(format!("config.json: a head of size {} cannot be rotated", self.head_dim())))
    }

    /// The same with other numbers of query heads and of key and value heads.
    ///
    /// # Errors
    /// For numbers that no model can have.
    pub fn with_heads(&self, [heads, kv_heads]: [usize; 2]) -> Result<Common> {
        let common = Common { num_attention_heads: heads, num_key_value_heads: Some(kv_heads), ..self.clone() };
        common.check()?;
        Ok(common)
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Size of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// The norm with the weight as stored.
    pub fn norm(&self) -> Norm {
        Norm {
            kind: NormKind::Rms,
            parameters: NormParameters::Weight,
            eps: self.rms_norm_eps,
            offset: 0.0,
            original_offset: 0.0,
        }
    }

    /// The norm that takes off the mean, with the weight as stored.
    pub fn layer_norm(&self, bias: bool) -> Norm {
        let parameters = if bias { NormParameters::WeightAndBias } else { NormParameters::Weight };
        Norm { kind: NormKind::Layer, parameters, ..self.norm() }
    }

    /// The activation that `hidden_act` names, SiLU if it names none.
    ///
    /// # Errors
    /// For an activation that is not known.
    pub fn act(&self) -> Result<Unary> {
        activation("hidden_act", self.hidden_act.as_deref().unwrap_or("silu"))
    }

    /// The rotation that the configuration describes, of whole heads unless `partial_rotary_factor` says less.
    ///
    /// # Errors
    /// For a scaling that is not known, or lacks a key.
    pub fn rope(&self, default_base: f32) -> Result<Rope> {
        self.rope_stretched(self.plain_rope(default_base)?)
    }

    /// The same with the stretch that the configuration describes.
    ///
    /// # Errors
    /// For a scaling that is not known, or lacks a key.
    pub fn rope_stretched(&self, rope: Rope) -> Result<Rope> {
        let scaling = match self.rope_scaling.as_ref().or(self.rope_parameters.as_ref()) {
            Some(scaling) => RopeScaling::read(scaling, self, rope.dims, rope.base)?,
            None => RopeScaling::None,
        };
        Ok(Rope { scaling, ..rope })
    }

    /// The same, of families whose frequencies are never stretched.
    ///
    /// # Errors
    /// If no such part of a head can turn.
    pub fn plain_rope(&self, default_base: f32) -> Result<Rope> {
        let parameter = |key: &str| self.rope_parameters.as_ref().and_then(|p| p.get(key)).and_then(Value::as_f64);
        let base = self.rope_theta.or(parameter("rope_theta").map(|b| b as f32)).unwrap_or(default_base);
        let part = self.partial_rotary_factor.or(parameter("partial_rotary_factor").map(|f| f as f32)).unwrap_or(1.0);
        let dims = (self.head_dim() as f32 * part) as usize;
        self.rope_of(dims, base)
    }

    /// A rotation of `dims` of each head's numbers.
    ///
    /// # Errors
    /// If no so many can turn.
    pub fn rope_of(&self, dims: usize, base: f32) -> Result<Rope> {
        if dims == 0 || dims > self.head_dim() || !dims.is_multiple_of(2) {
            return Err(Error::invalid(format!(
                "config.json: {dims} of a head's {} numbers cannot be rotated",
                self.head_dim()
            )));
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(Error::invalid(format!("config.json: rope_theta is {base}, which is no base")));
        }
        Ok(Rope { dims, base, traditional: self.rope_traditional, backwards: false, scaling: RopeScaling::None })
    }

    /// The rotation of whole heads whose base `rope_scaling.alpha` raises.
    ///
    /// # Errors
    /// If there is a scaling without `alpha`, or a head too small for one.
    pub fn alpha_rope(&self) -> Result<Rope> {
        let rope = self.rope_of(self.head_dim(), self.rope_theta.unwrap_or(10_000.0))?;
        let Some(scaling) = &self.rope_scaling else { return Ok(rope) };
        let dims = rope.dims as f32;
        match scaling.get("alpha").and_then(Value::as_f64) {
            Some(alpha) if alpha > 0.0 && dims > 2.0 => {
                Ok(Rope { base: rope.base * (alpha as f32).powf(dims / (dims - 2.0)), ..rope })
            }
            _ => Err(Error::invalid("config.json: rope_scaling needs a positive `alpha`")),
        }
    }

    /// Plain attention: grouped queries, separate projections, full context.
    ///
    /// # Errors
    /// Those of [`Common::rope`].
    pub fn attention(&self) -> Result<Attention> {
        Ok(Attention {
            heads: self.num_attention_heads,
            kv_heads: self.kv_heads(),
            head_dim: self.head_dim(),
            value_dim: self.head_dim(),
            projection: Projection::Separate,
            qkv_bias: self.attention_bias,
            out_bias: self.attention_bias,
            clip: None,
            qk_norm: None,
            v_norm: None,
            keys_of: None,
            rope: Some(self.rope(10_000.0)?),
            temperature: None,
            scale: (self.head_dim() as f32).powf(-0.5),
            softcap: None,
            window: None,
            chunked: false,
            sinks: false,
            gate: None,
        })
    }

    /// A layer of the two, each behind a norm.
    pub fn layer(&self, attention: Attention, mlp: Mlp) -> Layer {
        Layer {
            mixer: Some(Mixer::Attention(attention)),
            mlp: Some(mlp),
            residual: Residual::PreNorm,
            scales: [1.0; 2],
            norm: self.norm(),
            after: None,
        }
    }

    /// A plain gated unit.
    ///
    /// # Errors
    /// Those of [`Common::act`].
    pub fn mlp(&self) -> Result<Mlp> {
        Ok(self.gated()?.into())
    }

    /// A plain gated unit, to be varied.
    ///
    /// # Errors
    /// Those of [`Common::act`].
    pub fn gated(&self) -> Result<Gated> {
        Ok(Gated {
            hidden: self.intermediate_size,
            act: self.act()?.into(),
            projection: Projection::Separate,
            bias: self.mlp_bias,
        })
    }

    /// The window of layer `index` where `layer_types` makes it a sliding one.
    ///
    /// # Errors
    /// For a layer type that is not known, or a sliding one without `sliding_window`.
    pub fn window(&self, index: usize) -> Result<Option<usize>> {
        let Some(types) = &self.layer_types else { return Ok(None) };
        match types.get(index).map(String::as_str) {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => match self.sliding_window {
                Some(window) if window > 0 => Ok(Some(window)),
                _ => Err(Error::invalid(format!("config.json: layer {index} slides but there is no `sliding_window`"))),
            },
            Some(other) => {
                Err(Error::unsupported(format!("config.json: layer_types names `{other}`, which is not supported")))
            }
            None => Err(Error::invalid(format!(
                "config.json: layer_types has {} entries for {} layers",
                types.len(),
                self.num_hidden_layers
            ))),
        }
    }

    /// Longest sequence: scalings that stretch a trained length make it longer than `max_position_embeddings` may say.
    fn context(&self) -> Option<usize> {
        let stretched = match self.rope(10_000.0).map(|rope| rope.scaling) {
            Ok(RopeScaling::Dynamic { factor, context }) => factor * context as f32,
            Ok(RopeScaling::Yarn { factor, context, .. }) => factor * context,
            _ => 0.0,
        };
        self.max_position_embeddings.map(|most| most.max(stretched as usize))
    }

    /// A decoder of the given layers, with the usual ends.
    ///
    /// # Errors
    /// The first that `layer` returns.
    pub fn decoder(&self, tied: bool, layer: impl FnMut(usize) -> Result<Layer>) -> Result<Decoder> {
        Ok(Decoder {
            vocab: self.vocab_size,
            dim: self.hidden_size,
            embed_scale: None,
            embed_norm: None,
            layers: (0..self.num_hidden_layers).map(layer).map(|l| l.and_then(checked)).collect::<Result<_>>()?,
            norm: self.norm(),
            positions: None,
            head_bias: false,
            logit_scale: None,
            head: if self.tie_word_embeddings.unwrap_or(tied) { Head::Tied } else { Head::Own },
            depth_blocks: None,
            logit_softcap: None,
            context: self.context(),
            renames: &[],
            transposed: &[],
            more_layers: false,
            converted_only: false,
        })
    }
}

/// A layer whose sizes can be.
fn checked(layer: Layer) -> Result<Layer> {
    let mut sizes = Vec::new();
    if let Some(Mixer::Attention(a)) = &layer.mixer {
        sizes.extend([a.heads, a.kv_heads, a.head_dim, a.value_dim, a.window.unwrap_or(1)]);
    }
    if let Some(Mlp::Dense(unit)) = &layer.mlp {
        sizes.push(unit.hidden());
    }
    match sizes.into_iter().find(|size| *size == 0 || *size > LARGEST_SIZE) {
        Some(size) => Err(Error::invalid(format!("config.json: a layer with a size of {size}, which no model has"))),
        None => Ok(layer),
    }
}

/// The function that an activation's name in a configuration means.
fn activation(key: &str, name: &str) -> Result<Unary> {
    Ok(match name {
        "silu" | "swish" => Unary::Silu,
        "gelu" => Unary::Gelu,
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" | "gelu_tanh" => Unary::GeluTanh,
        "relu" => Unary::Relu,
        "relu2" => Unary::Relu2,
        other => {
            return Err(Error::unsupported(format!(
                "config.json: {key} is `{other}`, an activation that is not supported"
            )));
        }
    })
}
