//! Weights in the layouts of other quantizers: repacked into MLX's where that keeps every bit, else read as plain numbers.
//!
//! What a module's tensors are called and how they look says how they lie; `config.json` says by which tool's rules, and is
//! held against them.

mod compressed;
mod floats;
mod integers;
mod layouts;
mod repack;
mod settings;

use mlxengine_tensor::{Dtype, Tensor, Weight};

use super::Scope;
use crate::{Error, ErrorKind, Result};
pub(super) use settings::Quantizer;

/// A float of each block of a matrix.
#[derive(Clone, Debug)]
struct Blocks {
    numbers: Vec<f32>,
    /// Blocks beside each other.
    columns: usize,
    /// Rows and columns of a block; the last ones may be cut.
    block: [usize; 2],
}

impl Blocks {
    fn at(&self, row: usize, column: usize) -> f32 {
        self.numbers[row / self.block[0] * self.columns + column / self.block[1]]
    }

    /// The numbers of a tensor over a matrix: one for all of it, one a row, one a group of each row, or one of each of the
    /// blocks that the configuration tells of. `None` for another shape.
    fn over(tensor: &Tensor, [rows, columns]: [usize; 2], told: Option<[usize; 2]>) -> Option<Self> {
        let grid = match tensor.shape()[..] {
            _ if tensor.shape().elements() == 1 => [1, 1],
            [count] => [count, 1],
            [down, across] => [down, across],
            _ => return None,
        };
        let grid_of = |block: [usize; 2]| [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        let groups =
            (grid[0] == rows && grid[1] > 0 && columns.is_multiple_of(grid[1])).then(|| [1, columns / grid[1]]);
        let block = match told.filter(|block| grid_of(*block) == grid) {
            Some(block) => block,
            None if grid == [1, 1] => [rows, columns],
            None => groups?,
        };
        Some(Self { numbers: numbers(tensor)?, columns: grid[1], block })
    }
}

/// The elements of a tensor of numbers.
fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    let dtype = tensor.dtype();
    match tensor.to_f32() {
        Some(plain) => Some(plain.f32s().to_vec()),
        None => tensor.bytes().iter().map(|byte| dtype.of_byte(*byte)).collect(),
    }
}

impl Scope<'_> {
    /// Whether the checkpoint has a weight here, in whatever form.
    pub(crate) fn has_weight(&self) -> bool {
        ["weight", "qweight", "weight_packed"].iter().any(|name| self.has(name))
    }

    /// The weight of this module, if it lies in the layout of another tool than MLX.
    pub(super) fn of_quantizer(&self, shape: &[usize]) -> Result<Option<Weight>> {
        let scaled = ["weight_scale", "weight_scale_inv"].iter().any(|name| self.has(name));
        let own = self.has("qweight") || self.has("weight_packed") || (self.has("weight") && scaled);
        if !own {
            return Ok(None);
        }
        let &[outputs, inputs] = shape else {
            return Err(self.misfit("is quantized as one matrix, and the model asks for a stack of them"));
        };
        let shape = [outputs, inputs];
        let Some(quantizer) = &self.weights.quantizer else {
            return Err(self.misfit(
                "is quantized, and config.json has no `quantization_config` that says how: take the file that belongs to the weights",
            ));
        };
        let weight = if self.has("qweight") {
            match quantizer {
                Quantizer::Awq => self.awq(shape)?,
                Quantizer::Gptq { one_less } => self.gptq(shape, *one_less)?,
                _ => return Err(self.misfit("has a `qweight`, which config.json knows nothing of")),
            }
        } else if let Quantizer::Ternary { divides } = quantizer {
            self.ternary(shape, *divides)?
        } else {
            self.compressed(shape, quantizer)?
        };
        self.weights.record.borrow_mut().record.quantizer = Some(quantizer.name());
        Ok(Some(weight))
    }

    /// A tensor of this module.
    fn part(&self, name: &str) -> Result<Tensor> {
        let path = self.at(name).path;
        self.weights.take(&path).ok_or_else(|| self.weights.missing(&path))
    }

    /// A tensor of this module, if it has it.
    fn optional(&self, name: &str) -> Option<Tensor> {
        self.weights.take(&self.at(name).path)
    }

    /// Words of this module, as they lie; the type says nothing of signs here.
    fn words(&self, name: &str) -> Result<Tensor> {
        let tensor = self.part(name)?;
        match tensor.dtype() {
            Dtype::I32 | Dtype::U32 if tensor.shape().len() == 2 => {
                Ok(tensor.read_as(Dtype::U32).expect("words are words"))
            }
            _ => Err(self.misfit(format!("has `{name}` as {}, which are no rows of packed words", tensor.spec()))),
        }
    }

    /// Scales or zeros over the matrix of this module.
    fn over_blocks(&self, name: &str, shape: [usize; 2], told: Option<[usize; 2]>) -> Result<(Blocks, Dtype)> {
        let tensor = self.part(name)?;
        match Blocks::over(&tensor, shape, told) {
            Some(blocks) => Ok((blocks, tensor.dtype())),
            None => Err(self.misfit(format!(
                "has `{name}` as {}, which does not fit weights [{}, {}]",
                tensor.spec(),
                shape[0],
                shape[1]
            ))),
        }
    }

    fn misfit(&self, what: impl std::fmt::Display) -> Error {
        Error::invalid(format!("`{}` {what}", self.path))
    }

    fn unsupported(&self, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::UnsupportedQuantization, format!("`{}` {what}", self.path))
    }
}
