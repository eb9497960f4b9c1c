//! RecurrentGemma: attention over a window in every few layers, gated recurrences in the others (Griffin, De et al. 2024).

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Gated, GatedRecurrence, Head, Layer, Mixer, Norm};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    attention_window_size: usize,
    logits_soft_cap: f32,
    block_types: Vec<String>,
    #[serde(default = "scaled")]
    embeddings_scale_by_sqrt_dim: bool,
}

fn scaled() -> bool {
    true
}

const RENAMES: &[(&str, &str)] = &[
    (".temporal_pre_norm.", ".input_layernorm."),
    (".temporal_block.", ".mixer."),
    (".channel_pre_norm.", ".post_attention_layernorm."),
    (".mlp_block.", ".mlp."),
    (".final_norm.", ".norm."),
];

/// Positions of the convolution.
const KERNEL: usize = 4;
/// Added to the mean square by the norms of layers, whatever `rms_norm_eps` says of the last one.
const NORM_EPS: f32 = 1e-5;

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("num_key_value_heads", &json!(1))?;
    config.only("conv1d_width", &json!(KERNEL))?;
    config.only("attention_bias", &json!(false))?;
    config.only("hidden_activation", &json!("gelu_pytorch_tanh"))?;
    let config = config.or_key("block_types", "_block_types").without(&["hidden_act", "mlp_bias"]);
    let config = config.or("num_key_value_heads", 1).or("partial_rotary_factor", 0.5);
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    config.only("lru_width", &json!(c.hidden_size))?;
    let rope = c.rope(10_000.0)?;
    if c.head_dim() * c.num_attention_heads != c.hidden_size || rope != c.rope_of(c.head_dim() / 2, 10_000.0)? {
        let message = "heads that do not fill the stream, or turn other than by half from a base of 10000";
        return Err(Error::unsupported(format!("config.json: {message}, are not supported")));
    }
    let recurrence =
        GatedRecurrence { heads: c.num_attention_heads, width: c.hidden_size, kernel: KERNEL }.checked()?;
    let attention =
        Attention { rope: Some(rope), window: Some(own.attention_window_size), out_bias: true, ..c.attention()? };
    let norm = Norm { offset: 1.0, ..c.norm() };
    let unit = Gated { hidden: c.intermediate_size / 2, act: Unary::GeluTanh.into(), bias: true, ..c.gated()? };
    let decoder = c.decoder(true, |index| {
        let kind = own.block_types.get(index % own.block_types.len().max(1)).map(String::as_str);
        let mixer = match kind {
            Some("recurrent") => Mixer::GatedRecurrence(recurrence),
            Some("attention") => Mixer::Attention(attention.clone()),
            kind => {
                let kind = kind.unwrap_or("nothing");
                return Err(Error::unsupported(format!(
                    "config.json: block_types names `{kind}`, which is not supported"
                )));
            }
        };
        let layer = c.layer(attention.clone(), unit.into());
        Ok(Layer { mixer: Some(mixer), norm: Norm { eps: NORM_EPS, ..norm }, ..layer })
    })?;
    let embed_scale = own.embeddings_scale_by_sqrt_dim.then(|| (c.hidden_size as f32).sqrt());
    let logit_softcap = Some(own.logits_soft_cap).filter(|cap| *cap != 0.0);
    Ok(Decoder { norm, embed_scale, logit_softcap, head: Head::OwnIfPresent, renames: RENAMES, ..decoder })
}
