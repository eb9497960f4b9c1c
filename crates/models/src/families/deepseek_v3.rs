//! DeepSeek V3, and what is that under another name: attention over latents, and experts chosen by corrected sigmoids.

use super::deepseek_v2::RENAMES;
use crate::spec::{Decoder, Head, Indexer, Layer, Mixer};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    indexed(config, |_| Ok(None))
}

/// The same for the text model inside one of several models.
pub(super) fn text(config: &Config) -> Result<Decoder> {
    decoder(&config.text())
}

/// The same with an indexer, which is given what turns in a head.
pub(super) fn indexed(
    config: &Config,
    indexer: impl Fn(&crate::config::Common) -> Result<Option<Indexer>>,
) -> Result<Decoder> {
    let config = config.or("rms_norm_eps", 1e-6);
    let ((c, mut latent), mixture) = (config.latent(10_000.0)?, config.mixture()?);
    latent.indexer = indexer(&c)?;
    let router = mixture.corrected()?;
    let decoder = c.decoder(false, |index| {
        let mlp = mixture.mlp(index, c.gated()?, router)?;
        Ok(Layer { mixer: Some(Mixer::Latent(latent.clone())), ..c.layer(c.attention()?, mlp) })
    })?;
    Ok(Decoder { head: Head::Own, renames: RENAMES, more_layers: true, ..decoder })
}
