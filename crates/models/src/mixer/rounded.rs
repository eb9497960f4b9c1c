//! Attention of models that were trained with keys and values in 8 bits: both are rounded before they are kept.

use mlxengine_tensor::Tensor;

use super::attention::{Attention, Inputs};
use super::{Pass, Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::rounding::to_steps;
use crate::spec;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct Rounded {
    attention: Attention,
    /// Between two neighbouring keys, and values.
    steps: [f32; 2],
}

impl Rounded {
    pub(crate) fn load(spec: &spec::Attention, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let attention = Attention::load(spec, w, dim, plan)?;
        let step = |name| Ok::<_, crate::Error>(w.number(name)?.f32s()[0]);
        Ok(Self { attention, steps: [step("quant_key_scale")?, step("quant_value_scale")?] })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let Inputs { q, kv, .. } = self.attention.inputs(x, pass);
        let [k, v] = kv.expect("these layers have keys of their own");
        let [k, v] = [(k, self.steps[0]), (v, self.steps[1])].map(|(x, step)| to_steps(&x, step));
        let y = each_span(spans, [q, k, v], |[q, k, v], span| {
            let first = span.state.offset();
            let view = span.state.kv(self.attention.slot).extend(&k, &v);
            self.attention.attend(&q, view, first)
        });
        self.attention.output(y)
    }
}
