#!/usr/bin/env python3
"""Makes conformance cases: tiny random checkpoints and the logits of mlx-lm, in the layout of the recorded ones.

    pip install 'mlx[cpu]' mlx-lm
    python tools/make_case.py OUT [NAME ...]
    cargo xtask conformance --dir OUT

A family is added by a row in `tools/cases.py` or `tools/cases_recurrent.py`: a name and the `config.json` of a small checkpoint. A row may also say how
the original files of the family store what mlx-lm stores otherwise; then a second case, `NAME-original`, holds the same
weights in that layout, and mlx-lm's own conversion has confirmed it.
"""

import argparse
import importlib
import json
import math
import shutil
import sys
import types
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import bitlinear_layers
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import MODEL_ARCHITECTURE_REMAPPING, MODEL_REMAPPING

from cases import CASES as PLAIN
from cases_recurrent import CASES as RECURRENT

CASES = {**PLAIN, **RECURRENT}
VOCAB = 512
CHUNK = 16
# Long enough to leave every window and chunk of the table behind.
LENGTHS = {"p0": 17, "p1": 11, "p2": 75}
# Tokens that are generated at most.
STEPS = 24
KEPT = {"p0": 4, "p1": 4, "p2": 8}


def build(config):
    """A model of mlx-lm."""
    kind = config["model_type"]
    # One module of mlx-lm asks for a package that it then does not use.
    sys.modules.setdefault("hf_olmo", types.ModuleType("hf_olmo"))
    bitlinear_layers._bitlinear_kernel = ternary_product
    name = MODEL_ARCHITECTURE_REMAPPING.get((kind, *config.get("architectures", [])), MODEL_REMAPPING.get(kind, kind))
    module = importlib.import_module(f"mlx_lm.models.{name}")
    model = module.Model(module.ModelArgs.from_dict(json.loads(json.dumps(config))))
    if hasattr(model, "_dummy_tokenizer_ids"):
        # Rows of the real vocabulary, which a small one has not.
        model._dummy_tokenizer_ids = mx.array([i for i in model._dummy_tokenizer_ids.tolist() if i < config["vocab_size"]], mx.uint32)
    return model


