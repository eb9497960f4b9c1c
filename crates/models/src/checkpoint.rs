//! A checkpoint: a directory (or files inside the program) with a configuration and tensors.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use mlxengine_tensor::{Bytes, Tensor, safetensors};
use serde_json::Value;

use crate::{Config, Error, ErrorKind, Result};

/// Where a checkpoint's files are.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory.
    Directory(PathBuf),
    /// Files that are part of the program: name and contents.
    Embedded {
        /// What messages call it.
        name: &'static str,
        /// The files.
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl Source {
    /// What messages call it.
    pub fn name(&self) -> String {
        match self {
            Source::Directory(path) => path.display().to_string(),
            Source::Embedded { name, .. } => (*name).to_owned(),
        }
    }

    /// A small file's contents, if there is such a file.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn read(&self, file: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Source::Directory(directory) => match std::fs::read(directory.join(file)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(Error::invalid(format!("cannot read {}: {e}", directory.join(file).display()))),
            },
            Source::Embedded { files, .. } => {
                Ok(files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| bytes.to_vec()))
            }
        }
    }

    /// A JSON file's value, if there is such a file.
    ///
    /// # Errors
    /// If it is there and is not JSON.
    pub fn json(&self, file: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.read(file)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|e| Error::invalid(format!("{file} in {} is not valid JSON: {e}", self.name())))
    }

    /// The names of all files.
    ///
    /// # Errors
    /// If the directory is not there or cannot be listed.
    pub fn files(&self) -> Result<Vec<String>> {
        let directory = match self {
            Source::Embedded { files, .. } => return Ok(files.iter().map(|(name, _)| (*name).to_owned()).collect()),
            Source::Directory(directory) => directory,
        };
        let fail = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("there is no model at {}: give the directory of a checkpoint", directory.display()),
            ),
            std::io::ErrorKind::NotADirectory => Error::new(
                ErrorKind::NotFound,
                format!("{} is a file: give the directory of a checkpoint", directory.display()),
            ),
            _ => Error::invalid(format!("cannot list {}: {e}", directory.display())),
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(fail)? {
            names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn bytes(&self, file: &str) -> Result<Bytes> {
        match self {
            Source::Directory(directory) => Ok(Bytes::map(&directory.join(file))?),
            Source::Embedded { files, .. } => {
                let found = files.iter().find(|(name, _)| *name == file);
                found
                    .map(|(_, bytes)| Bytes::from_static(bytes))
                    .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{} has no {file}", self.name())))
            }
        }
    }
}

/// An opened checkpoint: its configuration read, its tensors mapped. Clones share them.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Where it came from.
    pub source: Source,
    /// `config.json`.
    pub config: Config,
    /// Every tensor with its name in the files.
    pub tensors: Vec<(String, Tensor)>,
    /// Whether the files are in MLX's layout: they say so (`__metadata__.format`), or say nothing and look like it.
    pub mlx_format: bool,
    /// Shards that the index names and that are not there.
    pub missing_shards: Vec<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in a directory.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub fn open_directory(directory: impl AsRef<Path>) -> Result<Self> {
        Self::open(Source::Directory(directory.as_ref().to_owned()))
    }

    /// Reads the configuration and maps the tensors.
    ///
    /// # Errors
    /// If there is no configuration or no safetensors file, or one cannot be read.
    pub fn open(source: Source) -> Result<Self> {
        let names = source.files()?;
        let Some(config) = source.read("config.json")? else {
            return Err(Error::new(ErrorKind::NotFound, no_config(&source, &names)));
        };
        let config = Config::parse(&config).map_err(|e| Error::new(e.kind(), format!("{}: {e}", source.name())))?;
        let shards = choose_shards(&names);
        if shards.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, no_weights(&source, &names)));
        }
        let (mut tensors, mut seen, mut format) = (Vec::new(), HashSet::new(), None);
        for shard in &shards {
            let path = format!("{}/{shard}", source.name());
            let file = safetensors::File::from_bytes(source.bytes(shard)?, path)?;
            format = format.or_else(|| file.layout().metadata.get("format").cloned());
            // A repository may hold the same tensors whole and in shards: the first counts.
            tensors.extend(
                file.tensors().filter(|(name, _)| seen.insert(name.to_string())).map(|(name, t)| (name.to_owned(), t)),
            );
        }
        let missing_shards = listed_shards(&source)?.into_iter().filter(|s| !names.contains(s)).collect();
        let mlx_format = match format {
            Some(format) => format == "mlx",
            None => {
                // Other tools have scales as well.
                let foreign = tensors.iter().any(|(name, _)| name.ends_with(".qweight"));
                !foreign && tensors.iter().any(|(name, tensor)| looks_converted(name, tensor))
            }
        };
        Ok(Self { source, config, tensors, mlx_format, missing_shards })
    }

    /// A number that tells checkpoints apart: of the configuration, and of each tensor the name, type, shape and some bytes.
    pub fn fingerprint(&self) -> u64 {
        let config = serde_json::to_string(self.config.values()).unwrap_or_default();
        fingerprint(config.as_bytes(), self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))
    }
}

