//! The keys of attention over latents, and of the mixtures of experts that came with it.

use serde::Deserialize;
use serde_json::Value;

use super::{Common, Config};
use crate::spec::{Experts, Gated, Groups, Latent, Mlp, Norm, Router, Shared, Unit};
use crate::{Error, Result};

#[derive(Deserialize)]
struct LatentKeys {
    kv_lora_rank: usize,
    q_lora_rank: Option<usize>,
    qk_rope_head_dim: usize,
    qk_nope_head_dim: usize,
    v_head_dim: usize,
}

impl Config {
    /// What nearly every family shares, where heads attend over latents, and that attention; a head of the shared part is what
    /// of it turns.
    ///
    /// # Errors
    /// Those of [`Config::common`], and sizes that no model can have.
    pub fn latent(&self, default_base: f32) -> Result<(Common, Latent)> {
        let keys: LatentKeys = self.read()?;
        let sizes = [
            ("kv_lora_rank", Some(keys.kv_lora_rank)),
            ("q_lora_rank", keys.q_lora_rank),
            ("qk_nope_head_dim", Some(keys.qk_nope_head_dim)),
            ("v_head_dim", Some(keys.v_head_dim)),
        ];
        for (key, size) in sizes {
            within(key, size.unwrap_or(1))?;
        }
        let turned = Config::without(self, &["head_dim", "partial_rotary_factor"]);
        let common = turned.or("head_dim", keys.qk_rope_head_dim).common()?;
        let size = (keys.qk_nope_head_dim + keys.qk_rope_head_dim) as f32;
        let latent = Latent {
            heads: common.num_attention_heads,
            query_rank: keys.q_lora_rank,
            rank: keys.kv_lora_rank,
            nope_dim: keys.qk_nope_head_dim,
            rope_dim: keys.qk_rope_head_dim,
            value_dim: keys.v_head_dim,
            norm: Norm { eps: 1e-6, ..common.norm() },
            bias: common.attention_bias,
            rope: Some(common.rope(default_base)?.neighbours()),
            scale: size.powf(-0.5) * stretch(common.rope_scaling.as_ref()).powi(2),
            temperature: None,
            gate: None,
            indexer: None,
        };
        Ok((common, latent))
    }

    /// The mixture of experts of a DeepSeek configuration.
    ///
    /// # Errors
    /// Those of [`Config::read`].
    pub fn mixture(&self) -> Result<Routed> {
        self.read()
    }
}

/// Refuses a size that no model has.
///
/// # Errors
/// For 0 and for what is beyond all bounds.
pub fn within(key: &str, size: usize) -> Result<usize> {
    if size == 0 || size > 1 << 20 {
        return Err(Error::invalid(format!("config.json: {key} is {size}, which no model has")));
    }
    Ok(size)
}

/// What stretched positions make of the scores' scale, under the square.
fn stretch(scaling: Option<&Value>) -> f32 {
    let number = |key: &str| scaling.and_then(|s| s.get(key)).and_then(Value::as_f64).unwrap_or(0.0);
    let (all, factor) = (number("mscale_all_dim"), number("factor"));
    if factor > 1.0 { (0.1 * all * factor.ln() + 1.0) as f32 } else { 1.0 }
}

/// A mixture of experts, some of the first layers excepted.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are those of config.json")]
pub struct Routed {
    pub moe_intermediate_size: Option<usize>,
    pub moe_shared_expert_intermediate_size: Option<usize>,
    pub moe_latent_size: Option<usize>,
    pub n_routed_experts: Option<usize>,
    pub n_shared_experts: Option<usize>,
    pub num_experts_per_tok: Option<usize>,
    pub routed_scaling_factor: Option<f32>,
    pub norm_topk_prob: Option<bool>,
    pub n_group: Option<usize>,
    pub topk_group: Option<usize>,
    pub topk_method: Option<String>,
    pub scoring_func: Option<String>,
    #[serde(default)]
    pub first_k_dense_replace: usize,
    pub moe_layer_freq: Option<usize>,
}

impl Routed {
    /// Groups of experts, each as good as its `best`, if the configuration has more than one.
    pub fn groups(&self, best: usize) -> Option<Groups> {
        let count = self.n_group.unwrap_or(1);
        (count > 1).then(|| Groups { count, active: self.topk_group.unwrap_or(1), best })
    }

    /// Sigmoids with a correction of the choice, normalized unless the configuration says otherwise.
    ///
    /// # Errors
    /// If the configuration asks for another choice.
    pub fn corrected(&self) -> Result<Router> {
        let method = self.topk_method.as_deref().unwrap_or("noaux_tc");
        let scores = self.scoring_func.as_deref().unwrap_or("sigmoid");
        if method != "noaux_tc" || scores != "sigmoid" {
            return Err(Error::unsupported(format!(
                "config.json: experts are chosen by `{method}` of `{scores}`; only `noaux_tc` of `sigmoid` is supported"
            )));
        }
        let router = Router::sigmoid(self.norm_topk_prob.unwrap_or(true), self.routed_scaling_factor.unwrap_or(1.0));
        Ok(Router { groups: self.groups(2), ..router })
    }

    /// What layer `index` has: a mixture of units like `dense`, or that alone.
    ///
    /// # Errors
    /// If such a mixture cannot be.
    pub fn mlp(&self, index: usize, dense: Gated, router: Router) -> Result<Mlp> {
        let count = self.n_routed_experts.unwrap_or(0);
        let frequency = self.moe_layer_freq.unwrap_or(1).max(1);
        if count == 0 || index < self.first_k_dense_replace || !index.is_multiple_of(frequency) {
            return Ok(dense.into());
        }
        let size = self.moe_intermediate_size.unwrap_or(0);
        let unit = |times: usize| Gated { hidden: size.saturating_mul(times), ..dense };
        let shared = self.n_shared_experts.filter(|times| *times > 0);
        let shared = shared.map(|times| Shared { unit: Unit::Gated(unit(times)), gated: false });
        let counts = [count, self.num_experts_per_tok.unwrap_or(1)];
        Experts { shared, ..Experts::new(counts, unit(1), router) }.checked()
    }
}
