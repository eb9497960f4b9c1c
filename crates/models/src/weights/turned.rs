//! Weights behind rotations of what they see.

use mlxengine_tensor::Tensor;

use super::{Scope, Weights, names};
use crate::hadamard::Hadamard;
use crate::{Error, Result};

impl Weights {
    /// The same, where each of the modules, by its name in the files, sees its input rotated in blocks of a size; 0 is none.
    ///
    /// # Errors
    /// If there is an adapter, whose changes would see another input.
    pub(crate) fn turned<'a>(
        mut self,
        modules: impl Iterator<Item = (&'a str, usize)>,
        renames: &[(&str, &str)],
    ) -> Result<Self> {
        if self.adapter.is_some() {
            return Err(Error::unsupported("an adapter cannot change a model whose weights are behind rotations"));
        }
        self.turns = modules.map(|(module, block)| (names::canonical(module, renames), block)).collect();
        Ok(self)
    }

    /// The same, where the files are in MLX's layout if the kernels of convolutions are, whatever the files say of it.
    #[must_use]
    pub(crate) fn told_by_kernels(mut self) -> Self {
        let mut kernels = self.tensors.iter().filter(|(name, _)| name.ends_with("conv1d.weight"));
        self.converted = kernels.all(|(_, entry)| entry.tensor.shape().last() == 1);
        self
    }
}

impl Scope<'_> {
    /// The rotation of what this module of so many inputs sees.
    pub(super) fn turn(&self, inputs: usize) -> Result<Option<Box<Hadamard>>> {
        let Some(block) = self.weights.turns.get(&self.path).filter(|block| **block > 0) else { return Ok(None) };
        let signs = self.vector("signs", inputs)?;
        let turn = Hadamard::new(*block, signs).map(|turn| Some(Box::new(turn)));
        turn.ok_or_else(|| {
            let message = format!("`{}` has no signs, each 1 or -1, of whole blocks of {block} numbers", self.path);
            Error::invalid(message)
        })
    }

    /// The rotation of this table's rows, where it is one of those modules.
    pub(super) fn table_turn(&self, inputs: usize) -> Result<Option<Box<Hadamard>>> {
        if self.weights.turns.get(&self.path) != Some(&0) {
            return self.turn(inputs);
        }
        Ok(Hadamard::new(1, Tensor::from_f32(&vec![1.0; inputs], [inputs])).map(Box::new))
    }
}
