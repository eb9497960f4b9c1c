//! EXAONE 4: norms after each half, and where some layers see a window, the others know no positions.

use serde::Deserialize;

use crate::spec::{Attention, Decoder, Layer, Residual};
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    /// A letter a layer, again and again: `L` sees a window, `G` everything.
    sliding_window_pattern: Option<String>,
}

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.without(&["attention_bias", "mlp_bias"]);
    let (c, own): (_, Own) = (config.common()?, config.read()?);
    let pattern = own.sliding_window_pattern.filter(|letters| !letters.is_empty()).map(String::into_bytes);
    let (rope, qk_norm) = (c.rope(1_000_000.0)?, Some(c.norm().into()));
    c.decoder(false, |index| {
        let slides = pattern.as_ref().map(|letters| letters[index % letters.len()] == b'L');
        let window = match (slides, c.sliding_window) {
            (Some(true), None | Some(0)) => return Err(Error::invalid("config.json: there is no `sliding_window`")),
            (Some(true), window) => window,
            _ => None,
        };
        let rope = Some(rope.clone()).filter(|_| slides.unwrap_or(true));
        let attention = Attention { rope, qk_norm, window, ..c.attention()? };
        Ok(Layer { residual: Residual::PostNorm, ..c.layer(attention, c.mlp()?) })
    })
}
