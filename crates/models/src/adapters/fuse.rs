//! A checkpoint and an adapter as one checkpoint: what is stored, and what storing it in fewer bits loses.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use mlxengine_tensor::safetensors::Writer;
use mlxengine_tensor::{Dtype, QuantizedTensor, Reduce, Spec, Tensor, Tensors, Unary, Weight};

use super::{Adapter, Delta, merged, plain};
use crate::weights::{Storage, Taken, Weights};
use crate::{Checkpoint, Error, Precision, Result, decoder};

/// A merged checkpoint: its tensors are computed as they are asked for.
pub struct Fusion {
    /// Name and shape of each tensor.
    tensors: Vec<(String, Spec)>,
    origins: Vec<Origin>,
    merges: Vec<Merge>,
    state: Mutex<Computed>,
}

/// What was computed so far.
#[derive(Default)]
struct Computed {
    /// Parts of merged modules that nobody has asked for yet.
    parts: HashMap<(usize, usize), Tensor>,
    losses: Vec<Loss>,
}

enum Origin {
    Kept(Tensor),
    /// A part of a merge.
    Merged(usize, usize),
}

/// A module whose weight changes.
struct Merge {
    module: String,
    weight: Weight,
    delta: Option<Delta>,
    form: Form,
    /// Whether its file has the matrix turned.
    turned: bool,
}

/// How a merged weight is stored.
#[allow(clippy::large_enum_variant, reason = "there is one a module")]
enum Form {
    Dense(Dtype),
    /// As this one was.
    Quantized(QuantizedTensor),
}

/// What storing a merged module lost, as sums of squares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// The module.
    pub module: String,
    /// Of what was stored less what should be.
    pub error: f64,
    /// Of what should be stored.
    pub weight: f64,
    /// Of the change that the adapter makes.
    pub change: f64,
}

impl Loss {
    /// The error in relation to the weights, as a ratio of root mean squares.
    pub fn relative(&self) -> f64 {
        if self.weight > 0.0 { (self.error / self.weight).sqrt() } else { 0.0 }
    }

    /// The error in relation to the adapter's change: above 1, more is lost than the adapter brings.
    pub fn of_change(&self) -> Option<f64> {
        (self.change > 0.0).then(|| (self.error / self.change).sqrt())
    }

    fn add(&mut self, [error, weight, change]: [f64; 3]) {
        (self.error, self.weight, self.change) = (self.error + error, self.weight + weight, self.change + change);
    }
}

impl Fusion {
    /// Plans the merged checkpoint; `dequantize`: of plain numbers throughout.
    ///
    /// # Errors
    /// If the adapter does not fit the model, or changes a module that does not lie in one piece in the files.
    pub fn plan(checkpoint: &Checkpoint, adapter: &Adapter, dequantize: bool) -> Result<Self> {
        let model = decoder::load_adapted(checkpoint, Some(adapter), Precision::Exact, |_, _| {})?;
        let report = model.record().adapter.clone().unwrap_or_default();
        let spec = crate::families::decoder(&checkpoint.config)?;
        let open = || Weights::new(checkpoint, spec.renames, spec.transposed, Precision::Exact);
        let (before, after) = (open()?, open()?.with_adapter(adapter, spec.renames, spec.transposed)?);
        if let Some(tool) = model.record().quantizer {
            return Err(Error::unsupported(format!(
                "weights in the layout of {tool} cannot be merged with an adapter: use it beside them, or merge it into a checkpoint in MLX's layout"
            )));
        }
        let turned = |name: &str| spec.transposed.iter().any(|start| name.starts_with(start));
        let mut merges = Vec::new();
        for taken in &model.record().taken {
            let change = after.change_at(&taken.module);
            let quantized = matches!(taken.storage, Storage::Quantized(_));
            if change.is_none() && !(dequantize && quantized) {
                continue;
            }
            let Some(name) = before.source_of(&format!("{}.weight", taken.module)) else { continue };
            let weight = after.stored(&taken.module, &taken.shape)?;
            let delta = change.map(|change| delta(change, &weight, taken, &report.tables)).transpose()?;
            let form = Form::of(&weight, dequantize);
            let turned = turned(name) && taken.shape.len() == 2;
            merges.push(Merge { module: taken.module.clone(), weight, delta, form, turned });
        }
        let found: BTreeSet<&str> = merges.iter().filter(|m| m.delta.is_some()).map(|m| m.module.as_str()).collect();
        let left: Vec<&str> = after.changes().filter(|module| !found.contains(module)).collect();
        let left: Vec<&&str> = left.iter().filter(|m| !report.ignored.iter().any(|(name, _)| name == *m)).collect();
        if let Some(first) = left.first() {
            return Err(Error::unsupported(format!(
                "{} changes cannot be merged, `{first}` among them: the checkpoint stores their modules in other pieces than the adapter",
                left.len()
            )));
        }
        // As the files have them, and not as they are read.
        let files: HashMap<&str, &Tensor> = checkpoint.tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        let kept = |path: &str| {
            let name = after.source_of(path)?;
            Some(adapter.whole.get(name).unwrap_or_else(|| files[name]).clone())
        };
        Ok(Self::of(&before, &kept, merges))
    }

