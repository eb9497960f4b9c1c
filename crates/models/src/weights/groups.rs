//! Maps that lie in blocks on a diagonal.

use super::Scope;
use crate::Result;
use crate::linear::ExpertLinear;

impl Scope<'_> {
    /// Maps of `[groups, outputs, inputs]` in one stack, each of its own part of a row.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub(crate) fn groups(&self, name: &str, shape: [usize; 3]) -> Result<ExpertLinear> {
        let (weight, factors) = self.at(name).stack_weight(&shape)?;
        Ok(ExpertLinear { weight, factors, bias: None, precision: self.weights.precision, delta: None })
    }
}
