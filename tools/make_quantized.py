#!/usr/bin/env python3
"""Makes conformance cases in the layouts of other quantizers: AWQ, GPTQ, blocks of fp8, compressed-tensors and ModelOpt.

    pip install 'mlx[cpu]' mlx-lm
    python tools/make_quantized.py OUT [NAME ...]
    cargo xtask conformance --dir OUT

Each matrix of a tiny random model is stored by numpy code that follows the layout's public definition, which also says what
the stored numbers stand for; the logits are those of mlx-lm with these numbers as plain weights.
"""

import argparse
import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_lm.utils import _transform_awq_weights

from make_case import CHUNK, build, load, randomize, record

VOCAB = 64
LENGTHS = {"p0": 9, "p1": 5, "p2": 21}
DENSE = {"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "vocab_size": VOCAB,
         "max_position_embeddings": 256, "tie_word_embeddings": False}
MIXTURE = {**DENSE, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "decoder_sparse_step": 1, "norm_topk_prob": True, "mlp_only_layers": []}

E4M3 = np.array([(m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)) for e in range(16) for m in range(8)], np.float32)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def nearest(table, x, sign):
    """Codes of a table of magnitudes, with a bit for the sign."""
    middles = (table[1:] + table[:-1]) / 2
    return np.searchsorted(middles, np.abs(x)).astype(np.uint8) | (x < 0).astype(np.uint8) * np.uint8(sign)


def signed(table):
    return np.concatenate([table, -table])


def to_e4m3(x):
    # The last code stands for no number.
    return nearest(E4M3[:127], x, 128)


def bf16(x):
    return np.array(mx.array(np.asarray(x, np.float32)).astype(mx.bfloat16).astype(mx.float32))


def spread(scales, shape, block):
    """Each number of a grid over its block of a matrix."""
    return np.repeat(np.repeat(scales, block[0], 0), block[1], 1)[: shape[0], : shape[1]]


def stream(codes, bits):
    """Codes along the last axis as a little-endian bit stream of words."""
    flags = (codes[..., None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32)) & 1
    flags = flags.reshape(*codes.shape[:-1], -1, 32)
    return (flags << np.arange(32, dtype=np.uint32)).sum(-1, dtype=np.uint32).astype(np.uint32).view(np.int32)


