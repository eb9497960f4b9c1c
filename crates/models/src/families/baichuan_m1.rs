//! Baichuan M1: keys and values are each mixed with those of the position before, and the rows of the head have length 1.

use mlxengine_tensor::{Bytes, Reduce, Spec, Tensor, Unary};
use serde::Deserialize;
use serde_json::{Value, json};
use smallvec::smallvec;

use crate::decoder::{LanguageModel, Span};
use crate::mixer::{Attention, Conv, Pass, Plan, each_span};
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::spec::{self, Decoder, Projection};
use crate::stack::{At, Layer, Stack};
use crate::state::SlotSpec;
use crate::weights::{Scope, Weights};
use crate::{Config, Result};

/// Positions that are mixed.
const WINDOW: usize = 2;

#[derive(Deserialize)]
struct Keys {
    sliding_window: usize,
    sliding_window_layers: Vec<usize>,
    num_swa_attention_heads: Option<usize>,
    num_swa_key_value_heads: Option<usize>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("conv_window", &json!(WINDOW))?;
    config.only("tie_word_embeddings", &json!(false))?;
    config.only("rope_scaling", &Value::Null)?;
    let unread = ["head_dim", "attention_bias", "mlp_bias", "hidden_act", "rope_parameters", "rope_traditional"];
    let config = config.without(&unread).without(&["partial_rotary_factor"]);
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    // Zero means none, as in the reference.
    let or = |own: Option<usize>, other| own.filter(|own| *own > 0).unwrap_or(other);
    let [heads, kv_heads] = [c.num_attention_heads, c.kv_heads()];
    let sliding =
        c.with_heads([or(keys.num_swa_attention_heads, heads), or(keys.num_swa_key_value_heads, kv_heads)])?;
    c.decoder(false, |index| {
        let slides = keys.sliding_window_layers.contains(&index);
        let c = if slides { &sliding } else { &c };
        let attention = spec::Attention {
            projection: Projection::Joined,
            window: slides.then_some(keys.sliding_window),
            ..c.attention()?
        };
        Ok(c.layer(attention, c.mlp()?))
    })
    .map(|decoder| Decoder { renames: &[(".W_pack.", ".qkv_proj.")], ..decoder })
}

pub(super) fn load(
    _: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    // Packed rows had their length before they were packed.
    let plain = !weights.root().has("lm_head.scales");
    let weights = weights.changed(|name, tensor| (plain && name == "lm_head.weight").then(|| normed(tensor)).flatten());
    Ok(Box::new(Stack::load(spec, weights, progress, Own::load)?))
}

/// The rows of a matrix, each divided by its length and rounded to the type that it is stored in.
fn normed(rows: &Tensor) -> Option<Tensor> {
    let (dtype, count) = (rows.dtype(), rows.shape()[0]);
    let mut bytes = Vec::with_capacity(rows.spec().bytes());
    // Some at a time: a head is large, and plain numbers take twice its bytes.
    for start in (0..count).step_by(1024) {
        let part = rows.clone().slice(0, start, 1024.min(count - start)).to_f32()?;
        let length = part.clone().unary(Unary::Square).reduce(Reduce::Sum).unary(Unary::Sqrt);
        let part = part.div(&length.add(&Tensor::from_f32(&[1e-7], [1]))).cast(dtype);
        bytes.extend_from_slice(part.bytes());
    }
    Some(Tensor::lying(Bytes::from(bytes), Spec::new(dtype, *rows.shape())))
}

#[derive(Debug)]
struct Own {
    norms: [Norm; 2],
    attention: Attention,
    /// Of keys and of values.
    mixes: [Conv; 2],
    /// Where their last inputs lie.
    slot: usize,
    mlp: Mlp,
}

impl Own {
    fn load(at: &At<'_>, plan: &mut Plan) -> Result<Self> {
        let At { w, dim, .. } = at;
        let (spec, scope) = (at.attention(), w.at("self_attn"));
        let norm = |name| Norm::load(at.spec.norm, w, name, *dim);
        let tail = || [WINDOW - 1, spec.kv_heads * spec.head_dim].into();
        Ok(Self {
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
            mixes: [mix(&scope, "conv_k", spec)?, mix(&scope, "conv_v", spec)?],
            slot: plan.slot(SlotSpec::Recurrent(smallvec![tail(), tail()])),
            attention: Attention::load(spec, &scope, *dim, plan)?,
            mlp: Mlp::load(at.mlp(), &w.at("mlp"), *dim)?,
        })
    }
}

impl Layer for Own {
    fn forward(&self, x: Tensor, _: &Tensor, pass: &Pass<'_>, spans: &mut [Span<'_>]) -> Tensor {
        let seen = self.norms[0].forward(&x);
        let mut projected = self.attention.projected(&seen);
        for (which, (part, mix)) in projected.kv.iter_mut().flatten().zip(&self.mixes).enumerate() {
            *part = each_span(spans, [part.clone()], |[part], span| {
                mix.forward(&part, &mut span.state.recurrent(self.slot)[which])
            });
        }
        let inputs = self.attention.placed(projected, pass);
        let x = x.add(&self.attention.output(self.attention.attended(inputs, spans)));
        let worked = self.mlp.forward(&self.norms[1].forward(&x));
        x.add(&worked)
    }
}

/// The mixing of keys or of values: of each head two numbers, that for the position before first.
fn mix(w: &Scope<'_>, name: &str, spec: &spec::Attention) -> Result<Conv> {
    let stored = w.floats(name, &[1, 1, spec.kv_heads, 1, WINDOW])?;
    let each = stored.f32s().chunks_exact(WINDOW).flat_map(|pair| pair.repeat(spec.head_dim));
    Ok(Conv::new(Tensor::from_f32(&each.collect::<Vec<_>>(), [spec.kv_heads * spec.head_dim, WINDOW])))
}
