//! DeepSeek V2: attention over latents, and experts chosen by softmax, from the best groups where there are any.

use crate::spec::{Decoder, Head, Layer, Mixer, Router};
use crate::{Config, Result};

/// What its kin call so too.
pub(super) const RENAMES: &[(&str, &str)] = &[(".shared_experts.", ".shared_expert.")];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let config = config.or("rms_norm_eps", 1e-6);
    let ((c, latent), mixture) = (config.latent(10_000.0)?, config.mixture()?);
    let limited = mixture.topk_method.as_deref() == Some("group_limited_greedy");
    let groups = mixture.groups(1).filter(|_| limited);
    let router = Router { groups, scale: mixture.routed_scaling_factor.unwrap_or(1.0), ..Router::softmax(false) };
    let decoder = c.decoder(false, |index| {
        let mlp = mixture.mlp(index, c.gated()?, router)?;
        Ok(Layer { mixer: Some(Mixer::Latent(latent.clone())), ..c.layer(c.attention()?, mlp) })
    })?;
    Ok(Decoder { head: Head::Own, renames: RENAMES, ..decoder })
}
