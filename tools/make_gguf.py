#!/usr/bin/env python3
"""A GGUF file of a small checkpoint, as llama.cpp's converter would write it: for tests of the import.

usage: tools/make_gguf.py CHECKPOINT_DIR OUT.gguf [--tokenizer DIR] [--encode Q8_0]        needs: pip install numpy gguf

Names of tensors are those of the package `gguf`. Matrices keep their precision, unless an encoding is named.
"""
import argparse
import json
import math
import pathlib

import numpy as np
import gguf
from gguf import GGMLQuantizationType as Type, quants

parser = argparse.ArgumentParser()
parser.add_argument("checkpoint", type=pathlib.Path)
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--tokenizer", type=pathlib.Path)
parser.add_argument("--encode", default="BF16")
args = parser.parse_args()
config = json.loads((args.checkpoint / "config.json").read_text())

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe", "olmoe": "olmoe", "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3",
    "granite": "granite", "starcoder2": "starcoder2", "stablelm": "stablelm", "olmo2": "olmo2", "glm4": "glm4",
    "exaone": "exaone", "cohere": "command-r", "cohere2": "cohere2", "smollm3": "smollm3", "lfm2": "lfm2", "gpt_oss": "gpt-oss",
}
parameters = config.get("rope_parameters") or {}
config.setdefault("rope_theta", parameters.get("rope_theta", 10000.0))
family = config["model_type"]
arch = ARCHITECTURES[family]
heads, hidden = config["num_attention_heads"], config["hidden_size"]
layers = config.get("num_hidden_layers") or config["num_layers"]
kv = config.get("num_key_value_heads") or heads
head_dim = config.get("head_dim") or hidden // heads


