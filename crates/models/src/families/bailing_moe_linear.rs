//! Ring 2 linear: attention whose past fades in most layers, plain attention in the last of each group, mixtures as in Ling.

use serde::Deserialize;
use serde_json::json;

use super::bailing_moe::{Own, RENAMES};
use crate::config::{Common, Mixture};
use crate::spec::{Attention, Decoder, Layer, LinearAttention, Mixer, Projection};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Groups {
    layer_group_size: usize,
    group_norm_size: usize,
}

/// The keys of these families under the names that most families give them.
pub(super) fn keys(config: &Config) -> Config {
    let biases = [("attention_bias", "use_qkv_bias"), ("mlp_bias", "use_bias")];
    config.without(&["attention_bias", "mlp_bias", "topk_method", "hidden_act"]).aliases(&biases).or("topk_group", 4)
}

/// Whether layer `index` is the last of its group, or in a group that is not whole.
pub(super) fn attends(c: &Common, group: usize, index: usize) -> bool {
    let group = group.max(1);
    (index + 1).is_multiple_of(group) || index >= c.num_hidden_layers / group * group
}

/// Logarithms of the heads' decays: slopes as of ALiBi (Press et al. 2022), flatter from layer to layer.
pub(super) fn rates(c: &Common, place: usize) -> Vec<f32> {
    let heads = c.num_attention_heads;
    let slopes = |count: usize| {
        let base = -(2f64.powf(-((count as f64).log2() - 3.0)));
        (1..=count).map(move |i| 2f64.powf(base * i as f64))
    };
    let whole = 1usize << heads.ilog2();
    let between = slopes(2 * whole).step_by(2).take(heads - whole);
    let part = place as f64 / (c.num_hidden_layers.max(2) - 1) as f64;
    slopes(whole).chain(between).map(|slope| (-slope * (1.0 - part + 1e-5)) as f32).collect()
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = keys(config);
    // The reference divides the head's rows at loading, even those of a converted checkpoint.
    config.only("norm_head", &json!(false))?;
    let (c, own, mixture): (_, Own, _) = (config.common()?, config.read()?, Mixture::read(&config)?);
    let groups: Groups = config.read()?;
    let linear = config.without(&["head_dim"]).common()?;
    let qk_norm = own.use_qk_norm.then(|| c.norm());
    let decoder = c.decoder(false, |index| {
        let attention = Attention {
            projection: Projection::Joined,
            out_bias: c.mlp_bias,
            qk_norm: qk_norm.map(Into::into),
            rope: Some(c.rope(10_000.0)?),
            ..c.attention()?
        };
        let fading = LinearAttention {
            rates: rates(&c, index.saturating_sub(1)),
            head_dim: linear.head_dim(),
            bias: [c.attention_bias, c.mlp_bias],
            qk_norm,
            rope: linear.rope(10_000.0)?,
            groups: groups.group_norm_size,
            eps: c.rms_norm_eps,
        };
        let layer = c.layer(attention, own.mlp(&c, &mixture, index)?);
        if attends(&c, groups.layer_group_size, index) {
            return Ok(layer);
        }
        Ok(Layer { mixer: Some(Mixer::LinearAttention(fading.checked()?)), ..layer })
    })?;
    Ok(Decoder { renames: RENAMES, ..decoder })
}