def integers(w, bits, group, zeros, rng):
    """Codes [out, in], scales and zeros [out, groups] of a matrix, and what they stand for."""
    out, inner = w.shape
    parts = w.reshape(out, inner // group, group)
    most = 2**bits - 1
    if zeros:
        scale = (parts.max(-1) - parts.min(-1)) / most
        scale = scale.astype(np.float16).astype(np.float32)
        zero = np.clip(np.round(-parts.min(-1) / scale), 1, most)
    else:
        scale = (np.abs(parts).max(-1) / (most // 2)).astype(np.float16).astype(np.float32)
        zero = np.full_like(scale, 2 ** (bits - 1))
    codes = np.clip(np.round(parts / scale[..., None]) + zero[..., None], 0, most)
    plain = scale[..., None] * (codes - zero[..., None])
    return codes.reshape(out, inner).astype(np.uint32), scale, zero.astype(np.uint32), plain.reshape(out, inner)


ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq(name, w, rng):
    codes, scale, zero, plain = integers(w, 4, 32, True, rng)
    pack = lambda x: stream(x.reshape(x.shape[0], -1, 8)[..., ORDER].reshape(x.shape), 4)
    return {"qweight": pack(codes.T), "qzeros": pack(zero.T), "scales": scale.T.astype(np.float16)}, plain


def gptq(bits, zeros, version, mixed=False):
    def store(name, w, rng):
        group = 32
        order = np.arange(w.shape[1]) // group
        if mixed:
            rng.shuffle(order)
        place = np.argsort(order, kind="stable")
        codes, scale, zero, plain = integers(w[:, place], bits, group, zeros, rng)
        back = np.argsort(place)
        codes, plain = codes[:, back], plain[:, back]
        stored = (zero.T - (version == 1)) & (2**bits - 1)
        tensors = {"qweight": np.ascontiguousarray(stream(codes, bits).T), "qzeros": stream(stored, bits),
                   "scales": scale.T.astype(np.float16), "g_idx": order.astype(np.int32)}
        if version == 1:
            tensors["bias"] = np.zeros(w.shape[0], np.float16)
        # Without groups in a run there is nothing but the type of the scales to hold the products.
        return tensors, plain.astype(np.float16).astype(np.float32) if mixed else plain

    return store


def fp8(block, kind="weight_scale_inv", powers=False, half=False, activation=None):
    """`block` of 0: all of that axis."""
    def store(name, w, rng):
        rows, columns = [size or whole for size, whole in zip(block, w.shape)]
        padded = np.zeros((-(-w.shape[0] // rows) * rows, -(-w.shape[1] // columns) * columns), np.float32)
        padded[: w.shape[0], : w.shape[1]] = w
        grid = np.abs(padded.reshape(padded.shape[0] // rows, rows, -1, columns)).max((1, 3)) / 448
        scale = 2 ** np.ceil(np.log2(grid)) if powers else bf16(grid) if half else grid.astype(np.float32)
        wide = spread(scale, w.shape, (rows, columns)).astype(np.float32)
        codes = to_e4m3(w / wide)
        plain = bf16(signed(E4M3)[codes] * wide)
        scale = scale.astype(np.float32)
        if block == (0, 0):
            scale = scale.reshape(())
        tensors = {"weight": ("F8_E4M3", codes), kind: ("BF16", scale) if half else scale}
        return {**tensors, **({activation: np.float32(0.01)} if activation else {})}, plain

    return store


def packed(name, w, rng):
    bits, zeros = (8, True) if name.endswith("down_proj") else (4, False)
    codes, scale, zero, plain = integers(bf16(w), bits, 32, zeros, rng)
    scale = bf16(scale)
    plain = spread(scale, w.shape, (1, 32)) * (codes - spread(zero, w.shape, (1, 32)).astype(np.float32))
    tensors = {"weight_packed": stream(codes, bits), "weight_scale": ("BF16", scale), "weight_shape": np.array(w.shape, np.int64)}
    if zeros:
        whole = np.zeros((-(-zero.shape[0] * bits // 32) * 32 // bits, zero.shape[1]), np.uint32)
        whole[: zero.shape[0]] = zero
        tensors["weight_zero_point"] = np.ascontiguousarray(stream(np.ascontiguousarray(whole.T), bits).T)
    return tensors, plain


def uneven(bits, whole):
    """Codes of bits that do not divide a word, some in two words, or as many in each as fit whole."""
    def words(codes):
        if whole:
            each = 32 // bits
            codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each))).reshape(codes.shape[0], -1, each)
            return (codes << np.arange(each, dtype=np.uint32) * bits).sum(-1, dtype=np.uint32).view(np.int32)
        return stream(np.pad(codes, ((0, 0), (0, -codes.shape[1] % 32))), bits)[:, : -(-codes.shape[1] * bits // 32)]

    def store(name, w, rng):
        zeros = name.endswith("down_proj")
        codes, scale, zero, plain = integers(w, bits, 32, zeros, rng)
        tensors = {"weight_packed": words(codes), "weight_scale": scale.astype(np.float16), "weight_shape": np.array(w.shape, np.int64)}
        if zeros:
            tensors["weight_zero_point"] = np.ascontiguousarray(words(np.ascontiguousarray(zero.T)).T)
        return tensors, plain

    return store


def bytes_of_channels(name, w, rng):
    codes, scale, zero, plain = integers(w, 8, w.shape[1], False, rng)
    return {"weight": (codes.astype(np.int32) - 128).astype(np.int8), "weight_scale": scale}, plain


def fours(w, group, scale_of, unit):
    parts = w.reshape(w.shape[0], -1, group)
    stored, scale = scale_of(np.abs(parts).max(-1) / 6)
    scale = np.where(scale == 0, 1, scale)
    codes = nearest(E2M1, parts / scale[..., None], 8)
    plain = (signed(E2M1)[codes] * scale[..., None]).reshape(w.shape).astype(np.float32)
    codes = codes.reshape(w.shape)
    return codes[:, ::2] | codes[:, 1::2] << 4, stored, plain


def nvfp4(style):
    def store(name, w, rng):
        # Each matrix has a scale of its own over all.
        over = np.float32(np.abs(w).max() / 2688 * (1 + rng.random()))

        def scale_of(x):
            codes = to_e4m3(x / over)
            return codes, E4M3[codes] * over

        codes, scales, plain = fours(w, 16, scale_of, over)
        if style == "mlx":
            return {"weight": codes.view(np.uint32), "scales": scales, "global_scale": np.float32(over * 2688)}, plain
        scales = ("F8_E4M3", scales)
        if style == "modelopt":
            extra = {"weight_scale_2": over, "input_scale": np.float32(0.02)}
            return {"weight": codes, "weight_scale": scales, **extra}, plain
        extra = {"weight_global_scale": np.array([1 / over], np.float32), "input_global_scale": np.array([50], np.float32)}
        return {"weight_packed": codes, "weight_scale": scales, **extra}, plain

    return store


def mxfp4(name, w, rng):
    def scale_of(x):
        exponent = np.ceil(np.log2(x)).astype(np.int32)
        return (exponent + 127).astype(np.uint8), (2.0**exponent).astype(np.float32)

    codes, scales, plain = fours(w, 32, scale_of, 1)
    return {"weight_packed": codes, "weight_scale": scales}, plain


def groups(format, *parts, ignore=("lm_head",)):
    listed = {f"group_{i}": {"targets": targets, "weights": weights, "input_activations": None}
              for i, (targets, weights) in enumerate(parts)}
    return {"quant_method": "compressed-tensors", "format": format, "ignore": list(ignore), "config_groups": listed}


def weights(bits, kind="int", strategy="group", symmetric=True, group=32):
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": symmetric, "group_size": group}


# Name: the model, how a matrix is stored, what config.json says of it, and what is said elsewhere.
CASES = {
    "awq": (DENSE, awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
    "gptq": (DENSE, gptq(4, False, 1), {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}),
    "gptq-beside": (DENSE, gptq(4, True, 1), None, {"quantize_config.json": {"bits": 4, "group_size": 32, "damp_percent": 0.01,
                                                                          "desc_act": False, "sym": False, "true_sequential": True}}),
    "gptq-3bit": (DENSE, gptq(3, True, 1), {"quant_method": "gptq", "bits": 3, "group_size": 32, "desc_act": False, "sym": False,
                                          "checkpoint_format": "gptq"}),
    "gptq-8bit-order": (DENSE, gptq(8, True, 2, True), {"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": True,
                                                       "sym": False, "checkpoint_format": "gptq_v2"}),
    "fp8-blocks": (DENSE, fp8((64, 48)), {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                         "weight_block_size": [64, 48]}),
    "fp8-experts": (MIXTURE, fp8((32, 32), powers=True), {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                                                        "weight_block_size": [32, 32]}),
    "fp8-static": (DENSE, fp8((0, 0), "weight_scale", activation="input_scale"), {"quant_method": "fp8", "activation_scheme": "static"}),
    "packed": (DENSE, packed, groups("pack-quantized", (["re:.*down_proj$"], weights(8, symmetric=False)), (["Linear"], weights(4)))),
    "packed-3bit": (DENSE, uneven(3, False), groups("pack-quantized", (["re:.*down_proj$"], weights(3, symmetric=False)), (["Linear"], weights(3)))),
    "packed-6bit-whole": (DENSE, uneven(6, True),
                          groups("pack-quantized", (["re:.*down_proj$"], weights(6, symmetric=False)), (["Linear"], weights(6)))),
    "bytes": (DENSE, bytes_of_channels, groups("int-quantized", (["Linear"], weights(8, strategy="channel", group=None)))),
    "floats": (DENSE, fp8((1, 0), "weight_scale", half=True),
               groups("float-quantized", (["Linear"], weights(8, "float", "channel", group=None)))),
    "nvfp4-experts": (MIXTURE, nvfp4("compressed"), groups("nvfp4-pack-quantized", (["Linear"], weights(4, "float", "tensor_group", group=16)),
                                                         ignore=["lm_head", "re:.*mlp.gate$"])),
    "nvfp4-stacks": (MIXTURE, nvfp4("mlx"), {"group_size": 16, "bits": 4, "mode": "nvfp4"}),
    "nvfp4-modelopt": (DENSE, nvfp4("modelopt"), None, {"hf_quant_config.json": {
        "producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16,
                                                           "exclude_modules": ["lm_head"]}}}),
    "mxfp4": (DENSE, mxfp4, groups("mxfp4-pack-quantized", (["Linear"], weights(4, "float")))),
}


NAMES = {"uint32": "U32", "float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}


def save(path, tensors):
    """safetensors with the types that numpy does not have."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in sorted(tensors.items()):
        kind, array = value if isinstance(value, tuple) else (NAMES[np.asarray(value).dtype.name], np.asarray(value))
        if kind == "BF16":
            array = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def stacked(tensors):
    """Experts in stacks, as MLX's files have them."""
    whole, stacks = {}, {}
    for name, value in tensors.items():
        before, found, after = name.partition(".experts.")
        if found:
            stacks.setdefault(f"{before}.switch_mlp.{after.partition('.')[2]}", []).append(value)
        else:
            whole[name] = value
    return {**whole, **{name: np.stack(values) for name, values in stacks.items()}}


def matrices(weights):
    """Every tensor as original files have it: experts one by one."""
    for name, value in weights.items():
        if ".switch_mlp." in name:
            before, after = name.split(".switch_mlp.")
            for expert in range(value.shape[0]):
                yield f"{before}.experts.{expert}.{after}", value[expert], (name, expert)
        else:
            yield name, value, (name, None)


def confirm_awq(stored, settings, plain):
    """mlx-lm's own reader finds the same codes; it rounds biases to the type of the scales."""
    layers = {key: mx.array(value.view(np.uint32) if value.dtype == np.int32 else value) for key, value in stored.items() if not isinstance(value, tuple)}
    read, told = _transform_awq_weights(layers, settings)
    for key in [key for key in read if key.endswith(".scales")]:
        module = key.removesuffix(".scales")
        parts = [read[f"{module}.{part}"].astype(kind) for part, kind in [("weight", mx.uint32), ("scales", mx.float32), ("biases", mx.float32)]]
        error = np.abs(np.array(mx.dequantize(*parts, told["group_size"], told["bits"])) - plain[f"{module}.weight"])
        assert (error <= 2.0**-11 * np.repeat(np.abs(np.array(parts[2])), told["group_size"], 1)).all(), module


def make(out, name, row):
    base, store, settings, *files = row
    seed = sum(map(ord, name))
    mx.random.seed(seed)
    rng = np.random.default_rng(seed)
    model = build(base)
    weights = {key: np.array(value.astype(mx.float32)) for key, value in randomize(model, seed).items()}
    stored, plain = {}, {key: value.copy() for key, value in weights.items()}
    converted = bool(settings and "mode" in settings)
    for key, value, (source, expert) in matrices(weights):
        module, _, last = key.rpartition(".")
        router = module.endswith("mlp.gate")
        if value.ndim != 2 or "layers" not in key or router or (converted and expert is None):
            stored[key] = ("BF16", value)
            continue
        tensors, back = store(module, value, rng)
        stored.update({f"{module}.{part}": tensor for part, tensor in tensors.items()})
        if expert is None:
            plain[source] = back
        else:
            plain[source][expert] = back
    if settings and settings.get("quant_method") == "awq":
        confirm_awq(stored, settings, plain)
    plain = {key: mx.array(value) for key, value in plain.items()}
    load(model, plain)
    prompts = {p: [int(i) for i in rng.integers(0, VOCAB, n)] for p, n in LENGTHS.items()}
    golden, atol = record(model, plain, prompts, rng)
    config = {**base, **({"quantization" if converted else "quantization_config": settings} if settings else {})}
    folder = out / "quantizers" / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(json.dumps(config, indent=1))
    for file, content in (files[0] if files else {}).items():
        (folder / "model" / file).write_text(json.dumps(content, indent=1))
    save(folder / "model" / "model.safetensors", stacked(stored) if converted else stored)
    mx.save_safetensors(str(folder / "golden.safetensors"), {k: mx.array(v) for k, v in golden.items()})
    manifest = {"id": f"quantizer-{name}", "kind": "llm", "family": base["model_type"], "model_dir": "model", "golden": "golden.safetensors",
                "prompts": prompts, "chunk_size": CHUNK, "greedy": {}, "tolerance": {"f32_atol": atol, "f32_rtol": 1e-5}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    print(f"{name}: logits {float(golden['p2.full'].std()):.2f}, tolerance {atol:.1e}")
    return {"path": f"quantizers/{name}", "id": manifest["id"], "kind": "llm", "family": base["model_type"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the cases")
    parser.add_argument("names", nargs="*", help="rows of the table [default: all]")
    arguments = parser.parse_args()
    cases = [make(arguments.out, name, CASES[name]) for name in arguments.names or CASES]
    index = arguments.out / "index.json"
    old = json.loads(index.read_text()) if index.exists() else {"cases": []}
    old["cases"] = [case for case in old["cases"] if case["id"] not in {new["id"] for new in cases}] + cases
    index.write_text(json.dumps(old, indent=1))


if __name__ == "__main__":
    main()