def tensors():
    """All tensors of the checkpoint in single precision, with their names."""
    for path in sorted(args.checkpoint.glob("*.safetensors")):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        for name, info in json.loads(data[8:8 + size]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + size + at for at in info["data_offsets"])
            raw = np.frombuffer(data[begin:end], {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[info["dtype"]])
            if info["dtype"] == "BF16":
                raw = (raw.astype(np.uint32) << 16).view(np.float32)
            yield name, raw.astype(np.float32).reshape(info["shape"])


def interleave(x, n):
    """Rows of the two halves of each head, side by side."""
    return x.reshape(n, 2, x.shape[0] // n // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def stretch():
    """Factors of the stretch that spares high frequencies."""
    scaling, base = config["rope_scaling"], config["rope_theta"]
    low, high = scaling.get("low_freq_factor", 1.0), scaling.get("high_freq_factor", 4.0)
    context, out = scaling["original_max_position_embeddings"], []
    for i in range(0, head_dim, 2):
        length = 2 * math.pi * base ** (i / head_dim)
        smooth = (context / length - low) / (high - low)
        out.append(1.0 if length < context / high else scaling["factor"] if length > context / low
                   else 1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(out, np.float32)


writer = gguf.GGUFWriter(args.out, arch)
writer.add_block_count(layers)
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(hidden)
if arch == "lfm2":
    ffn = config["block_ff_dim"]
    if config["block_auto_adjust_ff_dim"]:
        multiple = config["block_multiple_of"]
        ffn = -(-int(config.get("block_ffn_dim_multiplier", 1) * (2 * ffn // 3)) // multiple) * multiple
    config["intermediate_size"] = ffn
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
if arch == "lfm2":
    writer.add_head_count_kv([kv if kind == "full_attention" else 0 for kind in config["layer_types"]])
    writer.add_shortconv_l_cache(config["conv_L_cache"])
else:
    writer.add_head_count_kv(kv)
if "head_dim" in config or arch.startswith("gemma"):
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
if (part := config.get("partial_rotary_factor")) or arch in ("llama", "smollm3"):
    writer.add_rope_dimension_count(int(head_dim * (part or 1)))
if arch in ("starcoder2", "stablelm", "command-r", "cohere2"):
    writer.add_layer_norm_eps(next(config[key] for key in ("norm_epsilon", "layer_norm_eps") if key in config))
else:
    writer.add_layer_norm_rms_eps(next(config[key] for key in ("rms_norm_eps", "norm_eps", "layer_norm_epsilon") if key in config))
if window := config.get("sliding_window"):
    if arch not in ("llama", "qwen2", "qwen3", "qwen3moe", "olmoe"):
        writer.add_sliding_window(window)
if arch == "gemma2":
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
if arch == "granite":
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])
if arch in ("command-r", "cohere2"):
    writer.add_logit_scale(config["logit_scale"])
if arch == "stablelm":
    writer.add_parallel_residual(config.get("use_parallel_residual", False))
if experts := config.get("num_experts") or config.get("num_local_experts"):
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if arch == "gpt-oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
scaling = config.get("rope_scaling") or parameters
kind = scaling.get("rope_type", scaling.get("type"))
if kind in ("linear", "yarn"):
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "beta_fast" in scaling:
            writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
elif kind == "llama3":
    writer.add_tensor("rope_freqs.weight", stretch())
elif kind == "longrope":
    original = config.get("original_max_position_embeddings") or scaling["original_max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    for name in ("long", "short"):
        writer.add_tensor(f"rope_factors_{name}.weight", np.array(scaling[f"{name}_factor"], np.float32))
elif kind not in (None, "default"):
    raise SystemExit(f"rope scaling {kind} is not written by this tool")

names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[{"command-r": "COMMAND_R", "gpt-oss": "GPT_OSS"}.get(arch, arch.upper())], layers)
for name, x in tensors():
    if arch in ("gemma", "gemma2", "gemma3") and name.endswith("norm.weight"):
        x = x + 1
    if arch in ("llama", "granite", "smollm3") and ".q_proj." in name:
        x = interleave(x, heads)
    if arch in ("llama", "granite", "smollm3") and ".k_proj." in name:
        x = interleave(x, kv)
    if "shared_expert_gate" in name:
        x = x.reshape(-1)
    if "conv.conv" in name and x.ndim == 3:
        x = x.squeeze(-1) if x.shape[-1] == 1 else x.squeeze(1)
    if name == "lm_head.weight" and config.get("tie_word_embeddings"):
        continue
    if family == "mixtral":
        for ours, theirs in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
            name = name.replace(f"model.layers.", "layers.").replace(f"block_sparse_moe.switch_mlp.{ours}", f"feed_forward.experts.{theirs}") if "switch_mlp" in name and ours in name else name
    known = name.replace(".switch_mlp.", ".experts.").replace("self_attn.sinks", "self_attn.sinks.weight")
    mapped = names.get_name(known, try_suffixes=(".weight", ".bias"))
    if mapped is None:
        raise SystemExit(f"{name} has no name in GGUF")
    encode = Type[args.encode] if x.ndim > 1 and "conv" not in name and x.shape[-1] % gguf.GGML_QUANT_SIZES[Type[args.encode]][0] == 0 else Type.F32
    writer.add_tensor(mapped, quants.quantize(x, encode) if encode != Type.F32 else x, raw_dtype=encode)

folder = args.tokenizer or args.checkpoint
tokenizer = json.loads((folder / "tokenizer.json").read_text())
settings = json.loads((folder / "tokenizer_config.json").read_text())
ids = dict(tokenizer["model"]["vocab"])
kinds = {}
for added in tokenizer["added_tokens"]:
    ids[added["content"]] = added["id"]
    kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
size = max(ids.values()) + 1
tokens = [f"[PAD{i}]" for i in range(size)]
types = [gguf.TokenType.UNUSED] * size
pieces = tokenizer["model"].get("byte_fallback", False)
for token, at in ids.items():
    byte = pieces and len(token) == 6 and token.startswith("<0x")
    tokens[at] = token
    types[at] = kinds.get(at, gguf.TokenType.BYTE if byte else gguf.TokenType.NORMAL)
merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in tokenizer["model"]["merges"]]
writer.add_tokenizer_model("llama" if pieces else "gpt2")
writer.add_token_list(tokens)
if pieces:
    # The rank of a merge is what its score says; a token that nothing merges into has the least.
    rank = {}
    for at, pair in enumerate(merges):
        rank.setdefault("".join(pair), at)
    writer.add_token_scores([-float(rank.get(token, len(merges) + at)) for at, token in enumerate(tokens)])
    text = json.dumps(tokenizer["normalizer"]) + json.dumps(tokenizer["pre_tokenizer"])
    writer.add_add_space_prefix("Prepend" in text or "prepend_scheme" in text)
else:
    text = json.dumps(tokenizer["pre_tokenizer"])
    words = "smollm" if "Digits" in text else "deepseek-v3" if "A-Za-z" in text else "llama-bpe" if "{1,3}" in text else "qwen2" if "Regex" in text else "gpt-2"
    writer.add_tokenizer_pre(words)
    writer.add_token_merges([" ".join(pair) for pair in merges])
writer.add_token_types(types)
writer.add_add_bos_token("TemplateProcessing" in json.dumps(tokenizer["post_processor"]))
for role, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("pad", writer.add_pad_token_id), ("unk", writer.add_unk_token_id)):
    token = settings.get(f"{role}_token")
    token = token["content"] if isinstance(token, dict) else token
    if token in ids:
        add(ids[token])
template = folder / "chat_template.jinja"
if template.exists():
    writer.add_chat_template(template.read_text())
elif settings.get("chat_template"):
    writer.add_chat_template(settings["chat_template"])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
