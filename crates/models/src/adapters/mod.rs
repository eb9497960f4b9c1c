//! Adapters: changes to a model's weights that are kept apart from them.
//!
//! MLX's layout and PEFT's become one form, an [`Adapter`]. While a model is loaded, [`crate::weights`] finds the module of
//! each change; a layer then computes with both, whatever its weight's precision.

mod delta;
mod fuse;
mod mlx;
mod peft;

use std::collections::BTreeMap;
use std::path::Path;

use mlxengine_tensor::{Tensor, safetensors};
use serde_json::Value;

use crate::{Error, ErrorKind, Result, Source};
pub(crate) use delta::{Delta, TableDelta, merged, plain};
pub use fuse::{Fusion, Loss};

/// Changes to the weights of a model, as they were trained.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What messages call it.
    pub(crate) name: String,
    /// Changes of low rank, by module.
    pub(crate) low_rank: BTreeMap<String, LowRank>,
    /// Tensors in place of the checkpoint's, by name.
    pub(crate) whole: BTreeMap<String, Tensor>,
    /// Whether a change to the embedding is one to the head that is tied to it as well.
    pub(crate) tied_head: bool,
}

/// `W + scale · (a b)ᵀ` of a linear layer with `a [inputs, rank]`, `b [rank, outputs]` (Hu et al. 2021).
///
/// Of a table, `W + scale · a b` with `a [rows, rank]`, `b [rank, columns]`; of experts, `W + scale · b a` each, with
/// `a [experts, rank, inputs]`, `b [experts, outputs, rank]`.
#[derive(Clone, Debug)]
pub(crate) struct LowRank {
    pub(crate) a: Tensor,
    pub(crate) b: Tensor,
    pub(crate) scale: f32,
    /// Length that each row of the sum is given (DoRA, Liu et al. 2024).
    pub(crate) magnitude: Option<Tensor>,
}

impl LowRank {
    /// Number of trained weights.
    pub(crate) fn parameters(&self) -> usize {
        self.tensors().map(|t| t.shape().elements()).sum()
    }

    /// Bytes of the trained weights.
    pub(crate) fn bytes(&self) -> usize {
        self.tensors().map(|t| t.spec().bytes()).sum()
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.a, &self.b].into_iter().chain(&self.magnitude)
    }
}

/// How an adapter met a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterReport {
    /// Modules that it changes by matrices of low rank.
    pub modules: usize,
    /// Those of them that are tables of rows.
    pub tables: Vec<String>,
    /// Tensors that it replaces.
    pub tensors: usize,
    /// Its trained weights.
    pub parameters: usize,
    /// Bytes that they take.
    pub bytes: usize,
    /// Changes to parts of the checkpoint that are not used here, each with the reason.
    pub ignored: Vec<(String, &'static str)>,
}

impl Adapter {
    /// Reads the adapter in a directory, in MLX's layout or PEFT's.
    ///
    /// # Errors
    /// If there is none, a file is damaged, or it is of a kind that is not supported.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let name = directory.display().to_string();
        let error = |e: Error| Error::new(e.kind(), format!("the adapter {name}: {e}"));
        let missing = |what: String| Error::new(ErrorKind::NotFound, what);
        if !directory.is_dir() {
            let what = format!("there is no adapter at {name}: give the directory that holds adapter_config.json");
            return Err(missing(what));
        }
        let source = Source::Directory(directory.to_owned());
        let Some(config) = source.json("adapter_config.json").map_err(error)? else {
            let what = format!("{name} has no adapter_config.json, so it is no adapter: give the directory of one");
            return Err(missing(what));
        };
        let is_peft = config.get("peft_type").is_some();
        let file = if is_peft { "adapter_model.safetensors" } else { "adapters.safetensors" };
        if !directory.join(file).is_file() {
            let other =
                source.files()?.into_iter().find(|f| [".npz", ".bin", ".pt"].iter().any(|end| f.ends_with(end)));
            let instead = other.map_or_else(String::new, |f| format!(", only {f}: convert it to safetensors first"));
            return Err(missing(format!("the adapter {name} has no {file}{instead}")));
        }
        let file = safetensors::File::open(&directory.join(file))?;
        let tensors: Vec<(String, Tensor)> = file.tensors().map(|(name, t)| (name.to_owned(), t)).collect();
        let parts = if is_peft { peft::read(&config, tensors) } else { mlx::read(&config, tensors) }.map_err(error)?;
        Ok(Self { name, low_rank: parts.low_rank, whole: parts.whole, tied_head: !is_peft })
    }

    /// A number that tells adapters apart.
    pub fn fingerprint(&self) -> u64 {
        let halves =
            self.low_rank.iter().flat_map(|(module, change)| change.tensors().map(move |t| (module.as_str(), t)));
        let scales: Vec<u8> = self.low_rank.values().flat_map(|change| change.scale.to_le_bytes()).collect();
        let whole = self.whole.iter().map(|(name, tensor)| (name.as_str(), tensor));
        crate::checkpoint::fingerprint(&scales, halves.chain(whole))
    }

    /// An adapter from the contents of its files, whichever layout the configuration says.
    ///
    /// # Errors
    /// If they contradict each other or are of a kind that is not supported.
    pub fn from_parts(config: &Value, tensors: Vec<(String, Tensor)>) -> Result<Self> {
        let is_peft = config.get("peft_type").is_some();
        let parts = if is_peft { peft::read(config, tensors) } else { mlx::read(config, tensors) }?;
        Ok(Self { name: "adapter".to_owned(), low_rank: parts.low_rank, whole: parts.whole, tied_head: !is_peft })
    }
}

/// What a file's tensors mean.
#[derive(Default)]
struct Parts {
    low_rank: BTreeMap<String, LowRank>,
    whole: BTreeMap<String, Tensor>,
}

/// The parts of one module's change, as a file lists them.
#[derive(Default)]
struct Halves {
    a: Option<Tensor>,
    b: Option<Tensor>,
    magnitude: Option<Tensor>,
}

impl Halves {
    /// The change, with the scale that `scale` says for its rank.
    fn join(self, module: &str, scale: impl FnOnce(usize) -> Result<f32>) -> Result<LowRank> {
        let (Some(a), Some(b)) = (self.a, self.b) else {
            return Err(Error::invalid(format!("`{module}` has one of its two matrices: the file is cut or damaged")));
        };
        for tensor in [&a, &b].into_iter().chain(&self.magnitude) {
            if !tensor.dtype().is_float() {
                return Err(Error::invalid(format!("`{module}` holds {}, floats are expected", tensor.spec())));
            }
        }
        let rank = match a.shape().len() {
            3 => a.shape()[1],
            _ => a.shape().last(),
        };
        Ok(LowRank { scale: scale(rank)?, a, b, magnitude: self.magnitude })
    }
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::UnsupportedModel, message)
}
