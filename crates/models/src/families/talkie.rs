//! Talkie: norms without weights, gains instead, and each layer adds the embeddings once more.

use mlxengine_tensor::Tensor;
use serde_json::{Value, json};

use crate::decoder::{LanguageModel, Span};
use crate::mixer::{Attention, Pass, Plan};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::spec::{self, Decoder, Head, QkNorm, Rope};
use crate::stack::{At, Layer, Stack};
use crate::weights::Weights;
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("rope_scaling", &Value::Null)?;
    let unread = ["num_key_value_heads", "attention_bias", "mlp_bias", "hidden_act", "rope_parameters"];
    let config = config.without(&unread).without(&["rope_traditional", "partial_rotary_factor"]).defaults(json!({
        "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "head_dim": 128,
        "intermediate_size": 13_696, "vocab_size": 65_540, "rope_theta": 1_000_000.0, "max_position_embeddings": 2048,
        "rms_norm_eps": f32::EPSILON
    }));
    let c = config.common()?;
    let norm = c.norm().bare();
    let rope = Some(Rope { backwards: true, ..c.plain_rope(1_000_000.0)? });
    let qk_norm = Some(QkNorm { turned: true, ..norm.into() });
    let decoder = c.decoder(false, |_| {
        let attention = spec::Attention { qk_norm, rope: rope.clone(), ..c.attention()? };
        Ok(spec::Layer { norm, ..c.layer(attention, c.mlp()?) })
    })?;
    Ok(Decoder { norm, embed_norm: Some(norm), head: Head::Own, renames: RENAMES, ..decoder })
}

const RENAMES: &[(&str, &str)] = &[
    ("^model.blocks.", "^model.layers."),
    ("^model.embed.", "^model.embed_tokens."),
    (".attn.attn_query.", ".self_attn.q_proj."),
    (".attn.attn_key.", ".self_attn.k_proj."),
    (".attn.attn_value.", ".self_attn.v_proj."),
    (".attn.attn_resid.", ".self_attn.o_proj."),
    (".attn.head_gain.", ".self_attn.head_gain."),
    (".mlp.mlp_gate.", ".mlp.gate_proj."),
    (".mlp.mlp_linear.", ".mlp.up_proj."),
    (".mlp.mlp_resid.", ".mlp.down_proj."),
    // The head is an array without a module.
    ("^lm_head_gain.", "^head_gain."),
    ("^lm_head.weight", "^lm_head"),
    ("^lm_head", "^lm_head.weight"),
];

pub(super) fn load(
    _: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let gain = weights.root().at("head_gain").number("w_g")?.f32s()[0];
    Ok(Box::new(Stack::load(Decoder { logit_scale: Some(gain), ..spec }, weights, progress, Own::load)?))
}

#[derive(Debug)]
struct Own {
    norm: Norm,
    attention: Attention,
    /// Of the queries of each head, `[1, heads, 1]`.
    heads: Tensor,
    mlp: Mlp,
    /// Of what attention, the unit and the embeddings add.
    gains: [f32; 3],
}

impl Own {
    fn load(at: &At<'_>, plan: &mut Plan) -> Result<Self> {
        let At { w, dim, .. } = at;
        let (spec, scope) = (at.attention(), w.at("self_attn"));
        let gain = |name| Ok::<_, crate::Error>(w.at(name).number("a_g")?.f32s()[0]);
        Ok(Self {
            norm: Norm::load(at.spec.norm, w, "norm", *dim)?,
            attention: Attention::load(spec, &scope, *dim, plan)?,
            heads: scope.at("head_gain").vector("head_g", spec.heads)?.reshape([1, spec.heads, 1]),
            mlp: Mlp::load(at.mlp(), &w.at("mlp"), *dim)?,
            gains: [gain("attn_gain")?, gain("mlp_gain")?, gain("embed_skip")?],
        })
    }
}

impl Layer for Own {
    fn forward(&self, x: Tensor, first: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let mut inputs = self.attention.inputs(&self.norm.forward(&x), pass);
        inputs.q = inputs.q.mul(&self.heads);
        let attended = self.attention.output(self.attention.attended(inputs, spans));
        let x = x.add(&attended.scale(self.gains[0]));
        let worked = self.mlp.forward(&self.norm.forward(&x));
        x.add(&worked.scale(self.gains[1])).add(&first.clone().scale(self.gains[2]))
    }
}
