//! Reading a checkpoint strictly: every tensor is used, or ignored for a reason; every one needed is found, in its shape.

mod adapted;
mod experts;
mod groups;
mod headers;
mod latent;
mod names;
mod packed;
mod quantizers;
mod turned;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

use mlxengine_tensor::{Dtype, Precision, QuantFormat, Shape, Spec, Tensor, Weight};

use crate::adapters::AdapterReport;
use crate::linear::Linear;
use crate::{Checkpoint, Error, Result, spec};
use headers::Shares;
pub use headers::WeightBytes;
use quantizers::Quantizer;

/// One array that a model took from its checkpoint.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its module, as in `model.layers.0.mlp.down_proj`.
    pub module: String,
    /// Shape of the weights that it stands for.
    pub shape: Shape,
    /// How it is stored.
    pub storage: Storage,
    /// Bytes in the file.
    pub bytes: usize,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Plain numbers.
    Dense(Dtype),
    /// Codes and scales.
    Quantized(QuantFormat),
}

/// What a model took from its checkpoint and what it left.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Everything that was used.
    pub taken: Vec<Taken>,
    /// Tensors that were left, each with the reason.
    pub ignored: Vec<(String, &'static str)>,
    /// What the adapter changes, if there is one.
    pub adapter: Option<AdapterReport>,
    /// The tool in whose layout the files have weights, where that is not MLX's.
    pub quantizer: Option<&'static str>,
}

impl Record {
    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.taken.iter().map(|t| t.shape.elements()).sum()
    }

    /// Bytes of the weights in the files.
    pub fn bytes(&self) -> usize {
        self.taken.iter().map(|t| t.bytes).sum()
    }

    /// Bytes of the weights that one token reads: of the experts those that a router picks, and one row of an embedding that
    /// is not the head as well.
    pub fn token_bytes(&self, spec: &spec::Decoder) -> u64 {
        let shares = Shares::new(spec, self.taken.iter().any(|t| t.module == "lm_head"));
        self.taken.iter().map(|t| shares.read(&t.module, t.bytes as u64)).sum()
    }

    /// Each way of storage with the weights stored so, most first.
    pub fn storages(&self) -> Vec<(Storage, usize)> {
        let mut counts: HashMap<Storage, usize> = HashMap::new();
        for taken in &self.taken {
            *counts.entry(taken.storage).or_default() += taken.shape.elements();
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }
}

/// The tensors of a checkpoint, under canonical names, being taken by a model.
pub struct Weights {
    tensors: BTreeMap<String, Entry>,
    missing_shards: Vec<String>,
    precision: Precision,
    /// Whether the files are in MLX's layout.
    converted: bool,
    /// The tool that quantized the weights in a layout of its own.
    quantizer: Option<Quantizer>,
    adapter: Option<adapted::Landing>,
    /// Modules that see their input rotated, with the size of the blocks.
    turns: HashMap<String, usize>,
    record: RefCell<Ledger>,
}

struct Entry {
    tensor: Tensor,
    /// Its name in the file.
    name: String,
}

#[derive(Default)]
struct Ledger {
    record: Record,
    used: std::collections::HashSet<String>,
}

impl Weights {
    /// The tensors of a checkpoint, renamed by replacing each first text by its second, and matrices turned whose names start
    /// as `transposed` says; the layers made of them compute in the precision given.
    ///
    /// # Errors
    /// If the configuration names a quantization that is not known.
    pub fn new(
        checkpoint: &Checkpoint,
        renames: &[(&str, &str)],
        transposed: &[&str],
        precision: Precision,
    ) -> Result<Self> {
        let quantizer = Quantizer::of(checkpoint)?;
        let entry = |name: &String, tensor: &Tensor| {
            // Only what is plain lies turned: quantizers have their own orders.
            let plain = tensor.shape().len() == 2 && tensor.dtype().is_float() && name.ends_with(".weight");
            let turned = plain && transposed.iter().any(|start| name.starts_with(start));
            let tensor = if turned { tensor.clone().permute(&[1, 0]) } else { tensor.clone() };
            Entry { tensor, name: name.clone() }
        };
        let tensors =
            checkpoint.tensors.iter().map(|(name, tensor)| (names::canonical(name, renames), entry(name, tensor)));
        Ok(Self {
            tensors: tensors.collect(),
            missing_shards: checkpoint.missing_shards.clone(),
            precision,
            converted: checkpoint.mlx_format,
            quantizer,
            adapter: None,
            turns: HashMap::new(),
            record: RefCell::default(),
        })
    }

    /// The same, with those tensors changed for which `change`, given a canonical name, has something else.
    #[must_use]
    pub(crate) fn changed(mut self, change: impl Fn(&str, &Tensor) -> Option<Tensor>) -> Self {
        for (name, entry) in &mut self.tensors {
            if let Some(tensor) = change(name, &entry.tensor) {
                entry.tensor = tensor;
            }
        }
        self
    }

    /// The same, where bytes of three-valued weights need no configuration to say that their scales multiply.
    #[must_use]
    pub(crate) fn ternary(mut self) -> Self {
        self.quantizer.get_or_insert(Quantizer::Ternary { divides: false });
        self
    }

