//! Writing the imported checkpoint: shards, piece by piece, in a directory that gets its name when it is whole.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlxengine_tensor::gguf::{Deviation, File, Rows, convert};
use mlxengine_tensor::safetensors::Writer;
use mlxengine_tensor::{Dtype, QuantMode, Spec};
use serde_json::json;

use crate::{Error, ErrorKind, Result};

use super::tensors::{Edit, Planned};
use super::{Progress, Report, stopped};

/// Most bytes of a shard, but for a tensor that is larger.
const SHARD: u64 = 5_000_000_000;
/// Numbers that are converted at once.
const PIECE: usize = 1 << 20;

/// A directory under construction; dropped before [`Staging::finish`], it is removed.
pub(super) struct Staging {
    target: PathBuf,
    directory: PathBuf,
    finished: bool,
}

fn fail(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write {}: {error}", path.display()))
}

impl Staging {
    pub(super) fn create(target: &Path) -> Result<Staging> {
        if target.exists() {
            let message = format!("{} is there already: remove it, or give another name", target.display());
            return Err(Error::new(ErrorKind::InvalidOption, message));
        }
        let Some(name) = target.file_name() else {
            return Err(Error::new(ErrorKind::InvalidOption, format!("{} is no new directory", target.display())));
        };
        let name = format!(".{}.part-{}", name.to_string_lossy(), std::process::id());
        let directory = target.with_file_name(name);
        let staging = Staging { target: target.to_owned(), directory, finished: false };
        std::fs::create_dir_all(&staging.directory).map_err(|e| fail(&staging.directory, &e))?;
        Ok(staging)
    }

    pub(super) fn text(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        let parent = path.parent().unwrap_or(&self.directory);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text));
        written.map_err(|e| fail(&path, &e))
    }

    pub(super) fn finish(mut self) -> Result<()> {
        std::fs::rename(&self.directory, &self.target).map_err(|e| fail(&self.target, &e))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// The arrays of a tensor in the checkpoint: floats, or codes, scales and biases.
fn arrays(tensor: &Planned<'_>) -> Vec<(String, Spec)> {
    let base = tensor.name.trim_end_matches(".weight");
    let last = tensor.shape.last();
    let with_last = |dtype: Dtype, size: usize| Spec::new(dtype, tensor.shape.with_last(size));
    let Some(format) = tensor.stored.format() else {
        let dtype = tensor.info.encoding.dtype().unwrap_or(Dtype::F32);
        return vec![(tensor.name.clone(), Spec::new(dtype, tensor.shape))];
    };
    let codes = (tensor.name.clone(), with_last(Dtype::U32, last * format.bits as usize / 32));
    let shared = |name: &str, dtype: Dtype| (format!("{base}.{name}"), with_last(dtype, last / format.group));
    match format.mode {
        QuantMode::Affine => vec![codes, shared("scales", Dtype::F16), shared("biases", Dtype::F16)],
        _ => vec![codes, shared("scales", Dtype::U8)],
    }
}

/// Writes all weights, in as many shards as they need.
pub(super) fn weights(
    staging: &Staging,
    file: &File,
    planned: &[Planned<'_>],
    report: &mut Report,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<()> {
    let size = |tensor: &Planned<'_>| arrays(tensor).iter().map(|(_, spec)| spec.bytes() as u64).sum::<u64>();
    report.bytes = planned.iter().map(size).sum();
    let mut shards: Vec<Vec<&Planned<'_>>> = Vec::new();
    let mut room = 0;
    for tensor in planned {
        let bytes = size(tensor);
        if bytes > room || shards.is_empty() {
            shards.push(Vec::new());
            room = SHARD;
        }
        room = room.saturating_sub(bytes);
        shards.last_mut().expect("a shard was begun").push(tensor);
    }
    let name = |number: usize| match shards.len() {
        1 => "model.safetensors".to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    };
    let mut map = serde_json::Map::new();
    let total = planned.iter().map(|tensor| tensor.info.range.len() as u64).sum();
    let mut job = Job { file, progress, state: Progress { done: 0, total } };
    for (number, tensors) in shards.iter().enumerate() {
        let arrays: Vec<(String, Spec)> = tensors.iter().flat_map(|tensor| arrays(tensor)).collect();
        map.extend(arrays.iter().map(|(array, _)| (array.clone(), json!(name(number)))));
        let mut writer = Writer::create(&staging.directory.join(name(number)), &arrays, &[("format", "mlx")])?;
        for tensor in tensors {
            let deviation = job.tensor(&mut writer, tensor)?;
            report.add(tensor, deviation);
        }
        writer.finish()?;
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": report.bytes}, "weight_map": map});
        staging.text("model.safetensors.index.json", &format!("{index:#}\n"))?;
    }
    Ok(())
}

/// Conversion of one tensor after the other.
struct Job<'a> {
    file: &'a File,
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    state: Progress,
}

impl Job<'_> {
    /// Converts a tensor by groups of rows, so that memory stays small.
    fn tensor(&mut self, writer: &mut Writer, tensor: &Planned<'_>) -> Result<Deviation> {
        let (rows, columns) = tensor.sides();
        let blocks = self.file.blocks(tensor.info);
        let width = tensor.info.encoding.bytes(columns);
        let names: Vec<String> = arrays(tensor).into_iter().map(|(name, _)| name).collect();
        let (mut deviation, mut written) = (Deviation::default(), [0; 3]);
        let step = (PIECE / columns.max(1)).max(1);
        for start in (0..rows).step_by(step) {
            let end = rows.min(start + step);
            let sources = (start..end).map(|row| tensor.source_row(row)).map(|row| &blocks[row * width..][..width]);
            let converted = convert(tensor.info.encoding, sources, columns);
            let mut part = converted.map_err(|e| Error::invalid(format!("tensor `{}`: {e}", tensor.info.name)))?;
            if tensor.edit == Edit::MinusOne {
                minus_one(&mut part);
            }
            for ((name, bytes), written) in
                names.iter().zip([&part.weight, &part.scales, &part.biases]).zip(&mut written)
            {
                writer.write(name, *written, bytes)?;
                *written += bytes.len();
            }
            deviation.add(part.deviation);
            self.state.done += ((end - start) * width) as u64;
            if (self.progress)(self.state).is_break() {
                return Err(stopped());
            }
        }
        Ok(deviation)
    }
}

fn minus_one(part: &mut Rows) {
    for bytes in part.weight.as_chunks_mut::<4>().0 {
        *bytes = (f32::from_le_bytes(*bytes) - 1.0).to_le_bytes();
    }
}
