//! Llama-Nemotron: Llama whose layers a search has made differ, or left out by halves.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Gated};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    block_configs: Vec<Block>,
}

#[derive(Deserialize)]
struct Block {
    #[serde(default)]
    attention: Half,
    #[serde(default)]
    ffn: Half,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Half {
    no_op: bool,
    replace_with_linear: bool,
    n_heads_in_group: Option<usize>,
    ffn_mult: Option<f64>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    // Sizes are those of the layers; what stands for all of them is null, or of the model that was searched.
    let plain = config.without(&["head_dim", "num_key_value_heads", "intermediate_size"]).or("intermediate_size", 1);
    let (c, own): (_, Own) = (plain.common()?, config.read()?);
    if own.block_configs.len() != c.num_hidden_layers {
        return Err(Error::invalid("config.json: block_configs has not as many entries as there are layers"));
    }
    let rope = c.rope(500_000.0)?;
    c.decoder(false, |index| {
        let Block { attention, ffn } = &own.block_configs[index];
        if attention.replace_with_linear || ffn.replace_with_linear {
            return Err(Error::unsupported(format!(
                "config.json: block_configs[{index}] asks for `replace_with_linear`, which is not supported"
            )));
        }
        let missing = |key: &str| Error::invalid(format!("config.json: block_configs[{index}] has no `{key}`"));
        let mut layer = c.layer(c.attention()?, c.mlp()?);
        if attention.no_op {
            layer.mixer = None;
        } else {
            let group = attention.n_heads_in_group.filter(|g| *g > 0).ok_or_else(|| missing("n_heads_in_group"))?;
            let grouped = c.with_heads([c.num_attention_heads, c.num_attention_heads / group])?;
            layer = c.layer(Attention { rope: Some(rope.clone()), ..grouped.attention()? }, c.mlp()?);
        }
        let factor = ffn.ffn_mult.filter(|f| *f > 0.0 && *f < 1e3);
        layer.mlp = match factor {
            _ if ffn.no_op => None,
            None => return Err(missing("ffn_mult")),
            Some(factor) => {
                let hidden = (2.0 * (factor * 1e6).round() / 1e6 * c.hidden_size as f64 / 3.0) as usize;
                Some(Gated { hidden: hidden.next_multiple_of(256), ..c.gated()? }.into())
            }
        };
        Ok(layer)
    })
}