def ternary_product(inputs, template, output_dtypes, **_):
    """What the Metal kernel of BitNet's layers computes, for it runs on no processor: four rows a byte, a quarter apart."""
    x, packed, scale = inputs
    codes = mx.concatenate([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=0).astype(mx.float32) - 1
    factor = 1 / scale if dict(template)["invert_weight_scales"] else scale
    return [(x @ codes.T * factor).astype(output_dtypes[0])]


def randomize(model, seed):
    """Weights under which every part of the model tells, rounded to bfloat16."""
    rng = np.random.default_rng(seed)

    def draw(name, old):
        if old.dtype == mx.uint32:
            return mx.array(rng.integers(0, 2**32, old.shape, dtype=np.uint32))
        if name.endswith(".signs"):
            return mx.array(rng.choice([-1.0, 1.0], old.shape).astype(np.float32))
        if name.endswith((".scales", ".biases")):
            # Codes of 2 bits behind them mean numbers near 0.
            table = 1.0 if "embed" in name else 1.0 / math.sqrt(128 * old.shape[-1])
            return mx.full(old.shape, table if name.endswith(".scales") else -1.5 * table).astype(mx.float16)
        if old.dtype == mx.uint8:
            # Codes 0, 1 and 2, four a byte.
            return mx.array(sum(rng.integers(0, 3, old.shape) << shift for shift in (0, 2, 4, 6)).astype(np.uint8))
        noise = rng.standard_normal(old.shape).astype(np.float32)
        if old.ndim < 2 or "norm" in name:
            # Norms stay near what they start as; biases and the like near 0.
            value = np.array(old.astype(mx.float32)) + 0.2 * noise
            if name.endswith("weight_scale"):
                value *= 0.1
        elif "embed" in name or ".wte" in name or ".wpe" in name:
            value = noise
        else:
            router = any(part in name for part in ("router", "gate.weight", "gate.gate"))
            value = noise * (3.0 if router else 1.2) / math.sqrt(old.shape[-1])
        return mx.array(value).astype(mx.bfloat16)

    weights = [(name, draw(name, value)) for name, value in tree_flatten(model.parameters())]
    model.update(tree_unflatten(weights))
    return dict(weights)


def quantize(model, bits, group):
    """Quantizes what mlx-lm would, with the same exceptions."""
    chosen = getattr(model, "quant_predicate", None) or (lambda path, module: True)

    def predicate(path, module):
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % group:
            return False
        answer = chosen(path, module)
        return {"group_size": group, "bits": 8} if isinstance(answer, dict) else answer

    nn.quantize(model, group, bits, class_predicate=predicate)
    return dict(tree_flatten(model.parameters()))


def is_float(value):
    return mx.issubdtype(value.dtype, mx.floating)


def load(model, weights):
    """Puts weights into a model, all floats as 32-bit ones."""
    wide = [(name, value.astype(mx.float32) if is_float(value) else value) for name, value in weights.items()]
    model.update(tree_unflatten(wide))
    mx.eval(model.parameters())


def run(model, ids, pieces):
    """The logits of a prompt that is fed in pieces through a fresh cache."""
    cache, parts, start = make_prompt_cache(model), [], 0
    for count in pieces:
        parts.append(model(mx.array([ids[start : start + count]]), cache=cache)[0].astype(mx.float32))
        mx.eval(parts[-1])
        start += count
    return np.array(mx.concatenate(parts))


def ways(count):
    before = count - 1
    chunks = [min(CHUNK, before - at) for at in range(0, before, CHUNK)]
    return {"full": [count], "decode": [1] * count, "chunk": chunks + [1]}


def record(model, weights, prompts, rng, only=None):
    """Golden arrays, and the error that an honest implementation may have."""
    golden, noise = {}, 0.0
    whole = (lambda ids: [1] * len(ids)) if only == "decode" else (lambda ids: [len(ids)])
    for name, ids in prompts.items():
        golden[f"{name}.ids"] = np.array(ids, np.int32)
        full = run(model, ids, whole(ids))
        golden[f"{name}.full"] = full[-KEPT[name] :]
        for way in () if only else ("decode", "chunk"):
            rows = run(model, ids, ways(len(ids))[way])[-4:]
            if np.abs(rows - full[-4:]).max() >= 1e-4:
                golden[f"{name}.{way}"] = rows
    def shake(value):
        return value.astype(mx.float32) * (1 + 2e-7 * mx.array(rng.standard_normal(value.shape).astype(np.float32)))

    load(model, {name: shake(value) if is_float(value) else value for name, value in weights.items()})
    for name, ids in prompts.items():
        noise = max(noise, float(np.abs(run(model, ids, whole(ids))[-KEPT[name] :] - golden[f"{name}.full"]).max()))
    load(model, weights)
    return golden, max(8 * noise, 1e-4)


def greedy(model, ids, pieces, least):
    """The likeliest tokens after a prompt, one after another, up to the first that is so by less than `least`."""
    cache, start, steps = make_prompt_cache(model), 0, {"tokens": [], "margin": [], "logprob": []}
    for count in pieces:
        row = model(mx.array([ids[start : start + count]]), cache=cache)[0, -1].astype(mx.float32)
        mx.eval(row)
        start += count
    while len(steps["tokens"]) < STEPS:
        logprobs = np.array(row - mx.logsumexp(row))
        second, first = np.argsort(logprobs)[-2:]
        margin = float(logprobs[first] - logprobs[second])
        if margin < least:
            break
        for key, value in (("tokens", int(first)), ("margin", margin), ("logprob", float(logprobs[first]))):
            steps[key].append(value)
        row = model(mx.array([[int(first)]]), cache=cache)[0, -1].astype(mx.float32)
    return steps


def write(out, name, config, weights, golden, manifest, metadata):
    folder = out / "models" / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(json.dumps(config, indent=1))
    mx.save_safetensors(str(folder / "model" / "model.safetensors"), weights, metadata)
    mx.save_safetensors(str(folder / "golden.safetensors"), {k: mx.array(v) for k, v in golden.items()})
    manifest = {"id": name, **manifest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return {"path": f"models/{name}", "id": name, "kind": "llm"}


def make(out, name, row, packed=None):
    config = {"vocab_size": VOCAB, **row["config"]} if "text_config" not in row["config"] else row["config"]
    seed = sum(map(ord, name))
    mx.random.seed(seed)
    rng = np.random.default_rng(seed)
    model = build(config)
    weights = randomize(model, seed)
    if packed:
        bits, group = packed
        weights = quantize(model, bits, group)
        name = f"{name}-{bits}bit-g{group}"
        config = {**config, "quantization": {"group_size": group, "bits": bits, "mode": "affine"}}
    # What mlx-lm makes of the stored weights; arrays of its own, for some models change them in place.
    copies = {key: mx.array(value) for key, value in weights.items()}
    used = model.sanitize(copies) if row.get("sanitized") else weights
    load(model, used)
    vocab = config.get("text_config", config).get("vocab_size", VOCAB)
    prompts = {p: [int(i) for i in rng.integers(0, vocab, n)] for p, n in LENGTHS.items()}
    only = row.get("only")
    golden, atol = record(model, used, prompts, rng, only)
    least, pieces = max(0.004, 4 * atol), (lambda ids: [1] * len(ids)) if only else (lambda ids: [len(ids)])
    # What is compared as a whole alone is not decoded as the reference does.
    texts = {} if only == "full" else {p: greedy(model, ids, pieces(ids), least) for p, ids in prompts.items()}
    if not only:
        chunked = greedy(model, prompts["p2"], ways(len(prompts["p2"]))["chunk"], least)
        texts["p2_chunked"] = {**chunked, "prefill_step_size": CHUNK}
    texts = {p: text for p, text in texts.items() if text["tokens"]}
    spread = float(golden["p2.full"].std())
    manifest = {"kind": "llm", "family": name, "model_dir": "model", "golden": "golden.safetensors", "prompts": prompts,
                "chunk_size": CHUNK, "greedy": texts, "tolerance": {"f32_atol": atol, "f32_rtol": 1e-5}}
    tokens = sum(len(text["tokens"]) for text in texts.values())
    print(f"{name}: logits {spread:.2f}, tolerance {atol:.1e}, {tokens} tokens")
    cases = [write(out, name, config, weights, golden, manifest, {"format": "mlx"})]
    if (original := row.get("original")) and not packed:
        stored = original(config, dict(weights))
        # Arrays of its own, for some models change them in place.
        given = {key: mx.array(value) for key, value in stored.items()}
        back = model.sanitize(given) if hasattr(model, "sanitize") else stored
        assert set(back) == set(used), sorted(set(back) ^ set(used))[:8]
        for key, value in used.items():
            assert mx.array_equal(back[key].astype(mx.float32), value.astype(mx.float32)), key
        cases.append(write(out, f"{name}-original", config, stored, golden, manifest, {"format": "pt"}))
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the cases")
    parser.add_argument("names", nargs="*", help="rows of the table [default: all]")
    parser.add_argument("--bits", type=int, help="quantize the weights")
    parser.add_argument("--group", type=int, default=32, help="numbers that share a scale [default: 32]")
    arguments = parser.parse_args()
    packed = (arguments.bits, arguments.group) if arguments.bits else None
    cases = []
    for name in arguments.names or CASES:
        try:
            cases += make(arguments.out, name, CASES[name], packed)
        except Exception as error:  # One row that mlx-lm refuses does not stop the others.
            print(f"{name}: {type(error).__name__}: {error}")
    index = arguments.out / "index.json"
    old = json.loads(index.read_text()) if index.exists() else {"cases": []}
    kept = [case for case in old["cases"] if case["id"] not in {new["id"] for new in cases}]
    index.write_text(json.dumps({**old, "cases": kept + cases}, indent=1))


if __name__ == "__main__":
    main()
