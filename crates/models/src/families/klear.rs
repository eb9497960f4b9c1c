//! Klear: a mixture and a unit beside it, whose shares a softmax weighs.

use mlxengine_tensor::Tensor;
use serde::Deserialize;

use crate::decoder::{LanguageModel, Span};
use crate::linear::Linear;
use crate::mixer::{Attention, Pass, Plan};
use crate::mlp::{Mlp, Pool, Router, Unit};
use crate::norm::Norm;
use crate::spec::{self, Decoder, Experts, Gated, Head, Shared};
use crate::stack::{At, Layer, Stack};
use crate::weights::Weights;
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Keys {
    mlp_only_layers: Vec<usize>,
    num_experts: usize,
    num_experts_per_tok: usize,
    decoder_sparse_step: usize,
    n_shared_experts: usize,
    moe_intermediate_size: usize,
    norm_topk_prob: bool,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["head_dim", "mlp_bias", "rope_scaling", "rope_parameters", "hidden_act"]);
    let (c, keys): (_, Keys) = (config.without(&["partial_rotary_factor"]).common()?, config.read()?);
    let unit = |hidden| Ok::<_, Error>(Gated { hidden, ..c.gated()? });
    let beside = unit(keys.moe_intermediate_size.saturating_mul(keys.n_shared_experts))?;
    let router = spec::Router { eps: 0.0, ..spec::Router::sigmoid(keys.norm_topk_prob, 1.0) };
    let experts = Experts {
        shared: Some(Shared { unit: spec::Unit::Gated(beside), gated: false }),
        ..Experts::new([keys.num_experts, keys.num_experts_per_tok], unit(keys.moe_intermediate_size)?, router)
    };
    let decoder = c.decoder(false, |index| {
        let attention = spec::Attention { qk_norm: Some(c.norm().into()), ..c.attention()? };
        let step = (index + 1).is_multiple_of(keys.decoder_sparse_step.max(1));
        let sparse = keys.num_experts > 0 && step && !keys.mlp_only_layers.contains(&index);
        Ok(c.layer(attention, if sparse { experts.checked()? } else { c.mlp()? }))
    })?;
    let renames =
        &[(".mlp.shared_experts.", ".mlp.shared_expert."), (".mlp.expert_bias", ".mlp.gate.e_score_correction_bias")];
    Ok(Decoder { head: Head::Own, renames, ..decoder })
}

pub(super) fn load(
    _: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    Ok(Box::new(Stack::load(spec, weights, progress, Own::load)?))
}

#[derive(Debug)]
struct Own {
    norms: [Norm; 2],
    attention: Attention,
    mlp: Work,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer has one, and a box would cost a look-up a product")]
enum Work {
    Plain(Mlp),
    Balanced(Balanced),
}

/// A mixture and a unit, of whose shares the first is that of the mixture.
#[derive(Debug)]
struct Balanced {
    router: Router,
    experts: Pool,
    unit: Unit,
    shares: Linear,
}

impl Own {
    fn load(at: &At<'_>, plan: &mut Plan) -> Result<Self> {
        let At { w, dim, .. } = at;
        let norm = |name| Norm::load(at.spec.norm, w, name, *dim);
        let mlp = w.at("mlp");
        Ok(Self {
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
            attention: Attention::load(at.attention(), &w.at("self_attn"), *dim, plan)?,
            mlp: match at.mlp() {
                spec::Mlp::Experts(experts @ Experts { shared: Some(shared), .. }) => Work::Balanced(Balanced {
                    router: Router::load(experts, &mlp, *dim)?,
                    experts: Pool::load(experts, &mlp, *dim)?,
                    unit: Unit::load(&shared.unit, &mlp.at("shared_expert"), *dim)?,
                    shares: mlp.linear("coefficient", [*dim, 2], true)?,
                }),
                plain => Work::Plain(Mlp::load(plain, &mlp, *dim)?),
            },
        })
    }
}

impl Layer for Own {
    fn forward(&self, x: Tensor, _: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let attended = self.attention.forward(&self.norms[0].forward(&x), pass, spans);
        let x = x.add(&attended);
        let seen = self.norms[1].forward(&x);
        x.add(&match &self.mlp {
            Work::Plain(mlp) => mlp.forward(&seen),
            Work::Balanced(parts) => {
                let shares = parts.shares.forward(&seen).softmax();
                let [chosen, beside] = [0, 1].map(|part| shares.clone().slice(1, part, 1));
                let (ids, each) = parts.router.choose(&seen);
                let mixed = parts.experts.forward(&seen, &ids, each).mul(&chosen);
                mixed.add(&parts.unit.forward(&seen).mul(&beside))
            }
        })
    }
}
