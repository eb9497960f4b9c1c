"""The table of `make_case.py`: the configurations of tiny checkpoints, and how original files store their weights.

Sizes are chosen so that a transposed matrix cannot pass: fewer key heads than query heads, an inner size that is not the
outer one, windows and chunks shorter than the longest prompt.
"""

import mlx.core as mx

BASE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-4, "max_position_embeddings": 512, "rope_theta": 10000.0,
}
SMALL = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64,
         "num_key_value_heads": 2, "rms_norm_eps": 1e-4, "max_position_embeddings": 512, "rope_theta": 10000.0}
BITNET = {"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
GEMMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "rms_norm_eps": 1e-4, "max_position_embeddings": 512}
ROUTED = {
    "moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.5, "norm_topk_prob": True, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
}


def case(kind, original=None, **keys):
    return bare(kind, original, **{**BASE, **keys})


def bare(kind, original=None, only=None, sanitized=False, **keys):
    """`only`: the one way of feeding in which the reference is right, where its ways differ: "decode", a token at a time, or
    "full", all at once. `sanitized`: the reference changes what it reads from files of its own layout as well."""
    return {"config": {"model_type": kind, **keys}, "original": original, "only": only, "sanitized": sanitized}


def unstacked(prefix=".mlp.switch_mlp.", to=".mlp.experts.", names=None):
    """Experts one by one."""
    names = names or {}

    def original(_, weights):
        stored = {}
        for key, value in weights.items():
            if prefix not in key:
                stored[key] = value
                continue
            head, tail = key.split(prefix)
            for expert in range(value.shape[0]):
                part = tail.split(".")[0]
                stored[f"{head}{to}{expert}.{tail.replace(part, names.get(part, part))}"] = value[expert]
        return stored

    return original


def chain_names(original, *renames):
    """The same, and then other names."""

    def renamed(config, weights):
        stored = {}
        for key, value in original(config, weights).items():
            for new, old in renames:
                key = key.replace(new, old)
            stored[key] = value
        return stored

    return renamed


def joined_columns(prefix, to):
    """Gate and up of all experts in one array `[experts, inputs, 2 * outputs]`."""

    def original(_, weights):
        stored = {}
        for key, value in weights.items():
            if f"{prefix}gate_proj.weight" in key:
                up = weights[key.replace("gate_proj", "up_proj")]
                both = mx.concatenate([value, up], axis=1).swapaxes(1, 2)
                stored[key.replace(f"{prefix}gate_proj.weight", f"{to}gate_up_proj")] = mx.contiguous(both)
            elif f"{prefix}down_proj.weight" in key:
                stored[key.replace(f"{prefix}down_proj.weight", f"{to}down_proj")] = mx.contiguous(value.swapaxes(1, 2))
            elif f"{prefix}up_proj.weight" not in key:
                stored[key] = value
        return stored

    return original


def conv1d(_, weights):
    """GPT-2's matrices, `[inputs, outputs]`, without the first part of their names."""
    names = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    turned = {k: mx.contiguous(v.T) if k.endswith(names) else v for k, v in weights.items()}
    return {k.removeprefix("model."): v for k, v in turned.items()}


def granite_joined(_, weights):
    stored = {}
    for key, value in weights.items():
        if "switch_mlp.gate_proj" in key:
            up = weights[key.replace("gate_proj", "up_proj")]
            stored[key.replace("switch_mlp.gate_proj", "input_linear")] = mx.concatenate([value, up], axis=1)
        elif "switch_mlp.down_proj" in key:
            stored[key.replace("switch_mlp.down_proj", "output_linear")] = value
        elif "switch_mlp.up_proj" not in key:
            stored[key] = value
    return stored


def as_stored(_, weights):
    """The same in both layouts."""
    return weights


def with_tables(_, weights):
    """Tables of angles beside the weights."""
    return {**weights, "model.cos": mx.zeros((4, 12)), "model.blocks.0.attn.rotary.sin": mx.zeros((4, 12))}


