//! A model and an adapter as one checkpoint.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mlxengine_engine::{EngineError, ErrorKind, LoadedModel, Result};
use mlxengine_models::{
    Adapter, CacheOptions, Checkpoint, Fusion, LanguageModel, Loss, Precision, Source, Span, decoder,
};
use serde_json::{Map, Value, json};

use crate::engine::LoadProgress;
use crate::source::{ModelPaths, ModelSource};

/// How a model and an adapter are merged.
#[derive(Clone, Debug, Default)]
pub struct FuseOptions {
    /// Where models are looked for by name.
    pub paths: ModelPaths,
    /// Store plain numbers, also where the model has codes.
    pub dequantize: bool,
    /// Replace what is there.
    pub force: bool,
}

/// What merging gave.
#[derive(Clone, Debug, PartialEq)]
pub struct FuseReport {
    /// What storing each merged module lost.
    pub losses: Vec<Loss>,
    /// Of the merged model's answers to a short text, compared with those of the model under the adapter.
    pub agreement: Option<Agreement>,
}

/// How alike two models answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Mean Kullback-Leibler divergence of the next token, in nats.
    pub divergence: f64,
    /// Share of positions whose likeliest token is the same.
    pub same: f64,
}

impl FuseReport {
    /// All modules together.
    pub fn total(&self) -> Loss {
        let sum = |of: fn(&Loss) -> f64| self.losses.iter().map(of).sum();
        Loss { module: String::new(), error: sum(|l| l.error), weight: sum(|l| l.weight), change: sum(|l| l.change) }
    }

    /// The module that lost most in relation to its weights.
    pub fn worst(&self) -> Option<&Loss> {
        self.losses.iter().max_by(|a, b| a.relative().total_cmp(&b.relative()))
    }
}

/// Bytes of one file, as mlx-lm cuts them.
const SHARD: usize = 5 << 30;

/// A text on which the merged model is compared.
const SAMPLE: &str = "The river rises in the hills, where it rains for most of the year, and reaches the sea two hundred \
    miles further on. Boats carried wool and salt along it until the railway came; today people walk on its banks.";

/// Merges an adapter into a model's checkpoint and writes the result to a directory, which appears when it is whole;
/// `progress` hears of each tensor.
///
/// # Errors
/// If the adapter does not fit the model, the directory is there already, or it cannot be written.
pub fn fuse(
    model: &str,
    adapter: &Path,
    output: &Path,
    options: &FuseOptions,
    mut progress: impl FnMut(LoadProgress),
) -> Result<FuseReport> {
    if output.exists() && !options.force {
        let message = format!("{} is there already", output.display());
        return Err(
            EngineError::new(ErrorKind::InvalidInput, message).with_remedy("choose another directory, or --force")
        );
    }
    let source = ModelSource::parse(model)?.resolve(&options.paths)?;
    let checkpoint = Checkpoint::open(source)?;
    let adapter = Adapter::open(adapter)?;
    let fusion = Fusion::plan(&checkpoint, &adapter, options.dequantize)?;
    let part = sibling(output, "part");
    let written =
        write(&checkpoint, &fusion, &part, options.dequantize, &mut progress).and_then(|()| replace(&part, output));
    if written.is_err() {
        let _ = std::fs::remove_dir_all(&part);
    }
    written?;
    let under = decoder::load_adapted(&checkpoint, Some(&adapter), Precision::Exact, |_, _| {})?;
    Ok(FuseReport { losses: fusion.losses(), agreement: agreement(&*under, output)? })
}

fn io(what: &Path) -> impl Fn(std::io::Error) -> EngineError {
    move |e| EngineError::new(ErrorKind::Io, format!("cannot write {}: {e}", what.display())).with_source(e)
}

/// A path beside another, of this process alone.
fn sibling(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{what}-{}", std::process::id()))
}

/// Puts a directory in the place of another.
fn replace(new: &Path, place: &Path) -> Result<()> {
    let old = sibling(place, "old");
    let replaced = place.exists();
    if replaced {
        std::fs::rename(place, &old).map_err(io(place))?;
    }
    if let Err(e) = std::fs::rename(new, place) {
        if replaced {
            let _ = std::fs::rename(&old, place);
        }
        return Err(io(place)(e));
    }
    if replaced {
        std::fs::remove_dir_all(&old).or_else(|_| std::fs::remove_file(&old)).map_err(io(&old))?;
    }
    Ok(())
}

