"""Rows of the table of `make_case.py` for latents, state spaces, delta rules and short convolutions."""

import mlx.core as mx

from cases import BASE, ROUTED, SMALL, as_stored, bare, case, nested, unstacked


def chain(*steps):
    """Several ways of storing, one after another."""

    def original(config, weights):
        for step in steps:
            weights = step(config, weights)
        return weights

    return original


def convolutions(_, weights):
    """Kernels with their channels' axis in the middle, as PyTorch has them."""
    turned = lambda k, v: v.ndim == 3 and v.shape[-1] == 1 and "conv" in k
    return {k: mx.contiguous(v.swapaxes(1, 2)) if turned(k, v) else v for k, v in weights.items()}


def distances(_, weights):
    """Norms as their distance from 1, but for that of a delta rule."""
    norms = ("layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")
    return {k: v.astype(mx.float32) - 1 if k.endswith(norms) else v for k, v in weights.items()}


def joined_latents(_, weights):
    """`kv_b_proj` instead of its two parts."""
    stored = {}
    for key, value in weights.items():
        if "embed_q" in key:
            out = weights[key.replace("embed_q", "unembed_out")]
            both = mx.concatenate([value.swapaxes(1, 2), out], axis=1)
            stored[key.replace("embed_q", "kv_b_proj")] = mx.contiguous(both.reshape(-1, both.shape[-1]))
        elif "unembed_out" not in key:
            stored[key] = value
    return stored


def granite_joined(_, weights):
    stored = {}
    for key, value in weights.items():
        moe = "switch_mlp" in key
        if ".gate_proj" in key:
            both = mx.concatenate([value, weights[key.replace("gate_proj", "up_proj")]], axis=-2)
            name = ("switch_mlp.gate_proj", "input_linear") if moe else ("mlp.gate_proj", "shared_mlp.input_linear")
            stored[key.replace(*name)] = both
        elif ".down_proj" in key:
            name = ("switch_mlp.down_proj", "output_linear") if moe else ("mlp.down_proj", "shared_mlp.output_linear")
            stored[key.replace(*name)] = value
        elif ".up_proj" not in key:
            stored[key] = value
    return stored


def renamed(*pairs):
    def original(_, weights):
        stored = {}
        for key, value in weights.items():
            for new, old in pairs:
                key = key.replace(new, old)
            stored[key] = value
        return stored

    return original


def multiplied(config, weights):
    """Weights without the factors that a conversion multiplies in, all powers of two, and kernels as PyTorch has them."""
    inner, shared = config["mamba_d_ssm"], config["mamba_n_groups"] * config["mamba_d_state"]
    sizes = [inner, inner, shared, shared, config["mamba_n_heads"]]
    parts = mx.concatenate([mx.full((n, 1), m) for n, m in zip(sizes, config["ssm_multipliers"])])
    factors = {"embed_tokens": config["embedding_multiplier"], "lm_head": config["lm_head_multiplier"],
               "q_proj": config["attention_in_multiplier"], "k_proj": config["attention_in_multiplier"],
               "o_proj": config["attention_out_multiplier"], "out_proj": config["ssm_out_multiplier"],
               "gate_proj": config["mlp_multipliers"][0], "down_proj": config["mlp_multipliers"][1],
               "in_proj": config["ssm_in_multiplier"] * parts}
    stored = {}
    for key, value in convolutions(config, weights).items():
        factor = factors.get(key.split(".")[-2]) if key.endswith(".weight") else None
        stored[key] = value if factor is None else (value.astype(mx.float32) / factor).astype(value.dtype)
    return stored


def flat_heads(_, weights):
    """What mlx-lm has by head in one row, as the original files of RWKV-7 do."""
    flat = lambda k: k.endswith(("k_k", "k_a")) or "g_norm" in k
    return {k: v.reshape(-1) if flat(k) else v for k, v in weights.items()}