def step_vanilla(_, weights):
    renames = [(".mlp.switch_mlp.", ".moe."), (".mlp.gate.gate.", ".moe.gate."),
               (".mlp.gate.router_bias", ".moe.router_bias"), (".mlp.share_expert.", ".share_expert.")]
    stored = {}
    for key, value in weights.items():
        for new, old in renames:
            key = key.replace(new, old)
        if key.endswith(".weight") and "norm" in key:
            value = value.astype(mx.float32) - 1
        stored[key] = value
    return stored


def gemma_joined(_, weights):
    """Gate and up of all experts by rows, inside `model.language_model`."""
    stored = {}
    for key, value in weights.items():
        key = key.replace("language_model.model.", "model.language_model.")
        if ".experts.switch_glu.gate_proj.weight" in key:
            up = weights[key.replace("model.language_model.", "language_model.model.").replace("gate_proj", "up_proj")]
            stored[key.replace("switch_glu.gate_proj.weight", "gate_up_proj")] = mx.concatenate([value, up], axis=1)
        elif ".experts.switch_glu.down_proj.weight" in key:
            stored[key.replace("switch_glu.down_proj.weight", "down_proj")] = value
        elif ".experts.switch_glu.up_proj.weight" not in key:
            stored[key] = value
    return stored


def neox(_, weights):
    stored = {}
    for key, value in weights.items():
        key = key.replace("model.h.", "gpt_neox.layers.").replace("model.embed_out.", "embed_out.")
        stored[key.replace("model.", "gpt_neox.")] = value
    return stored


def nested(_, weights):
    """A text model inside `model.language_model`, as newer files have it."""
    stored = {}
    for key, value in weights.items():
        key = key.removeprefix("language_model.")
        stored[key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else key] = value
    return stored


