//! Where the changes of an adapter meet the modules that a model reads.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use mlxengine_tensor::{Tensor, Weight};

use super::{Entry, Ledger, Scope, Weights, distance, names};
use crate::adapters::{Adapter, AdapterReport, Delta, LowRank, TableDelta};
use crate::linear::{Embedding, Linear};
use crate::{Error, Result};

/// The changes of an adapter, under canonical names, being taken by a model.
pub(super) struct Landing {
    name: String,
    changes: BTreeMap<String, LowRank>,
    tied_head: bool,
    taken: RefCell<BTreeSet<String>>,
    /// Those that are tables.
    tables: RefCell<Vec<String>>,
    /// Tensors in place of the checkpoint's.
    whole: BTreeSet<String>,
    report: AdapterReport,
}

impl Weights {
    /// The same weights under an adapter, whose names mean what those of the checkpoint mean.
    ///
    /// # Errors
    /// If the adapter replaces a tensor that is not there, or by one of another shape.
    pub(crate) fn with_adapter(
        mut self,
        adapter: &Adapter,
        renames: &[(&str, &str)],
        transposed: &[&str],
    ) -> Result<Self> {
        let mut landing = Landing {
            name: adapter.name.clone(),
            changes: BTreeMap::new(),
            tied_head: adapter.tied_head,
            taken: RefCell::default(),
            tables: RefCell::default(),
            whole: BTreeSet::new(),
            report: AdapterReport::default(),
        };
        for (module, change) in &adapter.low_rank {
            let path = names::canonical(&format!("{module}.weight"), renames);
            let path = path.strip_suffix(".weight").unwrap_or(&path);
            landing.report.parameters += change.parameters();
            landing.report.bytes += change.bytes();
            landing.changes.insert(path.to_owned(), change.clone());
        }
        for (name, tensor) in &adapter.whole {
            let path = names::canonical(name, renames);
            landing.report.parameters += tensor.shape().elements();
            let turned = tensor.shape().len() == 2 && transposed.iter().any(|start| name.starts_with(start));
            let tensor = if turned { tensor.clone().permute(&[1, 0]) } else { tensor.clone() };
            if let Some(reason) = names::needless(&path) {
                landing.report.ignored.push((name.clone(), reason));
            } else {
                self.replace(&adapter.name, &path, name, tensor)?;
                landing.whole.insert(path);
            }
        }
        self.adapter = Some(landing);
        Ok(self)
    }

    fn replace(&mut self, adapter: &str, path: &str, name: &str, tensor: Tensor) -> Result<()> {
        let Some(entry) = self.tensors.get(path) else {
            let close = self.tensors.keys().min_by_key(|other| distance(path, other));
            let hint = close.map_or_else(String::new, |close| format!("; the closest name is `{close}`"));
            let message = format!("the adapter {adapter} replaces `{name}`, which this model does not have{hint}");
            return Err(Error::invalid(message));
        };
        let module = path.strip_suffix(".weight");
        let quantized = module.filter(|m| self.tensors.contains_key(&format!("{m}.scales")));
        match quantized {
            // The model reads numbers where there are no scales, and says so if their shape is wrong.
            Some(module) => {
                for part in ["scales", "biases", "global_scale"] {
                    self.tensors.remove(&format!("{module}.{part}"));
                }
            }
            None if entry.tensor.shape() != tensor.shape() => {
                return Err(Error::invalid(format!(
                    "the adapter {adapter} replaces `{name}` by {}, and the checkpoint has {}: it was trained for another model",
                    tensor.spec(),
                    entry.tensor.spec()
                )));
            }
            None => {}
        }
        self.tensors.insert(path.to_owned(), Entry { tensor, name: name.to_owned() });
        Ok(())
    }

    /// The change to a module.
    pub(crate) fn change_at(&self, module: &str) -> Option<&LowRank> {
        self.adapter.as_ref()?.changes.get(module)
    }

