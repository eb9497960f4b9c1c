//! OLMo 3: as OLMo 2, but three layers of four see a window, and those turn unstretched.

use crate::spec::{Attention, Decoder, Layer, QkNorm, QkSpan, Residual};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let mut c = config.without(&["mlp_bias"]).common()?;
    if c.layer_types.is_none() {
        let kind = |index: usize| if (index + 1).is_multiple_of(4) { "full_attention" } else { "sliding_attention" };
        c.layer_types = Some((0..c.num_hidden_layers).map(|index| kind(index).to_owned()).collect());
    }
    let (full, sliding) = (c.rope(500_000.0)?, c.plain_rope(500_000.0)?);
    let qk_norm = Some(QkNorm { span: QkSpan::Projection, ..QkNorm::from(c.norm()) });
    c.decoder(false, |index| {
        let window = c.window(index)?;
        let rope = Some(if window.is_some() { sliding.clone() } else { full.clone() });
        let attention = Attention { qk_norm, rope, window, ..c.attention()? };
        Ok(Layer { residual: Residual::PostNorm, ..c.layer(attention, c.mlp()?) })
    })
}
