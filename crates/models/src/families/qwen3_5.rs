//! Qwen3.5, text: Qwen3-Next with the projections of its delta rule stored apart, and experts in some sizes alone.

use serde_json::{Value, json};

use crate::spec::{Decoder, DeltaProjection};
use crate::{Config, Result};

pub(super) fn decoder(config: &Config) -> Result<Decoder> {
    let text = config.text().without(&["decoder_sparse_step", "mlp_only_layers"]);
    let text = text.defaults(json!({
        "rms_norm_eps": 1e-6, "norm_topk_prob": true, "linear_num_value_heads": 64, "linear_num_key_heads": 16,
        "linear_key_head_dim": 192, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    }));
    // What turns is said in `rope_parameters` alone, or by default.
    let parameter = |key: &str| text.get("rope_parameters").and_then(|p| p.get(key)).and_then(Value::as_f64);
    let (part, base) = (parameter("partial_rotary_factor"), parameter("rope_theta"));
    let text = text.without(&["rope_scaling", "rope_theta", "partial_rotary_factor"]);
    let text = text.or("partial_rotary_factor", part.unwrap_or(0.25)).or("rope_theta", base.unwrap_or(100_000.0));
    super::qwen3_next::stack(&text.or("intermediate_size", 1), DeltaProjection::Separate)
}