    /// Every module that changes.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &str> {
        self.adapter.iter().flat_map(|landing| landing.changes.keys().map(String::as_str))
    }

    /// Canonical names, each with the name in the files.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tensors.iter().map(|(path, entry)| (path.as_str(), entry.name.as_str()))
    }

    /// The name in the files of a tensor.
    pub(crate) fn source_of(&self, path: &str) -> Option<&str> {
        self.tensors.get(path).map(|entry| entry.name.as_str())
    }

    /// The weight of a module, whose shape a model has asked for.
    pub(crate) fn stored(&self, module: &str, shape: &[usize]) -> Result<Weight> {
        self.root().at(module).weight(shape)
    }

    /// Checks that every change has landed.
    pub(super) fn landed(&self, ledger: &Ledger) -> Result<Option<AdapterReport>> {
        let Some(landing) = &self.adapter else { return Ok(None) };
        let mut report = landing.report.clone();
        let taken = landing.taken.borrow();
        let idle = |name: &&String| {
            let ignored = || ledger.record.ignored.iter().any(|(file, _)| *file == self.tensors[*name].name);
            !ledger.used.contains(*name) || ignored()
        };
        let mut left: Vec<&String> = landing.whole.iter().filter(idle).collect();
        for module in landing.changes.keys().filter(|module| !taken.contains(*module)) {
            match names::needless(module) {
                Some(reason) => report.ignored.push((module.clone(), reason)),
                None => left.push(module),
            }
        }
        report.modules = taken.len();
        report.tables = landing.tables.borrow().clone();
        report.tensors = landing.whole.len();
        if left.is_empty() {
            return Ok(Some(report));
        }
        let modules = || ledger.record.taken.iter().map(|taken| &taken.module);
        let shown = left.iter().take(6).map(|module| match modules().min_by_key(|other| distance(module, other)) {
            Some(nearest) => format!("`{module}` (the nearest is `{nearest}`)"),
            None => format!("`{module}`"),
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        let more = if left.len() > 6 { format!(" and {} more", left.len() - 6) } else { String::new() };
        let all = landing.changes.len() + landing.whole.len();
        let (count, what) = (left.len(), if left.len() == 1 { "is" } else { "are" });
        Err(Error::invalid(format!(
            "of the {all} changes of the adapter {} {count} {what} to modules that this model does not have: {shown}{more}; it was trained for another model",
            landing.name
        )))
    }
}

impl Scope<'_> {
    /// The change to this module, if the adapter has one.
    fn change(&self) -> Option<&LowRank> {
        let landing = self.weights.adapter.as_ref()?;
        let change = landing.changes.get(&self.path)?;
        landing.taken.borrow_mut().insert(self.path.clone());
        Some(change)
    }

    /// What this linear layer computes beside its weight.
    pub(super) fn delta(&self, weight: &Weight) -> Result<Option<Box<Delta>>> {
        let delta = self.change().map(|change| Delta::of_linear(change, weight, &self.path));
        Ok(delta.transpose()?.map(Box::new))
    }

    /// What changes this linear layer `[outputs, inputs]`, whose weight lies in pieces.
    pub(super) fn difference(&self, shape: [usize; 2]) -> Result<Option<Tensor>> {
        self.change().map(|change| Delta::difference(change, shape, &self.path)).transpose()
    }

    /// A table of rows, dense or quantized.
    ///
    /// # Errors
    /// If it is missing or of another shape.
    pub fn embedding(&self, name: &str, shape: [usize; 2]) -> Result<Embedding> {
        let w = self.at(name);
        let weight = w.weight(&shape)?;
        let head = self.weights.adapter.as_ref().is_some_and(|landing| landing.tied_head);
        let table = |delta| Box::new(TableDelta { delta, head });
        let delta = w.change().map(|change| Delta::of_table(change, &weight, &w.path));
        if let (Some(_), Some(landing)) = (&delta, &self.weights.adapter) {
            landing.tables.borrow_mut().push(w.path.clone());
        }
        let delta = delta.transpose()?.map(table);
        Ok(Embedding { weight, precision: self.weights.precision, delta, turn: w.table_turn(shape[1])? })
    }

    /// A head of its own made of the embedding, where an adapter changes the head alone.
    pub(crate) fn adapted_head(&self, name: &str, embedding: &Embedding) -> Result<Option<Linear>> {
        let (weight, precision) = (embedding.weight.clone(), embedding.precision);
        let delta = self.at(name).delta(&weight)?;
        Ok(delta.map(|delta| Linear { weight, bias: None, precision, delta: Some(delta), turn: None }))
    }

    /// What a stack of experts `[experts, outputs, inputs]` computes beside its weights, whether the changes are stacked or
    /// one an expert; an expert without one stays as it is.
    pub(super) fn expert_delta(&self, name: &str, shape: [usize; 3]) -> Result<Option<Box<Delta>>> {
        if self.weights.adapter.is_none() {
            return Ok(None);
        }
        for part in ["switch_mlp", "experts"] {
            let w = self.at(part).at(name);
            if let Some(change) = w.change() {
                return Ok(Some(Box::new(Delta::of_experts(change, shape, &w.path)?)));
            }
        }
        let w = self.at("experts");
        let scopes: Vec<Scope<'_>> = (0..shape[0]).map(|expert| w.at(expert).at(name)).collect();
        let changes: Vec<Option<&LowRank>> = scopes.iter().map(Scope::change).collect();
        let Some(first) = changes.iter().flatten().next() else { return Ok(None) };
        let path = &w.at(name).path;
        let change = stacked(&changes, first.a.shape().last(), shape)
            .ok_or_else(|| Error::invalid(format!("the changes to the experts of `{path}` are not of one kind")))?;
        Ok(Some(Box::new(Delta::of_experts(&change, shape, path)?)))
    }
}

/// Changes of experts one by one as those of a stack, their scales worked in.
fn stacked(changes: &[Option<&LowRank>], rank: usize, [_, outputs, inputs]: [usize; 3]) -> Option<LowRank> {
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for change in changes {
        let Some(change) = change else {
            down.push(Tensor::from_f32(&vec![0.0; rank * inputs], [1, rank, inputs]));
            up.push(Tensor::from_f32(&vec![0.0; outputs * rank], [1, outputs, rank]));
            continue;
        };
        let fits = change.a.shape()[..] == [inputs, rank] && change.b.shape()[..] == [rank, outputs];
        if !fits || change.magnitude.is_some() {
            return None;
        }
        let turned = |t: &Tensor| t.to_f32().expect("floats convert").permute(&[1, 0]);
        down.push(turned(&change.a).reshape([1, rank, inputs]));
        up.push(turned(&change.b).scale(change.scale).reshape([1, outputs, rank]));
    }
    Some(LowRank { a: Tensor::concat(down, 0), b: Tensor::concat(up, 0), scale: 1.0, magnitude: None })
}