CASES = {
    "gpt2": bare("gpt2", conv1d, n_ctx=128, n_embd=64, n_head=4, n_layer=2, n_positions=128, layer_norm_epsilon=1e-4),
    "mixtral": case("mixtral", unstacked(".block_sparse_moe.switch_mlp.", ".block_sparse_moe.experts.",
                    {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}),
                    num_local_experts=4, num_experts_per_tok=2, rope_traditional=False),
    "qwen2_moe": case("qwen2_moe", unstacked(), num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                      shared_expert_intermediate_size=48),
    "qwen3_moe": case("qwen3_moe", unstacked(), num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                      head_dim=16, decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True,
                      tie_word_embeddings=False),
    "olmoe": case("olmoe", unstacked(), num_experts=4, num_experts_per_tok=2),
    "llama4": {"config": {"model_type": "llama4", "text_config": {**BASE, "model_type": "llama4_text", "vocab_size": 512,
               "num_hidden_layers": 4, "attention_bias": False, "attention_chunk_size": 32, "head_dim": 16,
               "interleave_moe_layer_step": 2, "intermediate_size_mlp": 48, "num_experts_per_tok": 1,
               "num_local_experts": 4, "rope_scaling": LLAMA3, "use_qk_norm": True, "floor_scale": 16}},
               "original": joined_columns(".experts.", ".experts.")},
    "step3p5": bare("step3p5", step_vanilla, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
                    num_attention_groups=2, head_dim=16, intermediate_size=96, rms_norm_eps=1e-4, sliding_window=16,
                    attention_other_setting={"num_attention_heads": 6, "num_attention_groups": 2},
                    layer_types=["full_attention", "sliding_attention", "full_attention"], moe_num_experts=4, moe_top_k=2,
                    moe_intermediate_size=32, share_expert_dim=48, swiglu_limits=[0, 1.5, 0],
                    swiglu_limits_shared=[0, 0, 1.5], rope_theta=[10000.0, 1000.0, 500.0]),
    "mistral3": {"config": {"model_type": "mistral3", "text_config": {**BASE, "model_type": "ministral3", "vocab_size": 512,
                 "head_dim": 16, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"],
                 "rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0,
                 "beta_slow": 1.0, "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.2}}},
                 "original": nested},
    "qwen3_vl": {"config": {"model_type": "qwen3_vl", "text_config": {**BASE, "model_type": "qwen3_vl_text",
                 "vocab_size": 512, "head_dim": 16, "tie_word_embeddings": False}}, "original": nested},
    "granite": case("granite", logits_scaling=4.0, attention_multiplier=0.2, embedding_multiplier=3.0,
                    residual_multiplier=0.4, attention_bias=True, mlp_bias=True),
    "granitemoe": case("granitemoe", granite_joined, logits_scaling=4.0, attention_multiplier=0.2,
                       embedding_multiplier=3.0, residual_multiplier=0.4, attention_bias=False, num_local_experts=4,
                       num_experts_per_tok=2),
    "glm": case("glm", head_dim=16, attention_bias=True),
    "glm4_moe": case("glm4_moe", unstacked(), **ROUTED, head_dim=16, rope_scaling=None, use_qk_norm=True,
                     tie_word_embeddings=False, attention_bias=True, partial_rotary_factor=0.5),
    "dots1": case("dots1", unstacked(".mlp.experts."), **ROUTED, mlp_bias=True),
    "exaone": bare("exaone", hidden_size=64, num_layers=2, intermediate_size=96, num_attention_heads=4,
                   num_key_value_heads=2, rope_theta=10000.0, layer_norm_epsilon=1e-4, max_position_embeddings=512,
                   rope_scaling=LLAMA3),
    "exaone4": case("exaone4", head_dim=16, tie_word_embeddings=False, rope_scaling=LLAMA3, sliding_window=16,
                    sliding_window_pattern="LG"),
    "exaone4-plain": case("exaone4", head_dim=16, tie_word_embeddings=True, rope_scaling=LLAMA3, sliding_window=None,
                          sliding_window_pattern=None),
    "exaone_moe": case("exaone_moe", unstacked(), moe_intermediate_size=32, num_experts=8, num_experts_per_tok=2,
                       num_shared_experts=1, head_dim=16, sliding_window=16, n_group=2, topk_group=1,
                       layer_types=["sliding_attention", "full_attention"], is_moe_layer=[False, True]),
    "seed_oss": case("seed_oss", head_dim=24, attention_bias=True, attention_out_bias=False, tie_word_embeddings=False),
    "olmo3": case("olmo3", sliding_window=16, rope_scaling=LLAMA3, num_hidden_layers=4),
    "stablelm": case("stablelm", use_qkv_bias=True, partial_rotary_factor=0.5, layer_norm_eps=1e-4),
    "stablelm-parallel": case("stablelm", use_qkv_bias=False, partial_rotary_factor=0.25, layer_norm_eps=1e-4,
                              use_parallel_residual=True, qk_layernorm=True),
    "minicpm": case("minicpm", dim_model_base=16, scale_depth=1.4, scale_emb=2.0),
    "minicpm-tied": case("minicpm", dim_model_base=16, scale_depth=1.4, scale_emb=2.0, tie_word_embeddings=True),
    "ernie4_5_moe": case("ernie4_5_moe", unstacked(), use_bias=False, tie_word_embeddings=True, moe_num_experts=4, moe_k=2,
                         moe_intermediate_size=32, moe_num_shared_experts=2, moe_layer_start_index=1),
    "bailing_moe": case("bailing_moe", unstacked(), moe_intermediate_size=32, num_experts=8, num_experts_per_tok=2,
                        num_shared_experts=1, norm_topk_prob=True, first_k_dense_replace=1, use_qk_norm=True,
                        use_qkv_bias=True, partial_rotary_factor=0.5, score_function="sigmoid", n_group=4, topk_group=2,
                        moe_router_enable_expert_bias=True, routed_scaling_factor=2.0),
    "mimo": case("mimo"),
    "helium": case("helium", attention_bias=True, head_dim=16, mlp_bias=True, tie_word_embeddings=False),
    "internlm2": case("internlm2", bias=True),
    "gemma3": {"config": {"model_type": "gemma3", "vocab_size": 512, "text_config": {**GEMMA, "model_type": "gemma3_text",
               "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "sliding_window_pattern": 2,
               "rope_local_base_freq": 500.0}}, "original": None},
    "gemma4-mixture": {"config": {"model_type": "gemma4", "vocab_size": 512, "text_config": {**GEMMA,
                       "model_type": "gemma4_text", "num_hidden_layers": 4, "head_dim": 16, "global_head_dim": 32,
                       "num_global_key_value_heads": 1, "attention_k_eq_v": True, "num_kv_shared_layers": 0,
                       "hidden_size_per_layer_input": 0, "sliding_window": 16, "sliding_window_pattern": 2,
                       "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}},
                       "original": gemma_joined},
    "gemma4-shared": {"config": {"model_type": "gemma4", "vocab_size": 512, "text_config": {**GEMMA,
                      "model_type": "gemma4_text", "num_hidden_layers": 6, "head_dim": 16, "global_head_dim": 24,
                      "num_kv_shared_layers": 3, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 512,
                      "sliding_window": 16, "sliding_window_pattern": 3, "use_double_wide_mlp": False}},
                      "original": gemma_joined},
    "gpt_neox": bare("gpt_neox", neox, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, layer_norm_eps=1e-4,
                     max_position_embeddings=512, rotary_emb_base=10000, rotary_pct=0.25),
    "gpt_neox-serial": bare("gpt_neox", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, layer_norm_eps=1e-4,
                            max_position_embeddings=512, rotary_emb_base=500, rotary_pct=1.0,
                            use_parallel_residual=False),
    "gpt_bigcode": bare("gpt_bigcode", n_embd=64, n_layer=2, n_inner=96, n_head=4, n_positions=128,
                        layer_norm_epsilon=1e-4),
    "qwen2_vl": {"config": {"model_type": "qwen2_vl", "text_config": {**BASE, "model_type": "qwen2_vl_text",
                 "vocab_size": 512, "tie_word_embeddings": False, "rope_scaling": {"type": "mrope",
                 "mrope_section": [2, 3, 3]}}}, "original": nested},
    "qwen3_vl_moe": {"config": {"model_type": "qwen3_vl_moe", "text_config": {**BASE, "model_type": "qwen3_vl_moe_text",
                     "vocab_size": 512, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
                     "moe_intermediate_size": 32, "decoder_sparse_step": 1, "mlp_only_layers": [],
                     "norm_topk_prob": True, "tie_word_embeddings": False}},
                     "original": joined_columns(".mlp.switch_mlp.", ".mlp.experts.")},
    "afmoe": case("afmoe", unstacked(".mlp.experts."), head_dim=16, moe_intermediate_size=32, num_experts=8,
                  num_experts_per_tok=2, num_dense_layers=1, sliding_window=16, n_group=2, topk_group=1,
                  num_hidden_layers=3, layer_types=["sliding_attention", "sliding_attention", "full_attention"]),
    "telechat3": case("telechat3", rope_scaling={"type": "telechat3-yarn", "factor": 4.0, "beta_fast": 4.0,
                      "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 0.5}),
    "solar_open": case("solar_open", unstacked(), **{**ROUTED, "n_group": 1, "topk_group": 1}, head_dim=16,
                       tie_word_embeddings=False, partial_rotary_factor=1.0),
    "qwen": bare("qwen", hidden_size=64, num_attention_heads=4, num_hidden_layers=2, kv_channels=16,
                 layer_norm_epsilon=1e-4, intermediate_size=192, max_position_embeddings=512),
    "minimax": case("minimax", unstacked(".block_sparse_moe.switch_mlp.", ".block_sparse_moe.experts.",
                    {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}), num_local_experts=4,
                    num_experts_per_tok=2, shared_intermediate_size=0, rotary_dim=8, head_dim=16),
    "hunyuan": case("hunyuan", unstacked(), attention_bias=False, moe_topk=2, num_experts=4, num_shared_expert=1,
                    use_mixed_mlp_moe=True, use_qk_norm=True, use_cla=False, cla_share_factor=2,
                    rope_scaling={"alpha": 50.0, "factor": 1.0, "type": "dynamic"}),
    "nemotron-nas": case("nemotron-nas", num_hidden_layers=4, rope_scaling=LLAMA3, block_configs=[
                         {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}},
                         {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
                         {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
                         {"attention": {"n_heads_in_group": 1}, "ffn": {"ffn_mult": 6.5}}]),
    "llama4_text": case("llama4_text", intermediate_size_mlp=96, head_dim=16, tie_word_embeddings=False,
                        no_rope_layers=[1, 0], use_qk_norm=True),
    "openelm": bare("openelm", head_dim=16, num_transformer_layers=2, model_dim=64, ffn_dim_divisor=32,
                    num_query_heads=[4, 6], num_kv_heads=[2, 3], ffn_multipliers=[0.7, 2.3], rms_norm_eps=1e-4),
    "mellum": case("mellum", head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                   norm_topk_prob=True, tie_word_embeddings=False, sliding_window=16,
                   layer_types=["sliding_attention", "full_attention"], rope_parameters={
                   "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                   "full_attention": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 4.0,
                   "original_max_position_embeddings": 16}}),
    "gptj": bare("gptj", n_embd=64, n_head=4, n_layer=2, n_positions=128, rotary_dim=8, layer_norm_epsilon=1e-4),
    "deepseek": case("deepseek", unstacked(), moe_intermediate_size=32, n_shared_experts=2, n_routed_experts=8,
                     num_experts_per_tok=2, first_k_dense_replace=1),
    "apertus": case("apertus", hidden_act="xielu", mlp_bias=True, attention_bias=False, post_norm=False, qk_norm=True,
                    tie_word_embeddings=False, rope_scaling=LLAMA3),
    "phimoe": case("phimoe", unstacked(".block_sparse_moe.switch_mlp.", ".block_sparse_moe.experts.",
                   {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}), num_local_experts=6, num_experts_per_tok=3,
                   router_jitter_noise=0.2, original_max_position_embeddings=32, rope_scaling={"type": "longrope",
                   "short_factor": [1.0] * 8, "long_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.1, 4.0],
                   "short_mscale": 1.1, "long_mscale": 1.2}),
    "spark2_5": case("spark2_5", head_dim=16, sliding_window=16, num_hidden_layers=4, tie_word_embeddings=True,
                     rope_parameters={"sliding_attention": {"rope_theta": 500.0, "partial_rotary_factor": 0.5},
                                      "full_attention": {"rope_theta": 10000.0}}),
    "lille-130m": bare("lille-130m", block_size=512, layer_norm_eps=1e-4, n_embd=96, n_head=6, n_kv_heads=2, n_layer=2,
                       rope_theta=10000.0),
    "nanochat": bare("nanochat", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                     max_position_embeddings=512, intermediate_size=96, rope_theta=500.0),
    "muse_glimmer": case("muse_glimmer", head_dim=16, num_hidden_layers=4, sliding_window=16, post_norm_eps=0.01),
    "muse_glimmer-nested": {"config": {"model_type": "muse_glimmer", "text_config": {**BASE, "vocab_size": 512, "head_dim": 24,
                            "model_type": "muse_glimmer_text", "num_hidden_layers": 3, "sliding_window": 16,
                            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
                            "layer_rope_theta": [0, 500.0, 0], "rope_parameters": {"rope_theta": 500.0},
                            "final_logit_softcapping": 7.0}}, "original": nested},
    "phixtral": bare("phixtral", unstacked(".moe.switch_mlp.", ".moe.mlp."), num_vocab=512, model_dim=64, num_heads=4,
                     num_layers=2, rotary_dim=8, num_experts_per_tok=2, num_local_experts=4),
    "laguna": case("laguna", chain_names(unstacked(), (".mlp.gate.proj.", ".mlp.gate."), (".mlp.gate.e_score",
                   ".mlp.experts.e_score")), head_dim=16, num_hidden_layers=3, sliding_window=16, qkv_bias=True,
                   layer_types=["full_attention", "sliding_attention", "sliding_attention"], num_experts=6,
                   num_attention_heads_per_layer=[4, 6, 2], num_experts_per_tok=2, moe_intermediate_size=32,
                   shared_expert_intermediate_size=48, moe_routed_scaling_factor=1.5,
                   moe_router_score_func="sqrtsoftplus", rope_parameters={"full_attention": {"rope_type": "yarn",
                   "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0,
                   "partial_rotary_factor": 0.5}, "sliding_attention": {"rope_theta": 500.0}}),
    "Klear": case("Klear", unstacked(".mlp.experts.", ".mlp.experts."), attention_bias=True, mlp_only_layers=[0],
                  num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1, n_shared_experts=2,
                  moe_intermediate_size=32, norm_topk_prob=True, num_hidden_layers=3),
    "dbrx": bare("dbrx", d_model=64, n_layers=2, n_heads=4, ffn_config={"ffn_hidden_size": 32, "moe_num_experts": 4,
                 "moe_top_k": 2}, attn_config={"kv_n_heads": 2, "clip_qkv": 0.8, "rope_theta": 500.0}),
    "plamo": case("plamo", n_shared_head=3, num_attention_heads=6, hidden_size=96),
    "iquestloopcoder": case("iquestloopcoder", head_dim=24, loop_window_size=16, attention_bias=True),
    "nanbeige": case("nanbeige", num_loops=3, rope_scaling=LLAMA3, attention_bias=True, head_dim=24),
    "nanbeige-weights": case("nanbeige", loop_loss_weights=[0.5], skip_loop_final_norm=True, tie_word_embeddings=True),
    "afm7": bare("afm7", hidden_dim=64, num_layers=4, num_kv_reuse_layers=2, num_heads=4, num_kv_heads=2,
                 hidden_dim_scale_factor=1.7, rope_theta=20000.0, rms_norm_eps=1e-3),
    "afm7-own": bare("afm7", hidden_dim=96, num_layers=2, num_kv_reuse_layers=0, num_heads=6, num_kv_heads=1,
                     hidden_dim_scale_factor=2.0),
    "bitnet": case("bitnet", as_stored, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, **BITNET),
    "bitnet-tied": case("bitnet", as_stored, head_dim=16, rope_scaling=LLAMA3, hidden_act="relu2", **BITNET),
    "plamo3": case("plamo3", head_dim=24, num_hidden_layers=4, window_size=16, sliding_window_pattern=2, rope_theta=500.0,
                   rope_local_theta=50.0, only="full"),
    "plamo3-untied": case("plamo3", head_dim=16, num_hidden_layers=3, window_size=7, sliding_window=16, only="full",
                          sliding_window_pattern=3, tie_word_embeddings=False),
    # The reference's blocks of queries start at the end of a pass, where passes are not made of whole ones.
    "phi3small": bare("phi3small", only="decode", vocab_size=512, hidden_size=96, num_hidden_layers=3,
                      num_attention_heads=6, num_key_value_heads=2, ff_intermediate_size=80, gegelu_limit=1.5,
                      layer_norm_epsilon=1e-4, dense_attention_every_n_layers=2, mup_width_multiplier=0.5,
                      mup_embedding_multiplier=0.7, rope_embedding_base=500.0, rope_position_scale=0.5,
                      mup_attn_multiplier=2.0, blocksparse_block_size=32, blocksparse_num_local_blocks=1,
                      blocksparse_vert_stride=3, max_position_embeddings=512),
    "phi3small-plain": bare("phi3small", only="decode", vocab_size=512, hidden_size=64, num_hidden_layers=2,
                            num_attention_heads=4, num_key_value_heads=4, ff_intermediate_size=80, gegelu_limit=20.0,
                            layer_norm_epsilon=1e-4, dense_attention_every_n_layers=2, mup_use_scaling=False,
                            mup_embedding_multiplier=0.0, blocksparse_block_size=32, blocksparse_num_local_blocks=2,
                            blocksparse_vert_stride=2, max_position_embeddings=512, mup_width_multiplier=0.0),
    "talkie": bare("talkie", with_tables, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, head_dim=24,
                   intermediate_size=96, rope_theta=500.0, max_position_embeddings=512),
    "olmo": bare("olmo", d_model=64, n_layers=2, mlp_hidden_size=192, n_heads=4, vocab_size=500, embedding_size=512,
                 only="decode"),
    "olmo-tied": bare("olmo", only="decode", d_model=64, n_layers=2, mlp_hidden_size=96, n_heads=4, vocab_size=500, embedding_size=512,
                      weight_tying=True, rope_traditional=True, rope_theta=500.0),
    # Small enough to be part of the repository.
    "small-sinks": bare("gpt_oss", **SMALL, num_local_experts=4, num_experts_per_tok=2, head_dim=8, sliding_window=16),
    "small-chunks": {"config": {"model_type": "llama4", "text_config": {**SMALL, "model_type": "llama4_text",
                     "num_hidden_layers": 4, "attention_bias": False, "attention_chunk_size": 16, "head_dim": 8,
                     "interleave_moe_layer_step": 2, "intermediate_size_mlp": 24, "num_experts_per_tok": 1,
                     "num_local_experts": 3, "rope_scaling": None, "use_qk_norm": True, "floor_scale": 16}},
                     "original": joined_columns(".experts.", ".experts.")},
    "small-gates": bare("step3p5", step_vanilla, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        num_attention_groups=2, head_dim=8, intermediate_size=24, rms_norm_eps=1e-4, sliding_window=16,
                        attention_other_setting={"num_attention_heads": 6, "num_attention_groups": 2}, vocab_size=64,
                        layer_types=["full_attention", "sliding_attention"], moe_num_experts=4, moe_top_k=2,
                        moe_intermediate_size=16, share_expert_dim=24, swiglu_limits=[0, 1.5],
                        swiglu_limits_shared=[1.5, 0]),
    "small-reuse": bare("afm7", hidden_dim=32, num_layers=2, num_kv_reuse_layers=1, num_heads=4, num_kv_heads=2,
                        hidden_dim_scale_factor=1.7, vocab_size=64),
    "small-ternary": bare("bitnet", **{**SMALL, "hidden_size": 64, "intermediate_size": 96}, **BITNET),
    "small-blocks": bare("phi3small", only="decode", vocab_size=64, hidden_size=32, num_hidden_layers=2, gegelu_limit=1.5,
                         num_attention_heads=4, num_key_value_heads=2, ff_intermediate_size=24, layer_norm_epsilon=1e-4,
                         dense_attention_every_n_layers=2, mup_width_multiplier=0.5, mup_embedding_multiplier=0.7,
                         blocksparse_block_size=32, blocksparse_num_local_blocks=1, blocksparse_vert_stride=3,
                         max_position_embeddings=512),
    "small-gains": bare("talkie", vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
                        intermediate_size=24, rope_theta=500.0, max_position_embeddings=512),
    "small-offsets": bare("plamo3", **SMALL, head_dim=8, window_size=16, sliding_window_pattern=2, only="full"),
    "small-positions": bare("gpt2", conv1d, n_ctx=80, n_embd=32, n_head=4, n_layer=2, n_positions=80,
                            layer_norm_epsilon=1e-4, vocab_size=64),
}
