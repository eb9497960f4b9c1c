//! Configurations of latents, state spaces and delta rules: what is refused by name, and numbers that follow from them.

use mlxengine_models::spec::{Latent, Mixer};
use mlxengine_models::{Config, families};
use serde_json::{Value, json};

fn base(model_type: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "max_position_embeddings": 128,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn with(mut config: Value, more: Value) -> Value {
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn latent(model_type: &str) -> Value {
    let keys = json!({
        "kv_lora_rank": 32, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 24,
        "moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.5, "norm_topk_prob": true, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
        "moe_layer_freq": 1, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 8,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "mscale_all_dim": 0.7},
    });
    base(model_type, keys)
}

fn kimi() -> Value {
    let linear = json!({
        "linear_attn_config": {"kda_layers": [1, 2], "num_heads": 4, "head_dim": 16, "short_conv_kernel_size": 4,
        "gate_lower_bound": -5.0, "use_full_rank_gate": false}, "num_experts": 8, "num_experts_per_token": 2,
        "hidden_act": "silu", "head_dim": 16, "attn_res_block_size": 2, "activation_situ_beta": 1.5,
        "activation_situ_linear_beta": 2.0, "routed_expert_hidden_size": 16,
    });
    with(latent("kimi_linear"), linear)
}

fn read(config: &Value) -> Result<mlxengine_models::spec::Decoder, mlxengine_models::Error> {
    families::decoder(&Config::parse(config.to_string().as_bytes())?)
}

#[test]
fn what_changes_a_meaning_and_is_not_supported_is_refused_by_name() {
    let refused = |config: Value, says: &[&str]| {
        let message = read(&config).expect_err("refused").to_string();
        says.iter().for_each(|part| assert!(message.contains(part), "{message:?} does not say {part:?}"));
    };
    refused(with(latent("deepseek_v3"), json!({"topk_method": "greedy"})), &["`greedy`", "`noaux_tc`"]);
    refused(with(latent("deepseek_v3"), json!({"scoring_func": "softmax"})), &["`softmax`"]);
    refused(with(latent("deepseek_v3"), json!({"kv_lora_rank": 0})), &["kv_lora_rank is 0"]);
    refused(with(latent("deepseek_v32"), json!({"index_head_dim": 4})), &["index_head_dim 4"]);
    refused(with(kimi(), json!({"moe_router_activation_func": "tanh"})), &["`tanh`"]);
    refused(with(kimi(), json!({"model_type": "kimi_k3"})), &["hidden_act", "situ"]);
}

#[test]
fn bare_infinities_are_read() {
    let text = base(
        "mamba2",
        json!({
            "state_size": 12, "conv_kernel": 3, "use_bias": false, "use_conv_bias": true, "num_heads": 6, "head_dim": 16,
            "layer_norm_epsilon": 1e-5, "n_groups": 2, "time_step_limit": [0.0, "LIMIT"], "note": "Infinity",
        }),
    );
    let text = text.to_string().replace("\"LIMIT\"", "Infinity");
    let config = Config::parse(text.as_bytes()).unwrap();
    assert_eq!(config.get("note").unwrap(), "Infinity");
    let spec = families::decoder(&config).unwrap();
    let Some(Mixer::ScalarStateSpace(mixer)) = &spec.layers[0].mixer else { panic!("a state space") };
    assert_eq!(mixer.time_step, [0.0, f32::INFINITY]);
    assert!(Config::parse(b"{\"model_type\": Infinite}").is_err());
}

#[test]
fn scales_of_stretched_positions_are_those_of_the_reference() {
    let spec = read(&latent("deepseek_v3")).unwrap();
    let Some(Mixer::Latent(Latent { scale, .. })) = &spec.layers[0].mixer else { panic!("a latent attention") };
    let stretch = 0.1 * 0.7 * 4f32.ln() + 1.0;
    assert!((scale - 24f32.powf(-0.5) * stretch * stretch).abs() < 1e-6, "{scale}");
}
