//! Attention of layers that a token goes through twice: the second time each head mixes what it finds among the keys of the
//! first time with what it finds in a window of those of the second.

use mlxengine_tensor::{Binary, Reduce, Tensor, Unary};

use super::attention::{Attention, Inputs};
use super::{Pass, Plan, each_span};
use crate::Result;
use crate::decoder::Span;
use crate::spec;
use crate::state::SlotSpec;
use crate::weights::Scope;

#[derive(Debug)]
pub(crate) struct Looped {
    attention: Attention,
    /// What a head's query says of how much comes from the first time: weights and bias.
    gate: [Tensor; 2],
    /// Where the keys and values of the second time lie.
    slot: usize,
}

impl Looped {
    /// `w` and `gate` are the scopes of the attention and of its gate; see [`Looped::keep`].
    pub(crate) fn load(
        spec: &spec::Attention,
        [w, gate]: [&Scope<'_>; 2],
        dim: usize,
        plan: &mut Plan,
    ) -> Result<Self> {
        let attention = Attention::load(spec, w, dim, plan)?;
        let gate = [gate.floats("weight", &[spec.heads, spec.head_dim])?, gate.vector("bias", spec.heads)?];
        Ok(Self { slot: attention.slot, attention, gate })
    }

    /// Asks for room for the keys and values of the second time, after all layers have asked for that of the first.
    pub(crate) fn keep(&mut self, window: usize, plan: &mut Plan) {
        let SlotSpec::Kv { shape, dtype, .. } = plan.slots[self.attention.slot] else {
            unreachable!("attention keeps keys")
        };
        self.slot = plan.slot(SlotSpec::Kv { shape, dtype, window: Some(window) });
    }

    /// The first time.
    pub(crate) fn first(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        self.attention.forward(x, pass, spans)
    }

    /// The second time, after the first of the same pass.
    pub(crate) fn second(&self, x: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let Inputs { q, kv, .. } = self.attention.inputs(x, pass);
        let [k, v] = kv.expect("each layer has keys of its own");
        let [rows, heads] = [q.shape()[0], q.shape()[1]];
        let logits = q.clone().mul(&self.gate[0]).reduce(Reduce::Sum).reshape([rows, heads]);
        let share = logits.add(&self.gate[1]).unary(Unary::Sigmoid).reshape([rows, heads, 1]);
        let y = each_span(spans, [q, k, v, share], |[q, k, v, share], span| {
            let first = span.state.offset();
            let far = span.state.kv(self.attention.slot).view();
            let near = span.state.kv(self.slot).extend(&k, &v);
            let [far, near] = [far, near].map(|view| self.attention.attend(&q, view, first));
            far.binary(Binary::Sub, &near).mul(&share).add(&near)
        });
        self.attention.output(y)
    }
}
