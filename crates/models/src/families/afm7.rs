//! Apple's foundation model for devices: late layers attend to the keys and values of the last one that has its own, and both
//! are rounded to 8 bits.

use mlxengine_tensor::Tensor;
use serde::Deserialize;
use serde_json::json;

use crate::config::Common;
use crate::decoder::{LanguageModel, Span};
use crate::ends::{Ends, Frame};
use crate::mixer::{Mixer, Pass, Plan, Rounded};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::spec::{self, Attention, Decoder, Head, Projection, QkNorm};
use crate::weights::{Scope, Weights};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    num_kv_reuse_layers: usize,
    hidden_dim: usize,
    hidden_dim_scale_factor: f64,
}

const RENAMES: &[(&str, &str)] =
    &[(".embedding.", ".embed_tokens."), (".output_norm.", ".norm."), (".out_proj.", ".o_proj.")];

const ALIASES: &[(&str, &str)] = &[
    ("hidden_size", "hidden_dim"),
    ("num_hidden_layers", "num_layers"),
    ("num_attention_heads", "num_heads"),
    ("num_key_value_heads", "num_kv_heads"),
];

/// Added to the mean square of queries and keys, whatever `rms_norm_eps` says of the others.
const HEAD_EPS: f32 = 1e-5;

/// What the configuration says, and how many layers have keys of their own.
fn keys(config: &Config) -> Result<(Common, usize)> {
    let unread = ["hidden_act", "attention_bias", "mlp_bias", "rope_scaling", "rope_parameters", "head_dim"];
    let config = config.without(&unread).without(&["partial_rotary_factor", "intermediate_size"]);
    let config =
        config.defaults(json!({"rope_theta": 50_000.0, "rms_norm_eps": 1e-5, "hidden_dim_scale_factor": 3.25}));
    let own: Own = config.read()?;
    let hidden = (own.hidden_dim as f64 * own.hidden_dim_scale_factor) as usize;
    let c = config.aliases(ALIASES).or("intermediate_size", hidden).common()?;
    match c.num_hidden_layers.checked_sub(own.num_kv_reuse_layers).filter(|kept| *kept > 0) {
        Some(kept) => Ok((c, kept)),
        None => Err(Error::invalid("config.json: num_kv_reuse_layers leaves no layer with keys of its own")),
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let (c, kept) = keys(config)?;
    if !c.hidden_size.is_multiple_of(c.num_attention_heads) {
        let message = format!("{} numbers cannot be divided into {} heads", c.hidden_size, c.num_attention_heads);
        return Err(Error::invalid(format!("config.json: {message}")));
    }
    let rope = c.plain_rope(50_000.0)?.neighbours();
    let qk_norm = QkNorm { turned: true, ..spec::Norm { eps: HEAD_EPS, ..c.norm() }.into() };
    let decoder = c.decoder(true, |index| {
        let keys_of = (index >= kept).then(|| kept - 1);
        let (rope, qk_norm) = (Some(rope.clone()), Some(qk_norm));
        let projection = Projection::Joined;
        let attention = Attention { rope, qk_norm, keys_of, projection, ..c.attention()? };
        Ok(c.layer(attention, c.mlp()?))
    })?;
    Ok(Decoder { head: Head::Tied, renames: RENAMES, ..decoder })
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let (_, kept) = keys(config)?;
    let ends = Ends::load(spec, &weights)?;
    let (body, spec) = (weights.root().at("model"), &ends.spec);
    let (mut plan, mut layers) = (Plan::default(), Vec::new());
    for (index, layer) in spec.layers.iter().enumerate() {
        let w = match index.checked_sub(kept) {
            Some(reusing) => body.at("kv_reuse_layers").at(reusing),
            None => body.at("layers").at(index),
        };
        layers.push(Block::load(layer, &w, spec.dim, &mut plan)?);
        progress(index + 1, spec.layers.len());
    }
    Ok(Box::new(Model { frame: Frame::new(ends, plan, weights)?, layers }))
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a layer has one, and a box would cost a look-up a product")]
enum Attends {
    /// To keys and values of its own.
    Own(Rounded),
    /// To those of an earlier layer.
    Reusing(Mixer),
}

#[derive(Debug)]
struct Block {
    attention: Attends,
    mlp: Mlp,
    norms: [Norm; 2],
}

impl Block {
    fn load(layer: &spec::Layer, w: &Scope<'_>, dim: usize, plan: &mut Plan) -> Result<Self> {
        let (Some(mixer @ spec::Mixer::Attention(attention)), Some(mlp)) = (&layer.mixer, &layer.mlp) else {
            unreachable!("made above")
        };
        let norm = |name| Norm::load(layer.norm, w, name, dim);
        Ok(Self {
            attention: match attention.keys_of {
                Some(_) => Attends::Reusing(Mixer::load(mixer, w, dim, plan)?),
                None => Attends::Own(Rounded::load(attention, &w.at("self_attn"), dim, plan)?),
            },
            mlp: Mlp::load(mlp, &w.at("mlp"), dim)?,
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
        })
    }

    fn forward(&self, x: Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let seen = self.norms[0].forward(&x);
        let attended = match &self.attention {
            Attends::Own(attention) => attention.forward(&seen, pass, spans),
            Attends::Reusing(attention) => attention.forward(&seen, pass, spans),
        };
        let x = x.add(&attended);
        x.clone().add(&self.mlp.forward(&self.norms[1].forward(&x)))
    }
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
        let (start, mut x) = self.frame.begin(spans);
        for layer in &self.layers {
            x = layer.forward(x, &start.pass(), spans);
        }
        self.frame.end(&x, spans)
    }
}
