//! PLaMo 2: state spaces, and attention in every few layers, each half between two norms.

use serde::Deserialize;
use serde_json::json;

use crate::spec::{
    Attention, Decoder, Gated, Layer, Mixer, Norm, Projection, QkNorm, QkSpan, Residual, SelectedStateSpace,
};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    mamba_d_state: usize,
    mamba_d_conv: usize,
    mamba_num_heads: usize,
    mamba_step: usize,
    mamba_enabled: bool,
}

impl Own {
    /// Whether layer `index` of so many has a state space.
    fn recurs(&self, index: usize, layers: usize) -> bool {
        let middle = self.mamba_step / 2;
        self.mamba_enabled && if layers <= middle { index + 1 != layers } else { index % self.mamba_step != middle }
    }
}

const RENAMES: &[(&str, &str)] = &[
    ("^model.layers.layers.", "^model.layers."),
    (".pre_mixer_norm.", ".input_layernorm."),
    (".post_mixer_norm.", ".post_attention_layernorm."),
    (".pre_mlp_norm.", ".pre_feedforward_layernorm."),
    (".post_mlp_norm.", ".post_feedforward_layernorm."),
    (".q_weight", ".q_norm.weight"),
    (".k_weight", ".k_norm.weight"),
    (".dt_norm_weight", ".dt_norm.weight"),
    (".B_norm_weight", ".b_norm.weight"),
    (".C_norm_weight", ".c_norm.weight"),
];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    // Attention sees everything, whatever `attention_window_size` says: the reference does so too.
    let unread = ["head_dim", "attention_bias", "mlp_bias", "rope_theta", "rope_scaling", "rope_parameters"];
    let config = config.without(&unread).without(&["hidden_act", "partial_rotary_factor", "sliding_window"]);
    let config = config.defaults(json!({
        "hidden_size": 4096, "num_hidden_layers": 32, "rms_norm_eps": 1e-6, "num_attention_heads": 32,
        "num_key_value_heads": 4, "hidden_size_per_head": 128, "max_position_embeddings": 2048, "mamba_d_state": 64,
        "mamba_d_conv": 4, "mamba_num_heads": 64, "mamba_step": 2, "mamba_enabled": true, "intermediate_size": 13312,
        "vocab_size": 32000,
    }));
    let config = config.or_key("head_dim", "hidden_size_per_head");
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    if own.mamba_enabled && own.mamba_step < 2 {
        return Err(Error::invalid(format!("config.json: mamba_step is {}, and 2 is the least", own.mamba_step)));
    }
    let mamba = SelectedStateSpace {
        heads: own.mamba_num_heads,
        head_dim: c.head_dim(),
        state_dim: own.mamba_d_state,
        rank: (c.hidden_size / 16).max(64),
        kernel: own.mamba_d_conv,
        norm: c.norm(),
        time_step: [0.001, 100.0],
    }
    .checked()?;
    let qk_norm = QkNorm { norm: Norm { eps: 1e-6, ..c.norm() }, span: QkSpan::EachHead, turned: false };
    let attention = Attention { projection: Projection::Joined, qk_norm: Some(qk_norm), ..c.attention()? };
    // Norms after a half are small at first: their weights are stored as the distance from less than 1.
    let [norm, after, last] = [1.0, 0.2, 0.2 / 5f32.sqrt()].map(|offset| Norm { offset, ..c.norm() });
    let decoder = c.decoder(true, |index| {
        let recurs = own.recurs(index, c.num_hidden_layers);
        let mixer = if recurs { Mixer::SelectedStateSpace(mamba) } else { Mixer::Attention(attention.clone()) };
        let unit = Gated { projection: Projection::Joined, ..c.gated()? };
        let layer = c.layer(attention.clone(), unit.into());
        Ok(Layer { mixer: Some(mixer), residual: Residual::Sandwich, norm, after: Some([after, last]), ..layer })
    })?;
    Ok(Decoder { norm, renames: RENAMES, ..decoder })
}