    /// Every tensor of the result, under the names of the files.
    fn of(before: &Weights, kept: &dyn Fn(&str) -> Option<Tensor>, merges: Vec<Merge>) -> Self {
        let mut parts: BTreeMap<String, Option<(usize, usize)>> = BTreeMap::new();
        for (index, merge) in merges.iter().enumerate() {
            let quantized = matches!(merge.weight, Weight::Quantized(_));
            let dense = matches!(merge.form, Form::Dense(_));
            parts.insert(format!("{}.weight", merge.module), Some((index, 0)));
            for (part, name) in ["scales", "biases"].iter().enumerate().filter(|_| quantized) {
                parts.insert(format!("{}.{name}", merge.module), (!dense).then_some((index, part + 1)));
            }
            if quantized && dense {
                parts.insert(format!("{}.global_scale", merge.module), None);
            }
        }
        let (mut tensors, mut origins) = (Vec::new(), Vec::new());
        for (path, name) in before.entries() {
            let (spec, origin) = match parts.get(path) {
                Some(None) => continue,
                Some(Some((index, part))) => (merges[*index].spec(*part), Origin::Merged(*index, *part)),
                // What the adapter replaces; codes and scales that it replaces are gone.
                None => match kept(path) {
                    Some(tensor) => (tensor.spec(), Origin::Kept(tensor)),
                    None => continue,
                },
            };
            tensors.push((name.to_owned(), spec));
            origins.push(origin);
        }
        Self { tensors, origins, merges, state: Mutex::default() }
    }

    /// The name and the bytes of each tensor.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tensors.iter().map(|(name, spec)| (name.as_str(), spec.bytes()))
    }

    /// Writes the tensors of these indices to a file, one after another; `each` hears of every one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(
        &self,
        path: &Path,
        which: &[usize],
        metadata: &HashMap<String, String>,
        each: &dyn Fn(),
    ) -> Result<()> {
        let entries: Vec<(String, Spec)> = which.iter().map(|index| self.tensors[*index].clone()).collect();
        let metadata: Vec<(&str, &str)> = metadata.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
        let mut writer = Writer::create(path, &entries, &metadata)?;
        for (index, (name, _)) in which.iter().zip(&entries) {
            each();
            writer.write(name, 0, self.tensor(*index).bytes())?;
        }
        Ok(writer.finish()?)
    }

    /// The tensor of this index.
    fn tensor(&self, index: usize) -> Cow<'_, Tensor> {
        match &self.origins[index] {
            Origin::Kept(tensor) => Cow::Borrowed(tensor),
            Origin::Merged(merge, part) => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(tensor) = state.parts.remove(&(*merge, *part)) {
                    return Cow::Owned(tensor);
                }
                let (parts, loss) = self.merges[*merge].run();
                if !state.losses.iter().any(|known| known.module == loss.module) {
                    state.losses.push(loss);
                }
                state.parts.extend(parts.into_iter().enumerate().map(|(i, tensor)| ((*merge, i), tensor)));
                Cow::Owned(state.parts.remove(&(*merge, *part)).expect("it was just computed"))
            }
        }
    }

    /// What each merged module lost, of those that were computed.
    pub fn losses(&self) -> Vec<Loss> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).losses.clone()
    }
}

fn delta(change: &super::LowRank, weight: &Weight, taken: &Taken, tables: &[String]) -> Result<Delta> {
    let path = &taken.module;
    match taken.shape[..] {
        [experts, outputs, inputs] => Delta::of_experts(change, [experts, outputs, inputs], path),
        _ if tables.contains(path) => Delta::of_table(change, weight, path),
        _ => Delta::of_linear(change, weight, path),
    }
}

