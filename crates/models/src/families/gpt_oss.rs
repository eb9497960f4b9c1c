//! GPT-OSS: every layer a mixture of clamped units with biases, every head with a sink, every other layer with a window.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{Attention, Decoder, Experts, Gate, Gated, Head, JoinedExperts, Router};
use crate::{Config, Result};

#[derive(Deserialize)]
struct Own {
    num_local_experts: usize,
    num_experts_per_tok: usize,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.defaults(json!({
        "num_hidden_layers": 36, "num_local_experts": 128, "num_experts_per_tok": 4, "vocab_size": 201_088,
        "rms_norm_eps": 1e-5, "hidden_size": 2880, "intermediate_size": 2880, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128
    }));
    let (mut c, own): (_, Own) = (config.common()?, config.read()?);
    if c.layer_types.is_none() {
        let turns = ["sliding_attention", "full_attention"].into_iter().cycle();
        c.layer_types = Some(turns.take(c.num_hidden_layers).map(str::to_owned).collect());
    }
    let rope = c.rope(150_000.0)?;
    let unit = Gated { act: Gate::ClampedSwish { alpha: 1.702, limit: 7.0, shift: 1.0 }, bias: true, ..c.gated()? };
    let router = Router { bias: true, ..Router::softmax(true) };
    let experts = Experts {
        joined: JoinedExperts::TurnsOfColumns,
        ..Experts::new([own.num_local_experts, own.num_experts_per_tok], unit, router)
    };
    let decoder = c.decoder(false, |index| {
        let attention = Attention {
            qkv_bias: true,
            out_bias: true,
            sinks: true,
            rope: Some(rope.clone()),
            window: c.window(index)?,
            ..c.attention()?
        };
        Ok(c.layer(attention, experts.checked()?))
    })?;
    Ok(Decoder { head: Head::OwnIfPresent, renames: &[(".mlp.router.", ".mlp.gate.")], ..decoder })
}