fn write(
    checkpoint: &Checkpoint,
    fusion: &Fusion,
    directory: &Path,
    dequantize: bool,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(io(directory))?;
    copy_others(&checkpoint.source, directory)?;
    let mut config: Map<String, Value> = checkpoint.config.values().clone();
    if dequantize {
        config.retain(|key, _| key != "quantization" && key != "quantization_config");
    }
    let file = directory.join("config.json");
    std::fs::write(&file, format!("{:#}", Value::Object(config))).map_err(io(&file))?;
    let (names, sizes): (Vec<&str>, Vec<usize>) = fusion.tensors().unzip();
    let shards = shards(&sizes);
    let (count, total) = (shards.len(), names.len());
    let mut map = Map::new();
    let heard = RefCell::new((progress, 0));
    let metadata = HashMap::from([("format".to_owned(), if checkpoint.mlx_format { "mlx" } else { "pt" }.to_owned())]);
    for (index, shard) in shards.iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        map.extend(shard.iter().map(|i| (names[*i].to_owned(), Value::from(name.as_str()))));
        let each = || {
            let (progress, done) = &mut *heard.borrow_mut();
            *done += 1;
            progress(LoadProgress { done: *done, total });
        };
        let written = directory.join(&name);
        fusion.write(&written, shard, &metadata, &each)?;
        // The writer of tensors keeps its files to their owner.
        let like = std::fs::metadata(&file).map_err(io(&file))?.permissions();
        std::fs::set_permissions(&written, like).map_err(io(&written))?;
    }
    let size: usize = sizes.iter().sum();
    let index = json!({"metadata": {"total_size": size}, "weight_map": map});
    let file = directory.join("model.safetensors.index.json");
    std::fs::write(&file, format!("{index:#}")).map_err(io(&file))
}

/// Indices of the tensors of each file.
fn shards(sizes: &[usize]) -> Vec<Vec<usize>> {
    let (mut shards, mut held) = (vec![Vec::new()], 0);
    for (index, size) in sizes.iter().enumerate() {
        if held > 0 && held + size > SHARD {
            shards.push(Vec::new());
            held = 0;
        }
        held += size;
        shards.last_mut().expect("there is one").push(index);
    }
    shards
}

/// Copies what is neither weights nor written anew: tokenizer, templates, generation parameters, licence.
fn copy_others(source: &Source, directory: &Path) -> Result<()> {
    const WEIGHTS: [&str; 8] = [".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz", ".h5", ".index.json"];
    for file in source.files()? {
        if file.starts_with('.') || file == "config.json" || WEIGHTS.iter().any(|end| file.ends_with(end)) {
            continue;
        }
        let to = directory.join(&file);
        if let Source::Directory(from) = source
            && from.join(&file).is_dir()
        {
            if file == "additional_chat_templates" {
                std::fs::create_dir_all(&to).map_err(io(&to))?;
                copy_others(&Source::Directory(from.join(&file)), &to)?;
            }
            continue;
        }
        if let Some(bytes) = source.read(&file)? {
            std::fs::write(&to, bytes).map_err(io(&to))?;
        }
    }
    Ok(())
}

/// How alike the merged model and the one under the adapter answer; none without a tokenizer.
fn agreement(under: &dyn LanguageModel, merged: &Path) -> Result<Option<Agreement>> {
    let Ok(merged) = LoadedModel::load(&Checkpoint::open_directory(merged)?, Precision::Exact, |_, _| {}) else {
        return Ok(None);
    };
    let tokens = merged.tokenizer.encode(SAMPLE, true)?;
    let log_probabilities = |network: &dyn LanguageModel| -> Result<Vec<Vec<f64>>> {
        let mut state = network.state(&CacheOptions::default())?;
        let hidden = network.forward(&mut [Span { tokens: &tokens, state: &mut state }]);
        let logits = network.logits(&hidden);
        let rows = logits.f32s().chunks_exact(logits.shape().last());
        Ok(rows
            .map(|row| {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
                row.iter().map(|x| f64::from(x - most) - sum.ln()).collect()
            })
            .collect())
    };
    let (want, got) = (log_probabilities(under)?, log_probabilities(&*merged.network)?);
    let likeliest = |row: &[f64]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(token, _)| token);
    let divergence = |want: &[f64], got: &[f64]| want.iter().zip(got).map(|(w, g)| w.exp() * (w - g)).sum::<f64>();
    let pairs = || want.iter().zip(&got);
    let count = want.len().max(1) as f64;
    Ok(Some(Agreement {
        divergence: pairs().map(|(w, g)| divergence(w, g)).sum::<f64>() / count,
        same: pairs().filter(|(w, g)| likeliest(w) == likeliest(g)).count() as f64 / count,
    }))
}