def packed(*blocks):
    """A manifest of modules whose inputs are rotated in blocks: the size, and those of the size."""
    return [{"path": f"model.{name}", "block": size, "embedding": name == "embed_tokens", "dtype": "float16"}
            for size, *names in blocks for name in names]


HALVES = {"embedding_multiplier": 4.0, "lm_head_multiplier": 0.125, "attention_in_multiplier": 2.0,
          "attention_out_multiplier": 0.5, "ssm_in_multiplier": 2.0, "ssm_out_multiplier": 0.25,
          "mlp_multipliers": [0.5, 0.25], "ssm_multipliers": [0.5, 0.25, 2.0, 4.0, 0.125]}
LATENT = {"kv_lora_rank": 32, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 24,
          "num_key_value_heads": 4}
MAMBA2 = {"mamba_n_heads": 6, "mamba_d_head": 16, "mamba_proj_bias": True, "mamba_d_state": 24, "mamba_d_conv": 4,
          "mamba_n_groups": 2, "mamba_conv_bias": True}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 24,
         "linear_conv_kernel_dim": 4, "full_attention_interval": 2, "head_dim": 16}
GRANITE = {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "logits_scaling": 4.0, "residual_multiplier": 0.4,
           "layer_types": ["mamba", "attention", "mamba"], "attention_bias": False}
LING = {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 1,
        "first_k_dense_replace": 1, "layer_group_size": 3, "group_norm_size": 4, "partial_rotary_factor": 0.5,
        "num_hidden_layers": 5}
LONGCAT = {"attention_method": "MLA", "zero_expert_type": "identity", "ffn_hidden_size": 96, "moe_topk": 3,
           "expert_ffn_hidden_size": 32, "n_routed_experts": 4, "zero_expert_num": 2, "num_layers": 2,
           "routed_scaling_factor": 1.5, "mla_scale_q_lora": True, "mla_scale_kv_lora": True, "attention_bias": False}
MIXED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}