    /// The scope of the whole checkpoint.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, path: String::new(), feed_forward: self.precision.in_feed_forward() }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// If tensors are left that nothing used, or changes of an adapter that nothing took, with their names.
    pub fn finish(self) -> Result<Record> {
        let adapter = self.landed(&self.record.borrow())?;
        let ledger = self.record.take();
        let mut record = Record { adapter, ..ledger.record };
        let mut left = Vec::new();
        for (name, entry) in &self.tensors {
            if ledger.used.contains(name) {
                continue;
            }
            match names::needless(name).or_else(|| self.padding(name, &entry.tensor)) {
                Some(reason) => record.ignored.push((entry.name.clone(), reason)),
                None => left.push(format!("`{}` {}", entry.name, entry.tensor.spec())),
            }
        }
        if left.is_empty() {
            return Ok(record);
        }
        let shown = left.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
        let more = if left.len() > 6 { format!(" and {} more", left.len() - 6) } else { String::new() };
        Err(Error::invalid(format!(
            "{} tensor{} not of this architecture: {shown}{more}; config.json and the weights do not belong together",
            left.len(),
            if left.len() == 1 { " is" } else { "s are" }
        )))
    }

    /// Why a tensor that nothing asks for changes nothing: GPTQ's tools write biases for layers that have none.
    fn padding(&self, name: &str, tensor: &Tensor) -> Option<&'static str> {
        let module = name.strip_suffix(".bias")?;
        let zeros = self.tensors.contains_key(&format!("{module}.qweight")) && tensor.bytes().iter().all(|b| *b == 0);
        zeros.then_some("zeros, for a layer without a bias")
    }

    fn take(&self, name: &str) -> Option<Tensor> {
        let entry = self.tensors.get(name)?;
        self.record.borrow_mut().used.insert(name.to_owned());
        Some(entry.tensor.clone())
    }

    fn missing(&self, name: &str) -> Error {
        let hint = if self.missing_shards.is_empty() {
            let close = self.tensors.keys().min_by_key(|other| distance(name, other));
            close.map_or_else(String::new, |n| format!("; the closest name is `{n}`"))
        } else {
            format!("; the index lists {}, which is not there: download it", self.missing_shards.join(", "))
        };
        Error::invalid(format!("tensor `{name}` is missing{hint}"))
    }

    fn note(&self, module: &str, weight: &Weight) {
        let storage = match weight {
            Weight::Dense(tensor) => Storage::Dense(tensor.dtype()),
            Weight::Quantized(q) => Storage::Quantized(q.format),
        };
        let taken = Taken { module: module.to_owned(), shape: weight.shape(), storage, bytes: weight.bytes() };
        self.record.borrow_mut().record.taken.push(taken);
    }
}

/// How many leading and trailing bytes two names do not share: near names differ in one part.
fn distance(a: &str, b: &str) -> usize {
    let front = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let rest = a.len().min(b.len()) - front;
    let back = a.bytes().rev().zip(b.bytes().rev()).take(rest).take_while(|(x, y)| x == y).count();
    a.len().max(b.len()) - front - back
}

/// Layers at each end of a model that are not rounded further than it is elsewhere. With one the likeliest tokens of SmolLM2 were
/// the same at 98.9 to 99.4 % of positions, by the instruction set; with two at 99.4 %, and the perplexity was nearer by far.
const OUTER: usize = 2;

/// A place in a checkpoint from which modules take their tensors.
pub struct Scope<'a> {
    weights: &'a Weights,
    path: String,
    /// What units that work on each position alone are computed in.
    feed_forward: Precision,
}

impl<'a> Scope<'a> {
    /// The floats in which keys and values are kept.
    pub(crate) fn kept(&self) -> Dtype {
        spec::kept(self.weights.precision)
    }

