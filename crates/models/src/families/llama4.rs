//! Llama 4, the text model: chunks of positions in three layers of four, queries that grow with their position in the
//! fourth, and one expert a token, which sees its input scaled.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::spec::{
    Attention, Decoder, Experts, Gated, Head, JoinedExperts, Norm, QkNorm, Router, Scores, Shared, Temperature, Unit,
};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    attention_chunk_size: usize,
    interleave_moe_layer_step: usize,
    intermediate_size_mlp: usize,
    num_experts_per_tok: usize,
    num_local_experts: usize,
    use_qk_norm: bool,
    attn_temperature_tuning: Option<Value>,
    floor_scale: Option<f32>,
    attn_scale: Option<f32>,
}

impl Own {
    fn temperature(&self) -> Result<Option<Temperature>> {
        if matches!(&self.attn_temperature_tuning, Some(off) if *off == json!(false) || *off == json!(0)) {
            return Ok(None);
        }
        let (slope, length) = (self.attn_scale.unwrap_or(0.1), self.floor_scale.unwrap_or(8192.0));
        Temperature { slope, length, shift: 1.0 }.checked().map(Some)
    }
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.text();
    config.only("num_experts_per_tok", &json!(1))?;
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let (chunk, step) = (own.attention_chunk_size, own.interleave_moe_layer_step);
    if chunk == 0 || step == 0 {
        return Err(Error::invalid("config.json: attention_chunk_size and interleave_moe_layer_step are at least 1"));
    }
    let norm = Norm { eps: 1e-6, ..c.norm() }.bare();
    let qk_norm = own.use_qk_norm.then_some(QkNorm { turned: true, ..norm.into() });
    let (rope, temperature) = (c.rope(10_000.0)?.neighbours(), own.temperature()?);
    let unit = Gated { bias: false, ..c.gated()? };
    let router = Router { correction: false, weighs_inputs: true, scores: Scores::Sigmoid, ..Router::softmax(false) };
    let experts = Experts {
        joined: JoinedExperts::Columns,
        shared: Some(Shared { unit: Unit::Gated(unit), gated: false }),
        ..Experts::new([own.num_local_experts, own.num_experts_per_tok], unit, router)
    };
    let dense = Gated { hidden: own.intermediate_size_mlp, ..unit };
    let decoder = c.decoder(false, |index| {
        let plain = c.attention()?;
        let attention = if (index + 1).is_multiple_of(4) {
            Attention { rope: None, temperature, ..plain }
        } else {
            Attention { rope: Some(rope.clone()), qk_norm, window: Some(chunk), chunked: true, ..plain }
        };
        let sparse = index % step == step - 1;
        Ok(c.layer(attention, if sparse { experts.checked()? } else { dense.into() }))
    })?;
    let renames = &[(".feed_forward.", ".mlp."), (".mlp.router.", ".mlp.gate.")];
    Ok(Decoder { head: Head::OwnIfPresent, renames, ..decoder })
}
