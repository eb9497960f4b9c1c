//! BitNet b1.58: as Llama, but with squared ReLU, and a norm in the middle of each half. Its files pack three-valued weights.

use mlxengine_tensor::{Tensor, Unary};
use serde_json::json;

use crate::decoder::{LanguageModel, Span};
use crate::linear::Linear;
use crate::mixer::{Attention, Pass, Plan};
use crate::norm::Norm;
use crate::spec::{Decoder, Gated, Mlp, Unit};
use crate::stack::{At, Layer, Stack};
use crate::weights::Weights;
use crate::{Config, Error, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("hidden_act", &json!("relu2"))?;
    if let Some(settings) =
        config.get("quantization_config").filter(|s| s.get("quant_method") == Some(&json!("bitnet")))
        && settings.get("linear_class") != Some(&json!("autobitlinear"))
    {
        // The reference multiplies by scales in this family, whatever the class says.
        let message = "config.json: quantization_config.linear_class is not `autobitlinear`, which alone is supported";
        return Err(Error::unsupported(message));
    }
    let c = config.without(&["hidden_act", "partial_rotary_factor"]).common()?;
    if c.num_attention_heads * c.head_dim() != c.hidden_size {
        let (heads, size) = (c.num_attention_heads, c.head_dim());
        return Err(Error::invalid(format!("config.json: {heads} heads of {size} cannot be normed as one row")));
    }
    let unit = Gated { act: Unary::Relu2.into(), ..c.gated()? };
    c.decoder(true, |_| Ok(c.layer(c.attention()?, unit.into())))
}

pub(super) fn load(
    _: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    // Files that were converted again say nothing of weights that kept their bytes.
    Ok(Box::new(Stack::load(spec, weights.ternary(), progress, Own::load)?))
}

#[derive(Debug)]
struct Own {
    /// Before and inside the attention, before and inside the unit.
    norms: [Norm; 4],
    attention: Attention,
    /// Gate and up.
    inner: [Linear; 2],
    down: Linear,
}

impl Own {
    fn load(at: &At<'_>, plan: &mut Plan) -> Result<Self> {
        let At { w, dim, .. } = at;
        let (spec, mlp) = (at.attention(), w.at("mlp"));
        let (hidden, bias) = match at.mlp() {
            Mlp::Dense(Unit::Gated(unit)) => (unit.hidden, unit.bias),
            _ => unreachable!("made above"),
        };
        let norm = |name: &str, size| Norm::load(at.spec.norm, w, name, size);
        Ok(Self {
            norms: [
                norm("input_layernorm", *dim)?,
                norm("self_attn.attn_sub_norm", *dim)?,
                norm("post_attention_layernorm", *dim)?,
                norm("mlp.ffn_sub_norm", hidden)?,
            ],
            attention: Attention::load(spec, &w.at("self_attn"), *dim, plan)?,
            inner: [mlp.linear("gate_proj", [*dim, hidden], bias)?, mlp.linear("up_proj", [*dim, hidden], bias)?],
            down: mlp.linear("down_proj", [hidden, *dim], bias)?,
        })
    }
}

impl Layer for Own {
    fn forward(&self, x: Tensor, _: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let [before, inside, between, within] = &self.norms;
        let attended = self.attention.attended(self.attention.inputs(&before.forward(&x), pass), spans);
        let [rows, dim] = [x.shape()[0], x.shape()[1]];
        let x = x.add(&self.attention.output(inside.forward(&attended.reshape([rows, dim]))));
        let [gate, up] = Linear::forward_all(self.inner.each_ref(), &between.forward(&x));
        x.add(&self.down.forward(&within.forward(&gate.glu(Unary::Relu2, &up))))
    }
}
