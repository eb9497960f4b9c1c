//! Spark 2.5: a gate on each head, windows and full layers each with rotations of their own.

use mlxengine_tensor::Unary;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Common;
use crate::spec::{Attention, Decoder, Gated, HeadGate, Projection};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    rope_parameters: Value,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    config.only("hidden_act", &json!("gelu"))?;
    config.only("headwise_attn_output_gate", &json!(true))?;
    config.only("gate_attn_act_mode", &json!("sigmoid"))?;
    let own: Own = config.read()?;
    let config = config.without(&["rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor"]);
    let mut c = config.or("rms_norm_eps", 1e-6).or("max_position_embeddings", 8192).common()?;
    if c.layer_types.is_none() {
        let kind = |i: usize| if (i + 1).is_multiple_of(4) { "full_attention" } else { "sliding_attention" };
        c.layer_types = Some((0..c.num_hidden_layers).map(|i| kind(i).to_owned()).collect());
    }
    let mlp = Gated { act: Unary::Gelu.into(), ..c.gated()? };
    let decoder = c.decoder(true, |index| {
        let window = c.window(index)?;
        let kind = if window.is_some() { "sliding_attention" } else { "full_attention" };
        let turns = Common { rope_parameters: own.rope_parameters.get(kind).cloned(), ..c.clone() };
        let (projection, gate) = (Projection::Joined, Some(HeadGate::Head(Unary::Sigmoid)));
        let rope = Some(turns.plain_rope(10_000.0)?);
        Ok(c.layer(Attention { projection, gate, rope, window, ..c.attention()? }, mlp.into()))
    })?;
    let renames = &[
        ("^model.embedding.", "^model.embed_tokens."),
        (".q_k_v_proj.", ".qkv_proj."),
        (".self_attn.out_proj.", ".self_attn.o_proj."),
    ];
    Ok(Decoder { renames, ..decoder })
}