/// FNV-1a (Fowler et al.) of what is given: of each tensor 64 bytes at the start, at the end and between.
pub(crate) fn fingerprint<'a>(text: &[u8], tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(text);
    for (name, tensor) in tensors {
        add(name.as_bytes());
        add(tensor.spec().to_string().as_bytes());
        let bytes = tensor.bytes();
        for quarter in 0..=4 {
            let start = bytes.len().saturating_sub(64) / 4 * quarter;
            add(&bytes[start..(start + 64).min(bytes.len())]);
        }
    }
    hash
}

/// Whether only conversion to MLX's layout makes such a tensor: experts in a stack of theirs, codes and scales, kernels over
/// time with their last axis of size 1.
fn looks_converted(name: &str, tensor: &Tensor) -> bool {
    let kernels = name.contains("conv") && matches!(tensor.shape()[..], [_, kernel, 1] if kernel > 1);
    kernels || name.contains(".switch_mlp.") || name.ends_with(".scales")
}

/// The safetensors files that hold the model: `model*`, else `weights*`, else whatever is no adapter or optimizer.
fn choose_shards(names: &[String]) -> Vec<String> {
    let other = ["consolidated", "adapter", "optimizer", "training"];
    let candidates: Vec<&String> = names
        .iter()
        .filter(|n| n.ends_with(".safetensors") && !n.starts_with('.') && !other.iter().any(|o| n.starts_with(o)))
        .collect();
    for prefix in ["model", "weight"] {
        let chosen: Vec<String> = candidates.iter().filter(|n| n.starts_with(prefix)).map(|n| (*n).clone()).collect();
        if !chosen.is_empty() {
            return chosen;
        }
    }
    candidates.into_iter().cloned().collect()
}

/// The shards that the index lists. Indexes are often stale, so a shard they name counts as missing only when a tensor is.
fn listed_shards(source: &Source) -> Result<Vec<String>> {
    let Some(index) = source.json("model.safetensors.index.json")? else { return Ok(Vec::new()) };
    let files = index.get("weight_map").and_then(Value::as_object).into_iter().flat_map(|map| map.values());
    let unique: HashSet<&str> = files.filter_map(Value::as_str).collect();
    let mut shards: Vec<String> = unique.into_iter().map(str::to_owned).collect();
    shards.sort();
    Ok(shards)
}

fn no_config(source: &Source, names: &[String]) -> String {
    let gguf = names.iter().find(|n| n.ends_with(".gguf"));
    match gguf {
        Some(file) => {
            format!("{} has no config.json, only {file}: give that file itself, and it is imported", source.name())
        }
        None => format!(
            "{} has no config.json, so it is no checkpoint: give the directory that holds config.json and *.safetensors",
            source.name()
        ),
    }
}

fn no_weights(source: &Source, names: &[String]) -> String {
    let other = names.iter().find(|n| [".bin", ".pt", ".pth", ".npz", ".gguf"].iter().any(|end| n.ends_with(end)));
    match other {
        Some(file) => {
            format!("{} has no *.safetensors, only {file}: convert the checkpoint to safetensors first", source.name())
        }
        None => {
            format!("{} has no *.safetensors: the weights are missing, download the whole checkpoint", source.name())
        }
    }
}
