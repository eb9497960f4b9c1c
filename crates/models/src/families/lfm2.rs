//! LFM2: short convolutions, and attention in a few layers.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Gated, Head, Layer, Mixer, ShortConv};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Keys {
    #[serde(rename = "conv_L_cache")]
    kernel: usize,
    conv_bias: bool,
    block_multiple_of: usize,
    block_ffn_dim_multiplier: Option<f64>,
    block_auto_adjust_ff_dim: bool,
    full_attn_idxs: Option<Vec<usize>>,
}

impl Keys {
    /// The size that is meant by the one in the configuration.
    fn hidden(&self, size: usize) -> usize {
        if !self.block_auto_adjust_ff_dim {
            return size;
        }
        let size = (2 * size / 3) as f64 * self.block_ffn_dim_multiplier.unwrap_or(1.0);
        (size as usize).checked_next_multiple_of(self.block_multiple_of.max(1)).unwrap_or(usize::MAX)
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config
        .or_key("rms_norm_eps", "norm_eps")
        .or_key("intermediate_size", "block_ff_dim")
        .or("tie_word_embeddings", true);
    let (c, keys): (_, Keys) = (config.common()?, config.read()?);
    if keys.kernel == 0 || keys.kernel > 1 << 10 {
        return Err(Error::invalid(format!("config.json: conv_L_cache is {}, which no convolution has", keys.kernel)));
    }
    let conv = ShortConv { kernel: keys.kernel, bias: keys.conv_bias };
    let attends = |index: usize| match (&keys.full_attn_idxs, &c.layer_types) {
        (Some(indices), _) => indices.contains(&index),
        (None, Some(types)) => types.get(index).is_some_and(|t| t == "full_attention"),
        (None, None) => false,
    };
    let decoder = c.decoder(true, |index| {
        let attention =
            Attention { qk_norm: Some(c.norm().into()), rope: Some(c.rope(1_000_000.0)?), ..c.attention()? };
        let mlp = Gated { hidden: keys.hidden(c.intermediate_size), ..c.gated()? };
        let mixer = if attends(index) { Mixer::Attention(attention.clone()) } else { Mixer::ShortConv(conv) };
        Ok(Layer { mixer: Some(mixer), ..c.layer(attention, mlp.into()) })
    })?;
    Ok(Decoder { renames: RENAMES, ..decoder })
}

/// The text model beside one that sees.
pub(super) fn text(config: &Config) -> Result<Decoder> {
    Ok(Decoder { head: Head::OwnIfPresent, ..decoder(&config.text())? })
}

const RENAMES: &[(&str, &str)] = &[
    ("q_layernorm", "q_norm"),
    ("k_layernorm", "k_norm"),
    ("self_attn.out_proj", "self_attn.o_proj"),
    ("operator_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("embedding_norm", "norm"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
];
