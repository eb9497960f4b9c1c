//! GGUF files as checkpoints: configuration, tokenizer and template from their metadata, weights in MLX's layout.

mod config;
mod metadata;
mod tensors;
mod tokenizer;
mod write;

use std::ops::ControlFlow;
use std::path::Path;

use mlxengine_tensor::QuantFormat;
use mlxengine_tensor::gguf::{Deviation, Encoding, File, Stored};
use serde_json::{Map, Value, json};

use crate::families::gguf::Architecture;
use crate::{Error, Result};

pub(crate) use metadata::Metadata;
use tensors::Planned;

/// What an import wrote, and what it lost.
#[derive(Clone, Debug)]
pub struct Report {
    /// GGUF's name of the architecture.
    pub architecture: String,
    /// Tensors of the file.
    pub tensors: usize,
    /// Bytes of weights that were written.
    pub bytes: u64,
    /// What became of each encoding that MLX cannot keep exactly.
    pub inexact: Vec<Inexact>,
    /// The deviation of all weights that are not exact.
    pub deviation: Deviation,
}

/// What became of an encoding.
#[derive(Clone, Debug)]
pub struct Inexact {
    /// GGUF's encoding.
    pub encoding: Encoding,
    /// The layout that its weights have now.
    pub format: QuantFormat,
    /// Whether codes are new; else scales alone were rounded.
    pub requantized: bool,
    /// How many tensors.
    pub tensors: usize,
    /// The tensor that lost most, and its relative deviation.
    pub worst: (String, f64),
    /// The deviation of all of them.
    pub deviation: Deviation,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file's tensors that were read.
    pub done: u64,
    /// All of them.
    pub total: u64,
}

/// What a GGUF file says, as the files of a checkpoint say it; nothing is written yet.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    file: &'a File,
    architecture: &'static str,
    /// Name and text of each file but the weights.
    texts: Vec<(String, String)>,
    tensors: Vec<Planned<'a>>,
}

impl<'a> Model<'a> {
    /// Reads the metadata, and finds a place for every tensor.
    ///
    /// # Errors
    /// If the architecture, the tokenizer, a key or a tensor is not known, or the file contradicts itself.
    pub fn read(file: &'a File) -> Result<Self> {
        let metadata = Metadata::new(file)?;
        let architecture = Architecture::find(&metadata)?;
        let vocabulary = tokenizer::Vocabulary::read(file.layout())?;
        let mut config = config::config(&metadata, architecture)?;
        config.extend(vocabulary.ids());
        let tensors = tensors::plan(&metadata, architecture)?;
        config.extend(quantization(&tensors));
        let readable = |value: Value| format!("{value:#}\n");
        let mut texts = vec![
            ("config.json".to_owned(), readable(config.into())),
            ("generation_config.json".to_owned(), readable(vocabulary.ids().into())),
            ("tokenizer.json".to_owned(), vocabulary.tokenizer()?.to_string()),
            ("tokenizer_config.json".to_owned(), readable(vocabulary.configuration())),
        ];
        texts.extend(vocabulary.templates());
        Ok(Self { file, architecture: architecture.name, texts, tensors })
    }

    /// Writes the checkpoint into a new directory. It gets its name when it is whole; until then it has another beside it, which
    /// is removed if anything fails or `progress` says to stop.
    ///
    /// # Errors
    /// If the directory is there already, numbers of the file cannot be kept, the disk is full, or `progress` said to stop.
    pub fn write(&self, directory: &Path, mut progress: impl FnMut(Progress) -> ControlFlow<()>) -> Result<Report> {
        let staging = write::Staging::create(directory)?;
        for (name, text) in &self.texts {
            staging.text(name, text)?;
        }
        let mut report = Report {
            architecture: self.architecture.to_owned(),
            tensors: self.tensors.len(),
            bytes: 0,
            inexact: Vec::new(),
            deviation: Deviation::default(),
        };
        write::weights(&staging, self.file, &self.tensors, &mut report, &mut progress)?;
        staging.finish()?;
        Ok(report)
    }
}

impl Report {
    fn add(&mut self, planned: &Planned<'_>, deviation: Deviation) {
        let Some(format) = planned.stored.format().filter(|_| !planned.info.encoding.is_lossless()) else { return };
        self.deviation.add(deviation);
        let encoding = planned.info.encoding;
        let entry = match self.inexact.iter_mut().position(|entry| entry.encoding == encoding) {
            Some(found) => &mut self.inexact[found],
            None => {
                self.inexact.push(Inexact {
                    encoding,
                    format,
                    requantized: matches!(planned.stored, Stored::Requantized(_)),
                    tensors: 0,
                    worst: (planned.info.name.clone(), 0.0),
                    deviation: Deviation::default(),
                });
                self.inexact.last_mut().expect("one was added")
            }
        };
        entry.tensors += 1;
        entry.deviation.add(deviation);
        if deviation.relative() > entry.worst.1 {
            entry.worst = (planned.info.name.clone(), deviation.relative());
        }
    }
}

/// The keys of `config.json` that say how weights are quantized: what most weights have, and each module that differs.
fn quantization(planned: &[Planned<'_>]) -> Map<String, Value> {
    let mut sizes: Vec<(QuantFormat, usize)> = Vec::new();
    let quantized = || planned.iter().filter_map(|tensor| Some((tensor, tensor.stored.format()?)));
    for (tensor, format) in quantized() {
        let elements = tensor.shape.elements();
        match sizes.iter_mut().find(|(known, _)| *known == format) {
            Some((_, size)) => *size += elements,
            None => sizes.push((format, elements)),
        }
    }
    let Some((most, _)) = sizes.into_iter().max_by_key(|(_, size)| *size) else { return Map::new() };
    let describe = |format: QuantFormat| {
        let mut value = json!({"group_size": format.group, "bits": format.bits});
        if format.mode != mlxengine_tensor::QuantMode::Affine {
            value["mode"] = json!("mxfp4");
        }
        value
    };
    let mut keys = describe(most);
    for (tensor, format) in quantized().filter(|(_, format)| *format != most) {
        let mut own = describe(format);
        if most.mode != format.mode && own.get("mode").is_none() {
            own["mode"] = json!("affine");
        }
        keys[tensor.name.trim_end_matches(".weight")] = own;
    }
    [("quantization", keys.clone()), ("quantization_config", keys)]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

/// Whether a file begins as GGUF files do.
pub fn is_gguf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == mlxengine_tensor::gguf::MAGIC
}

fn stopped() -> Error {
    Error::new(crate::ErrorKind::Cancelled, "the import was stopped; nothing is left of it")
}
