//! OLMo 2: norms after each half instead of before it, and one over all queries and all keys.

use crate::spec::{Attention, Decoder, Layer, QkNorm, QkSpan, Residual};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let c = config.common()?;
    let qk_norm = Some(QkNorm { span: QkSpan::Projection, ..QkNorm::from(c.norm()) });
    c.decoder(true, |_| {
        let attention = Attention { qk_norm, ..c.attention()? };
        Ok(Layer { residual: Residual::PostNorm, ..c.layer(attention, c.mlp()?) })
    })
}