    /// The scope of a part.
    pub fn at(&self, part: impl Display) -> Scope<'a> {
        let path = if self.path.is_empty() { part.to_string() } else { format!("{}.{part}", self.path) };
        Scope { weights: self.weights, path, feed_forward: self.feed_forward }
    }

    /// The scope of one of `count` layers. The first ones and the last tell most on predictions, so that nothing in them is rounded
    /// further than elsewhere.
    pub(crate) fn layer(&self, index: usize, count: usize) -> Scope<'a> {
        let own = self.at(index);
        let outer = index < OUTER || index + OUTER >= count;
        Scope { feed_forward: if outer { self.weights.precision } else { own.feed_forward }, ..own }
    }

    /// What leads into or out of a unit that works on each position alone.
    pub(crate) fn feed_forward(&self, linear: Linear) -> Linear {
        Linear { precision: self.feed_forward, ..linear }
    }

    /// The scope of the first of these parts that the checkpoint has, else of the first.
    pub fn first(&self, parts: &[&str]) -> Scope<'a> {
        let has = |part: &&&str| {
            let prefix = format!("{}.", self.at(part).path);
            self.weights.tensors.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
        };
        self.at(parts.iter().find(has).unwrap_or(&parts[0]))
    }

    /// Whether the files are in MLX's layout.
    pub(crate) fn converted(&self) -> bool {
        self.weights.converted
    }

    /// Leaves everything of the parts numbered from `first` on unread, for a reason.
    pub(crate) fn ignore_from(&self, first: usize, reason: &'static str) {
        let prefix = format!("{}.", self.path);
        let mut ledger = self.weights.record.borrow_mut();
        for (name, entry) in self.weights.tensors.range(prefix.clone()..) {
            let Some(rest) = name.strip_prefix(&prefix) else { break };
            let number = rest.split('.').next().and_then(|number| number.parse::<usize>().ok());
            if number.is_some_and(|number| number >= first) {
                ledger.used.insert(name.clone());
                ledger.record.ignored.push((entry.name.clone(), reason));
            }
        }
    }

    /// Whether the checkpoint has a tensor here.
    pub fn has(&self, name: &str) -> bool {
        self.weights.tensors.contains_key(&self.at(name).path)
    }

    /// Leaves everything of a module unread, for a reason.
    pub fn ignore(&self, module: &str, reason: &'static str) {
        let prefix = format!("{}.", self.at(module).path);
        let mut ledger = self.weights.record.borrow_mut();
        for (name, entry) in self.weights.tensors.iter().filter(|(name, _)| name.starts_with(&prefix)) {
            ledger.used.insert(name.clone());
            ledger.record.ignored.push((entry.name.clone(), reason));
        }
    }

    /// A linear layer of `[inputs, outputs]`, dense or quantized as the checkpoint has it.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn linear(&self, name: &str, [inputs, outputs]: [usize; 2], bias: bool) -> Result<Linear> {
        let w = self.at(name);
        let weight = w.weight(&[outputs, inputs])?;
        let bias = if bias { Some(w.vector("bias", outputs)?) } else { None };
        let delta = w.delta(&weight)?;
        Ok(Linear { weight, bias, precision: self.weights.precision, delta, turn: w.turn(inputs)? })
    }

    /// Linear layers of one input whose rows lie after one another in one tensor.
    ///
    /// # Errors
    /// If the tensor is missing or of another shape.
    pub fn joined<const N: usize>(
        &self,
        name: &str,
        inputs: usize,
        outputs: [usize; N],
        bias: bool,
    ) -> Result<[Linear; N]> {
        let all = self.linear(name, [inputs, outputs.iter().sum()], bias)?;
        let mut start = 0;
        Ok(outputs.map(|count| {
            let part = all.rows(start, count);
            start += count;
            part
        }))
    }

    /// A short array of floats, as `F32`: norms and biases are read once and kept.
    ///
    /// # Errors
    /// If it is missing, of another length, or no floats.
    pub fn vector(&self, name: &str, length: usize) -> Result<Tensor> {
        self.floats(name, &[length])
    }

    /// A small array of floats, as `F32`.
    ///
    /// # Errors
    /// If it is missing, of another shape, or no floats.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Ok(self.array(name, shape)?.to_f32().expect("floats convert"))
    }

    /// One float, whatever the rank of its array.
    ///
    /// # Errors
    /// If it is missing, several, or none.
    pub fn number(&self, name: &str) -> Result<Tensor> {
        let w = self.at(name);
        let shape = self.weights.tensors.get(&w.path).map(|entry| *entry.tensor.shape());
        let one = shape.filter(|shape| shape.elements() == 1);
        Ok(self.floats(name, one.as_deref().unwrap_or(&[1]))?.reshape([1]))
    }

    /// An array of floats as it lies.
    fn array(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let w = self.at(name);
        let tensor = self.weights.take(&w.path).ok_or_else(|| self.weights.missing(&w.path))?;
        w.expect(&tensor, shape)?;
        self.weights.note(&w.path, &Weight::Dense(tensor.clone()));
        Ok(tensor)
    }

    /// The kernels of a convolution over time of each channel alone, as `F32 [channels, kernel]`; checkpoints have an axis of
    /// size 1 before the kernel's (PyTorch) or after it (MLX).
    ///
    /// # Errors
    /// If they are missing, of another shape, or no floats.
    pub fn kernels(&self, name: &str, [channels, kernel]: [usize; 2]) -> Result<Tensor> {
        let w = self.at(name);
        let tensor = self.weights.take(&w.path).ok_or_else(|| self.weights.missing(&w.path))?;
        let tensor =
            if **tensor.shape() == [channels, 1, kernel] { tensor.reshape([channels, kernel, 1]) } else { tensor };
        w.expect(&tensor, &[channels, kernel, 1])?;
        self.weights.note(&w.path, &Weight::Dense(tensor.clone()));
        Ok(tensor.to_f32().expect("floats convert").reshape([channels, kernel]))
    }

    fn expect(&self, tensor: &Tensor, shape: &[usize]) -> Result<()> {
        if !tensor.dtype().is_float() || **tensor.shape() != *shape {
            let wanted = Spec::new(tensor.dtype(), shape).shape;
            return Err(Error::invalid(format!(
                "tensor `{}` is {}, but config.json asks for floats {wanted}: they do not belong together",
                self.path,
                tensor.spec()
            )));
        }
        Ok(())
    }
}