impl Form {
    fn of(weight: &Weight, dequantize: bool) -> Self {
        match weight {
            Weight::Dense(tensor) => Form::Dense(tensor.dtype()),
            Weight::Quantized(q) if dequantize && q.scales.dtype().is_float() => Form::Dense(q.scales.dtype()),
            Weight::Quantized(_) if dequantize => Form::Dense(Dtype::Bf16),
            Weight::Quantized(q) => Form::Quantized(q.clone()),
        }
    }

    /// What is stored of a matrix, and what that stands for.
    fn store(&self, matrix: &Tensor) -> (Tensors, Tensor) {
        match self {
            Form::Dense(dtype) => {
                let stored = matrix.cast(*dtype);
                let read = plain(&Weight::Dense(stored.clone()));
                ([stored].into_iter().collect(), read)
            }
            Form::Quantized(q) => {
                // The reference quantizes what it has rounded to the type of the scales.
                let scale_type = q.scales.dtype();
                let rounded =
                    if scale_type.is_float() { plain(&Weight::Dense(matrix.cast(scale_type))) } else { matrix.clone() };
                let rounded = if q.multiplier == 1.0 { rounded } else { rounded.scale(1.0 / q.multiplier) };
                let cast = |t: Tensor| if t.dtype().is_float() { t.cast(scale_type) } else { t };
                let parts: Tensors = rounded.quantize(q.format).into_iter().map(cast).collect();
                let stored = QuantizedTensor {
                    codes: parts[0].clone(),
                    scales: parts[1].clone(),
                    biases: parts.get(2).cloned(),
                    ..q.clone()
                };
                (parts, stored.dequantize(Dtype::F32))
            }
        }
    }
}

fn squares(t: Tensor) -> f64 {
    t.unary(Unary::Square).reduce(Reduce::Sum).f32s().iter().map(|x| f64::from(*x)).sum()
}

fn less(a: &Tensor, b: &Tensor) -> Tensor {
    a.clone().binary(mlxengine_tensor::Binary::Sub, b)
}

impl Merge {
    /// What a part of the result looks like.
    fn spec(&self, part: usize) -> Spec {
        match (&self.form, part) {
            (Form::Dense(dtype), _) => {
                let shape = self.weight.shape();
                let turned = [shape[shape.len() - 1], shape[0]];
                Spec::new(*dtype, if self.turned { turned.into() } else { shape })
            }
            (Form::Quantized(q), 0) => q.codes.spec(),
            (Form::Quantized(q), 1) => q.scales.spec(),
            (Form::Quantized(q), _) => q.biases.as_ref().map_or(q.scales.spec(), Tensor::spec),
        }
    }

    fn run(&self) -> (Tensors, Loss) {
        let shape = self.weight.shape();
        let mut loss = Loss { module: self.module.clone(), ..Loss::default() };
        if shape.len() == 2 {
            let parts = self.matrix(&self.weight, self.delta.as_ref(), &mut loss);
            let turned = |t: Tensor| if self.turned { t.permute(&[1, 0]) } else { t };
            return (parts.into_iter().map(turned).collect(), loss);
        }
        let mut stacks: Vec<Vec<Tensor>> = Vec::new();
        for expert in 0..shape[0] {
            let delta = self.delta.as_ref().map(|delta| delta.part(expert));
            let parts = self.matrix(&self.weight.part(expert), delta.as_ref(), &mut loss);
            stacks.resize_with(parts.len(), Vec::new);
            for (stack, part) in stacks.iter_mut().zip(parts) {
                let [rows, columns] = [part.shape()[0], part.shape().last()];
                stack.push(part.reshape([1, rows, columns]));
            }
        }
        (stacks.into_iter().map(|stack| Tensor::concat(stack, 0)).collect(), loss)
    }

    fn matrix(&self, weight: &Weight, delta: Option<&Delta>, loss: &mut Loss) -> Tensors {
        let before = plain(weight);
        let after = delta.map_or_else(|| before.clone(), |delta| merged(weight, delta, |rows| rows));
        let (parts, read) = self.form.store(&after);
        let change = if delta.is_some() { squares(less(&after, &before)) } else { 0.0 };
        loss.add([squares(less(&read, &after)), squares(after), change]);
        parts
    }
}