CASES = {
    "baichuan_m1": case("baichuan_m1", as_stored, sanitized=True, num_hidden_layers=4, num_attention_heads=4,
                        sliding_window=16, sliding_window_layers=[1, 2], num_swa_attention_heads=8,
                        num_swa_key_value_heads=4, conv_window=2, rope_theta=500.0),
    "lfm2": bare("lfm2", convolutions, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=512, norm_eps=1e-4, conv_bias=False, conv_L_cache=4, block_dim=64, block_ff_dim=100,
                 block_multiple_of=16, block_ffn_dim_multiplier=1.3, block_auto_adjust_ff_dim=True, full_attn_idxs=[1]),
    "lfm2-vl": {"config": {"model_type": "lfm2-vl", "text_config": {"model_type": "lfm2", "vocab_size": 512, "hidden_size": 64,
                "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "norm_eps": 1e-4,
                "max_position_embeddings": 512, "conv_bias": True, "conv_L_cache": 3, "block_dim": 64, "block_ff_dim": 96,
                "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False,
                "layer_types": ["conv", "full_attention", "conv"]}}, "original": None},
    "lfm2_moe": bare("lfm2_moe", chain(convolutions, unstacked(".feed_forward.switch_mlp.", ".feed_forward.experts.",
                     {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"})),
                     hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                     intermediate_size=96, moe_intermediate_size=32, num_experts=6, num_experts_per_tok=3,
                     norm_topk_prob=True, use_expert_bias=True, num_dense_layers=1, max_position_embeddings=512,
                     norm_eps=1e-4, conv_bias=True, conv_L_cache=3, routed_scaling_factor=1.5,
                     layer_types=["conv", "full_attention", "conv"]),
    "mamba": bare("mamba", convolutions, hidden_size=48, intermediate_size=80, state_size=12, num_hidden_layers=2,
                  conv_kernel=3, use_bias=False, use_conv_bias=True, time_step_rank="auto", tie_word_embeddings=False),
    "falcon_mamba": bare("falcon_mamba", convolutions, hidden_size=48, intermediate_size=80, state_size=12,
                         num_hidden_layers=2, conv_kernel=4, use_bias=True, use_conv_bias=False, time_step_rank=5,
                         mixer_rms_eps=1e-3),
    "mamba2": bare("mamba2", convolutions, num_heads=6, head_dim=16, hidden_size=48, intermediate_size=96, state_size=20,
                   num_hidden_layers=2, layer_norm_epsilon=1e-3, conv_kernel=4, n_groups=3, use_bias=True,
                   use_conv_bias=False, tie_word_embeddings=True, time_step_limit=[0.02, 2.0], time_step_rank="auto"),
    "jamba": case("jamba", chain(convolutions, unstacked(".feed_forward.switch_mlp.", ".feed_forward.experts.")),
                  num_hidden_layers=4, attn_layer_offset=1, attn_layer_period=2, expert_layer_offset=1,
                  expert_layer_period=2, mamba_d_conv=4, mamba_d_state=12, mamba_expand=2, num_experts=4,
                  num_experts_per_tok=2),
    "granitemoehybrid": case("granitemoehybrid", chain(convolutions, granite_joined), **GRANITE, **MAMBA2,
                             num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=48, num_hidden_layers=3),
    "granitemoehybrid-dense": case("granitemoehybrid", chain(convolutions, granite_joined), **GRANITE, **MAMBA2,
                                   num_hidden_layers=3, position_embedding_type="nope", tie_word_embeddings=False),
    "nemotron_h": case("nemotron_h", chain(convolutions, renamed((".fc1.", ".up_proj."), (".fc2.", ".down_proj.")),
                       unstacked(".mixer.switch_mlp.", ".mixer.experts.")),
                       hybrid_override_pattern="ME*-M", attention_bias=True, mamba_num_heads=6, mamba_head_dim=16,
                       mamba_proj_bias=True, ssm_state_size=20, conv_kernel=4, n_groups=2, mlp_bias=True,
                       layer_norm_epsilon=1e-4, use_bias=True, use_conv_bias=True, head_dim=24,
                       moe_intermediate_size=32, moe_shared_expert_intermediate_size=40, n_group=2, n_routed_experts=8,
                       n_shared_experts=1, topk_group=1, num_experts_per_tok=2, norm_topk_prob=True,
                       routed_scaling_factor=1.5),
    "falcon_h1": case("falcon_h1", head_dim=16, mamba_d_ssm=96, mamba_n_heads=6, mamba_d_head=16, mamba_d_state=24,
                      mamba_n_groups=2, mamba_proj_bias=True, projectors_bias=True, mlp_bias=True, attention_bias=True,
                      mamba_rms_norm=False, tie_word_embeddings=True),
    "falcon_h1-norm": case("falcon_h1", multiplied, **HALVES, head_dim=16, mamba_d_ssm=96, mamba_n_heads=6, mamba_d_head=16, mamba_d_state=24,
                           mamba_n_groups=2, mamba_rms_norm=True, mamba_norm_before_gate=True, tie_word_embeddings=False),
    "qwen3_next": case("qwen3_next", chain(convolutions, distances, unstacked()), **DELTA, **MIXED, decoder_sparse_step=1,
                       mlp_only_layers=[], partial_rotary_factor=0.5, num_hidden_layers=4, attention_bias=True),
    "qwen3_5": {"config": {"model_type": "qwen3_5", "text_config": {**BASE, **DELTA, "model_type": "qwen3_5_text",
                "vocab_size": 512, "num_hidden_layers": 4, "tie_word_embeddings": False, "rope_parameters":
                {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5,
                 "mrope_section": [2, 1, 1]}}}, "original": chain(convolutions, distances, nested)},
    "qwen3_5_moe": {"config": {"model_type": "qwen3_5_moe", "text_config": {**BASE, **DELTA, **MIXED,
                    "model_type": "qwen3_5_moe_text", "vocab_size": 512, "num_hidden_layers": 4,
                    "tie_word_embeddings": False}}, "original": None},
    "prism_hadamard_qwen35": {"config": {"model_type": "prism_hadamard_qwen35", "schema_version": 1,
                              "tensor_namespace": "mlx-lm-text", "gdn_activation_layout": "grouped",
                              "quantization": {"bits": 2, "group_size": 128, "mode": "affine"}, "modules": packed(
                              (512, "embed_tokens", "layers.0.linear_attn.in_proj_qkv", "layers.0.mlp.gate_proj",
                               "layers.1.self_attn.q_proj", "layers.1.self_attn.k_proj", "layers.1.mlp.up_proj"),
                              (1024, "layers.0.mlp.down_proj"), (0, "layers.1.mlp.gate_proj")), "text_config": {**BASE,
                              **DELTA, "hidden_size": 512, "intermediate_size": 1024, "model_type": "qwen3_5_text",
                              "vocab_size": 64, "num_hidden_layers": 2, "tie_word_embeddings": True}}, "original": nested},
    "prism_hadamard_qwen35-vision": {"config": {"model_type": "prism_hadamard_qwen35", "schema_version": 2,
                                     "tensor_namespace": "mlx-vlm-qwen3_5", "quantization": {"bits": 2, "group_size": 128,
                                     "mode": "affine"}, "modules": packed((0, "embed_tokens"), (512,
                                     "layers.0.linear_attn.in_proj_z", "layers.1.self_attn.v_proj"), (2048,
                                     "layers.1.mlp.down_proj")), "text_config": {**BASE, **DELTA, "hidden_size": 512,
                                     "intermediate_size": 2048, "model_type": "qwen3_5_text", "vocab_size": 64,
                                     "num_hidden_layers": 2, "tie_word_embeddings": False}},
                                     "original": chain(convolutions, distances, nested)},
    "deepseek_v2": case("deepseek_v2", unstacked(), **{**LATENT, "q_lora_rank": None}, **{**ROUTED, "topk_group": 2},
                        topk_method="greedy", attention_bias=False, rope_scaling={"type": "yarn", "factor": 4.0,
                        "mscale": 0.7, "mscale_all_dim": 0.7, "original_max_position_embeddings": 32}),
    "deepseek_v3": case("deepseek_v3", chain(joined_latents, unstacked()), **LATENT, **ROUTED, attention_bias=True),
    "kimi_vl": {"config": {"model_type": "kimi_vl", "text_config": {**BASE, **LATENT, **ROUTED, "model_type": "deepseek_v3",
                "vocab_size": 512}}, "original": None},
    "deepseek_v32": case("deepseek_v32", chain(joined_latents, unstacked()), **LATENT, **ROUTED, index_head_dim=12,
                         index_n_heads=3, index_topk=20),
    "glm_moe_dsa": case("glm_moe_dsa", chain(joined_latents, unstacked()), **LATENT, **ROUTED, index_head_dim=12,
                        index_n_heads=3, index_topk=20, topk_method="noaux_tc", scoring_func="sigmoid", moe_layer_freq=1,
                        attention_bias=False, rope_parameters={"rope_theta": 20000.0, "rope_type": "default"}),
    "glm4_moe_lite": case("glm4_moe_lite", chain(joined_latents, unstacked()), **LATENT, **ROUTED),
    "minicpm3": case("minicpm3", **{k: v for k, v in LATENT.items() if k != "v_head_dim"}, dim_model_base=16,
                     scale_depth=1.4, scale_emb=2.0, tie_word_embeddings=True, rope_scaling={"type": "longrope",
                     "original_max_position_embeddings": 64, "long_factor": [1.0, 1.5, 2.0, 3.0],
                     "short_factor": [1.0, 1.0, 1.0, 1.0]}),
    "kimi_linear": case("kimi_linear", chain(convolutions, joined_latents, unstacked(".mlp.switch_mlp.", ".mlp.experts.",
                        {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}), renamed(("_conv.conv.", "_conv1d."),
                        (".mlp.experts.", ".block_sparse_moe.experts."), (".mlp.shared_experts.",
                        ".block_sparse_moe.shared_experts."), (".mlp.gate.", ".block_sparse_moe.gate."),
                        (".mlp.e_score_correction_bias", ".block_sparse_moe.gate.e_score_correction_bias"))), **{k: v for k, v in LATENT.items() if k != "q_lora_rank"},
                        num_hidden_layers=4, head_dim=16, linear_attn_config={"kda_layers": [1, 2, 4], "num_heads": 4,
                        "head_dim": 24, "short_conv_kernel_size": 4}, model_max_length=512, num_experts=8,
                        moe_intermediate_size=32, num_experts_per_token=3, num_shared_experts=1, num_expert_group=4,
                        topk_group=2, first_k_dense_replace=1, routed_scaling_factor=1.5),
    "kimi_k3": {"config": {"model_type": "kimi_k3", "text_config": {**{k: v for k, v in BASE.items() if k != "rope_theta"}, **LATENT,
                "model_type": "kimi_linear", "vocab_size": 512, "num_hidden_layers": 5, "qk_rope_head_dim": 8,
                "hidden_act": "situ", "activation_situ_beta": 1.5, "mla_use_output_gate": True, "attn_res_block_size": 2,
                "linear_attn_config": {"kda_layers": [1, 2, 4], "num_heads": 4, "head_dim": 24, "use_full_rank_gate": True,
                "short_conv_kernel_size": 4}, "num_experts": 8, "moe_intermediate_size": 32, "num_experts_per_token": 3,
                "num_shared_experts": 2, "num_expert_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
                "routed_expert_hidden_size": 40, "routed_scaling_factor": 1.5}}, "original": None},
    "nemotron_h-latent": case("nemotron_h", chain(convolutions, renamed((".fc1.", ".up_proj."), (".fc2.", ".down_proj.")),
                              unstacked(".mixer.switch_mlp.", ".mixer.experts.")),
                              layers_block_type=["mamba", "moe", "attention", "mlp"], attention_bias=False, mamba_num_heads=6,
                              mamba_head_dim=16, mamba_proj_bias=False, ssm_state_size=20, conv_kernel=4, n_groups=3,
                              mlp_bias=False, layer_norm_epsilon=1e-4, use_bias=False, use_conv_bias=False,
                              moe_intermediate_size=32, moe_shared_expert_intermediate_size=40, n_group=1,
                              n_routed_experts=8, n_shared_experts=1, topk_group=1, num_experts_per_tok=2,
                              norm_topk_prob=False, routed_scaling_factor=1.5, moe_latent_size=40,
                              time_step_limit=[0.01, 1.0]),
    "minimax_m3": {"config": {"model_type": "minimax_m3_vl", "text_config": {**BASE, "model_type": "minimax_m3",
                   "vocab_size": 512, "head_dim": 16, "dense_intermediate_size": 80, "shared_intermediate_size": 48,
                   "num_local_experts": 4, "num_experts_per_tok": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
                   "num_hidden_layers": 3, "use_gemma_norm": False, "swiglu_limit": 1.0,
                   "mlp_layer_types": ["dense", "sparse", "sparse"], "layer_types": ["full_attention", "x", "x"],
                   "index_n_heads": 2, "index_head_dim": 12, "index_block_size": 6, "index_topk_blocks": 4,
                   "index_local_blocks": 2}}, "original": None},
    "youtu_llm": case("youtu_llm", **LATENT, attention_bias=True, mlp_bias=True, rope_traditional=False),
    "mistral4": case("mistral4", chain(joined_latents, unstacked()), **LATENT, **ROUTED, rope_parameters={"rope_theta": 20000.0,
                     "rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7,
                     "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.2}),
    "olmo_hybrid": case("olmo_hybrid", convolutions, **{k: v for k, v in DELTA.items() if k != "full_attention_interval"},
                        linear_allow_neg_eigval=True, tie_word_embeddings=False, attention_bias=True, num_hidden_layers=4),
    "bailing_moe_linear": case("bailing_moe_linear", unstacked(), **LING, num_attention_heads=6, num_key_value_heads=2,
                               hidden_size=96, norm_topk_prob=True, head_dim=24, use_qk_norm=True, use_qkv_bias=True,
                               score_function="sigmoid", n_group=4, topk_group=2, moe_router_enable_expert_bias=True,
                               routed_scaling_factor=2.0),
    "bailing_moe_linear-plain": case("bailing_moe_linear", **LING, norm_topk_prob=False, use_bias=True,
                                     rope_traditional=True, tie_word_embeddings=True),
    "bailing_hybrid": case("bailing_hybrid", chain(joined_latents, unstacked()), **LING, **LATENT, head_dim=24,
                           n_group=4, topk_group=2, routed_scaling_factor=2.0),
    "longcat_flash": case("longcat_flash", chain(joined_latents, unstacked()), **LATENT, **LONGCAT),
    "longcat_flash-plain": case("longcat_flash", **LATENT, **{**LONGCAT, "router_bias": True, "norm_topk_prob": True,
                                "attention_bias": True, "zero_expert_num": 0}),
    "longcat_flash_ngram": case("longcat_flash_ngram", chain(joined_latents, unstacked()), **LATENT, **LONGCAT,
                                ngram_vocab_size_ratio=3, emb_neighbor_num=3, emb_split_num=2),
    "bailing_moe_v3": case("bailing_hybrid", chain(joined_latents, unstacked(), convolutions), **{**LING,
                           "partial_rotary_factor": 1.0}, **LATENT, architectures=["BailingMoeV3ForCausalLM"], head_dim=24,
                           moe_shared_expert_intermediate_size=40, n_group=4, topk_group=2, kda_lower_bound=-2.0),
    "recurrent_gemma": bare("recurrent_gemma", convolutions, hidden_size=64, intermediate_size=192, num_attention_heads=2,
                            num_key_value_heads=1, num_hidden_layers=4, attention_bias=False, conv1d_width=4,
                            logits_soft_cap=30.0, rms_norm_eps=1e-3, rope_theta=10000.0, attention_window_size=20,
                            lru_width=64, block_types=["recurrent", "recurrent", "attention"]),
    "recurrent_gemma-own": bare("recurrent_gemma", hidden_size=64, intermediate_size=128, num_attention_heads=4,
                                num_key_value_heads=1, num_hidden_layers=3, attention_bias=False, conv1d_width=4,
                                logits_soft_cap=0.0, rms_norm_eps=1e-5, rope_theta=10000.0, attention_window_size=24,
                                embeddings_scale_by_sqrt_dim=False, _block_types=["recurrent", "attention"]),
    "plamo2": bare("plamo2", convolutions, **{**{k: v for k, v in BASE.items() if k != "rope_theta"}, "num_hidden_layers": 3},
                   hidden_size_per_head=16, mamba_d_state=24, mamba_d_conv=4, mamba_num_heads=6, mamba_step=2,
                   attention_window_size=32, tie_word_embeddings=False),
    "plamo2-steps": bare("plamo2", **{**{k: v for k, v in BASE.items() if k != "rope_theta"}, "num_hidden_layers": 5},
                         hidden_size_per_head=32, mamba_d_state=32, mamba_d_conv=3, mamba_num_heads=4, mamba_step=3),
    "rwkv7": bare("rwkv7", flat_heads, hidden_size=64, intermediate_size=96, norm_eps=1e-4, head_dim=16, num_hidden_layers=3,
                  a_low_rank_dim=8, v_low_rank_dim=12, gate_low_rank_dim=20, decay_low_rank_dim=16,
                  max_position_embeddings=512),
    "rwkv7-tied": bare("rwkv7", hidden_size=64, intermediate_size=80, norm_eps=1e-4, head_dim=32, num_hidden_layers=2,
                       a_low_rank_dim=32, v_low_rank_dim=32, gate_low_rank_dim=32, decay_low_rank_dim=64,
                       tie_word_embeddings=True),
    # Sizes that a quantized cache takes, and a prompt long enough to have keys and values computed.
    "deepseek_v3-wide": case("deepseek_v3", chain(joined_latents, unstacked()), **{**LATENT, "kv_lora_rank": 48,
                             "qk_rope_head_dim": 16}, **ROUTED, rope_traditional=True),
    "glm_moe_dsa-wide": case("glm_moe_dsa", chain(joined_latents, unstacked()), **{**LATENT, "kv_lora_rank": 48,
                             "qk_rope_head_dim": 16}, **ROUTED, index_head_dim=32, index_n_heads=3, index_topk=20,
                             topk_method="noaux_tc", scoring_func="sigmoid", moe_layer_freq=1, attention_bias=False,
                             rope_parameters={"rope_theta": 20000.0, "rope_type": "default"}),
    "minimax_m3-wide": {"config": {"model_type": "minimax_m3_vl", "text_config": {**BASE, "model_type": "minimax_m3",
                        "vocab_size": 512, "head_dim": 32, "dense_intermediate_size": 80, "shared_intermediate_size": 48,
                        "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2, "index_n_heads": 2,
                        "index_head_dim": 32, "index_block_size": 6, "index_topk_blocks": 3}}, "original": None},
    # Small enough to be part of the repository.
    "small-delta": bare("kimi_linear", chain(convolutions, joined_latents, unstacked(".mlp.switch_mlp.", ".mlp.experts.",
                        {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}), renamed(("_conv.conv.", "_conv1d."),
                        (".mlp.experts.", ".block_sparse_moe.experts."), (".mlp.shared_experts.",
                        ".block_sparse_moe.shared_experts."), (".mlp.gate.", ".block_sparse_moe.gate."),
                        (".mlp.e_score_correction_bias", ".block_sparse_moe.gate.e_score_correction_bias"))),
                        **{**SMALL, "num_key_value_heads": 4}, head_dim=8, kv_lora_rank=16, qk_nope_head_dim=8,
                        qk_rope_head_dim=4, v_head_dim=12, linear_attn_config={"kda_layers": [1], "num_heads": 3,
                        "head_dim": 12, "short_conv_kernel_size": 4}, model_max_length=512, num_experts=4,
                        moe_intermediate_size=16, num_experts_per_token=2, num_shared_experts=1, num_expert_group=2,
                        topk_group=1, first_k_dense_replace=1, routed_scaling_factor=1.5),
    "small-wkv": bare("rwkv7", flat_heads, hidden_size=32, intermediate_size=48, norm_eps=1e-4, head_dim=8,
                      num_hidden_layers=2, a_low_rank_dim=4, v_low_rank_dim=6, gate_low_rank_dim=10, decay_low_rank_dim=8,
                      vocab_size=64),
    "small-recurrence": bare("recurrent_gemma", convolutions, hidden_size=32, intermediate_size=80, num_attention_heads=2,
                             num_key_value_heads=1, num_hidden_layers=2, attention_bias=False, conv1d_width=4,
                             logits_soft_cap=20.0, rms_norm_eps=1e-3, rope_theta=10000.0, attention_window_size=20,
                             vocab_size=64, block_types=["recurrent", "attention"]),
    "small-selected": bare("plamo2", convolutions, **{k: v for k, v in SMALL.items() if k != "rope_theta"},
                           hidden_size_per_head=8, mamba_d_state=10, mamba_d_conv=4, mamba_num_heads=3, mamba_step=2),
    "small-states": bare("nemotron_h", convolutions, **SMALL, hybrid_override_pattern="M*-", attention_bias=False,
                         mamba_num_heads=4, mamba_head_dim=12, mamba_proj_bias=False, ssm_state_size=10, conv_kernel=4,
                         n_groups=2, mlp_bias=True, layer_norm_epsilon=1e-4, use_bias=False, use_conv_bias=True, head_dim=8),
    "small-mixes": bare("baichuan_m1", sanitized=True, **SMALL, sliding_window=16, sliding_window_layers=[1],
                        num_swa_attention_heads=2, num_swa_key_value_heads=1, conv_window=2),
}
