//! RWKV-7: attention without a softmax and units that see a little of the position before, both with states of fixed size.

use mlxengine_tensor::{Tensor, Unary};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::mixer::{Plan, Shift, Wkv};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::spec::{self, Decoder, Layer, Mixer, Plain};
use crate::weights::Weights;
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    head_dim: usize,
    hidden_size: usize,
    a_low_rank_dim: usize,
    v_low_rank_dim: usize,
    gate_low_rank_dim: usize,
    decay_low_rank_dim: usize,
}

const RENAMES: &[(&str, &str)] = &[
    (".embeddings.", ".embed_tokens."),
    (".layers.0.pre_norm.", ".embed_norm."),
    (".attn_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".attn.", ".self_attn."),
    (".ffn.key.", ".ffn.up_proj."),
    (".ffn.value.", ".ffn.down_proj."),
    (".ffn.", ".mlp."),
];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let own: Own = config.read()?;
    let heads = own.hidden_size / own.head_dim.max(1);
    config.only("num_heads", &json!(heads))?;
    config.only("hidden_act", &json!("sqrelu"))?;
    ["norm_bias", "norm_first"].iter().try_for_each(|key| config.only(key, &json!(true)))?;
    let sizes = config.get("value_dim").and_then(Value::as_array).into_iter().flatten();
    if let Some(size) = sizes.into_iter().find(|size| **size != json!(own.hidden_size)) {
        let message = format!("values of {size} numbers are not supported, only of {}", own.hidden_size);
        return Err(Error::unsupported(format!("config.json: {message}")));
    }
    if config.get("attn").is_some() {
        return Err(Error::unsupported("config.json: attn asks for layers of attention, which are not supported"));
    }
    let unread = ["hidden_act", "num_attention_heads", "num_key_value_heads", "rope_scaling", "rope_parameters"];
    let config = config.without(&unread).or_key("rms_norm_eps", "norm_eps").or("num_attention_heads", heads);
    let c = config.common()?;
    let norm = c.layer_norm(true);
    let decoder = c.decoder(false, |index| {
        let wkv = spec::Wkv {
            heads,
            head_dim: own.head_dim,
            decay_rank: own.decay_low_rank_dim,
            rate_rank: own.a_low_rank_dim,
            gate_rank: own.gate_low_rank_dim,
            value_rank: (index > 0).then_some(own.v_low_rank_dim),
        };
        let unit = Plain { hidden: c.intermediate_size, act: Unary::Relu2, bias: false };
        let mixer = Some(Mixer::Wkv(wkv.checked(own.hidden_size)?));
        Ok(Layer { mixer, norm, ..c.layer(c.attention()?, unit.into()) })
    })?;
    Ok(Decoder { norm, embed_norm: Some(norm), renames: RENAMES, ..decoder })
}

pub(super) fn load(
    _: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let ends = Ends::load(spec, &weights)?;
    let (body, spec) = (weights.root().at("model.layers"), &ends.spec);
    let (mut plan, mut layers) = (Plan::default(), Vec::new());
    for (index, layer) in spec.layers.iter().enumerate() {
        let w = body.at(index);
        let norm = |name| Norm::load(layer.norm, &w, name, spec.dim);
        let (Some(Mixer::Wkv(wkv)), Some(mlp)) = (&layer.mixer, &layer.mlp) else { unreachable!("made above") };
        layers.push(Block {
            mixer: Wkv::load(wkv, &w.at("self_attn"), spec.dim, &mut plan)?,
            shift: Shift::load(&w.at("mlp"), "x_k", &[spec.dim])?,
            mlp: Mlp::load(mlp, &w.at("mlp"), spec.dim)?,
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
        });
        progress(index + 1, spec.layers.len());
    }
    Ok(Box::new(Model { frame: Frame::new(ends, plan, weights)?, layers }))
}

#[derive(Debug)]
struct Block {
    mixer: Wkv,
    /// What the unit sees of the position before.
    shift: Shift,
    mlp: Mlp,
    norms: [Norm; 2],
}

#[derive(Debug)]
struct Model {
    frame: Frame,
    layers: Vec<Block>,
}

impl LanguageModel for Model {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn forward(&self, spans: &mut [Span<'_>]) -> Tensor {
        let ((_, mut x), mut first) = (self.frame.begin(spans), None);
        for layer in &self.layers {
            x = x.clone().add(&layer.mixer.forward(&layer.norms[0].forward(&x), &mut first, spans));
            let seen = layer.norms[1].forward(&x);
            let change = Shift::change(&seen, spans, layer.mixer.unit_shift());
            x = x.add(&layer.mlp.forward(&layer.shift.forward(&seen, &change)));
        }
        self.frame.end(&x, spans)
    }
}
