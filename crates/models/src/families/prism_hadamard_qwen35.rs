//! Qwen3.5 with weights of 2 bits behind rotations of what they see, of which a manifest in the configuration lists the blocks.

use serde::Deserialize;
use serde_json::json;

use crate::decoder::{Decoder as Running, LanguageModel};
use crate::spec::Decoder;
use crate::weights::Weights;
use crate::{Config, Error, Result};

#[derive(Deserialize)]
struct Own {
    #[serde(default = "vision")]
    schema_version: usize,
    tensor_namespace: String,
    modules: Vec<Module>,
}

/// The schema of packs that see images too.
fn vision() -> usize {
    2
}

/// A module behind a rotation.
#[derive(Deserialize)]
struct Module {
    path: String,
    /// 0 where nothing is rotated.
    block: usize,
    embedding: bool,
    dtype: String,
}

const BLOCKS: [usize; 6] = [0, 512, 1024, 2048, 4096, 8192];

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let own: Own = config.read()?;
    let pack = (own.schema_version, own.tensor_namespace.as_str());
    if !matches!(pack, (1, "mlx-lm-text") | (2, "mlx-vlm-qwen3_5")) {
        let message = format!("config.json: a pack of schema_version {} and tensor_namespace `{}`", pack.0, pack.1);
        return Err(Error::unsupported(format!("{message} is not supported")));
    }
    config.only("gdn_activation_layout", &json!("grouped"))?;
    config.or("quantization", "none").only("quantization", &json!({"bits": 2, "group_size": 128, "mode": "affine"}))?;
    if own.modules.is_empty() {
        return Err(Error::invalid("config.json: modules lists none"));
    }
    let mut seen = std::collections::HashSet::new();
    for Module { path, block, embedding, dtype } in &own.modules {
        let table = path.ends_with("embed_tokens");
        if !BLOCKS.contains(block) || *embedding != table || dtype != "float16" || !seen.insert(path) {
            let message =
                format!("modules has a `{path}` that is there twice, or whose block, kind or type is not known");
            return Err(Error::unsupported(format!("config.json: {message}")));
        }
    }
    super::qwen3_5::decoder(config)
}

pub(super) fn load(
    config: &Config,
    spec: Decoder,
    weights: Weights,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    let own: Own = config.read()?;
    let modules = own.modules.iter().map(|module| (module.path.as_str(), module.block));
    let weights = weights.told_by_kernels().turned(modules, spec.renames)?;
    Ok(Box::new(Running::load(spec, weights, progress)?))
}
