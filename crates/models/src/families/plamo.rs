//! PLaMo, the first: attention and a unit side by side, and queries of one key head that lie apart.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Head, Layer, Projection, Residual};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    n_shared_head: Option<usize>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let unread =
        ["head_dim", "num_key_value_heads", "attention_bias", "mlp_bias", "hidden_act", "partial_rotary_factor"];
    let config = config.without(&unread).without(&["rope_scaling", "rope_parameters"]);
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let (heads, shared) = (c.num_attention_heads, own.n_shared_head.unwrap_or(8));
    if shared == 0 || !heads.is_multiple_of(shared) {
        return Err(Error::invalid(format!("config.json: {heads} heads cannot be shared {shared} to one")));
    }
    let c = c.with_heads([heads, heads / shared])?;
    let decoder = c.decoder(false, |_| {
        let attention = Attention { projection: Projection::Apart, ..c.attention()? };
        Ok(Layer { residual: Residual::Parallel, ..c.layer(attention, c.mlp()?) })
    })?;
    let renames = &[("^model.layers.layers.", "^model.layers.")];
    Ok(Decoder { head: Head::Own, renames, ..decoder })
}
