#!/usr/bin/env python3
"""What tests of the GGUF reader rest on: blocks of every encoding with the numbers that the package `gguf` reads from them, and
small whole files.

usage: tools/make_gguf_tables.py        needs: pip install numpy gguf safetensors
"""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFWriter, quants
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Name, bytes of a block, and where its half floats lie.
BLOCKS = {
    "Q4_0": (18, [0]), "Q4_1": (20, [0, 2]), "Q5_0": (22, [0]), "Q5_1": (24, [0, 2]), "Q8_0": (34, [0]),
    "Q2_K": (84, [80, 82]), "Q3_K": (110, [108]), "Q4_K": (144, [0, 2]), "Q5_K": (176, [0, 2]), "Q6_K": (210, [208]),
    "IQ4_NL": (18, [0]), "IQ4_XS": (136, [0]), "MXFP4": (17, []),
}


def table():
    rng, arrays = np.random.default_rng(7), {}
    for name, (size, halves) in BLOCKS.items():
        blocks = rng.integers(0, 256, (3, size), dtype=np.uint8)
        for at in halves:
            # One ordinary, one subnormal, one negative.
            blocks[:, at:at + 2] = np.array([0.0123, 3e-7, -41.5], np.float16)[:, None].view(np.uint8)
        if name == "MXFP4":
            blocks[:, 0] = [0, 1, 130]
        arrays[f"{name}.blocks"] = blocks
        arrays[f"{name}.numbers"] = quants.dequantize(blocks, Type[name]).astype(np.float32)
    # The package does not read Q8_K, an encoding of intermediate results: a float, 256 signed bytes, 16 sums.
    blocks = rng.integers(0, 256, (1, 292), dtype=np.uint8)
    blocks[:, :4] = np.array([0.37], np.float32).view(np.uint8)
    arrays["Q8_K.blocks"] = blocks
    arrays["Q8_K.numbers"] = np.float32(0.37) * blocks[:, 4:260].view(np.int8).astype(np.float32)
    save_file(arrays, ROOT / "crates/tensor/tests/gguf_blocks.safetensors")


def seed(name, fill):
    path = ROOT / "fuzz/seeds" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def all_values(writer):
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -5)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -7)
    writer.add_uint64("u64", 1 << 40)
    writer.add_int64("i64", -(1 << 40))
    writer.add_float32("f32", 1e-5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "żółw")
    writer.add_array("integers", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("truths", [True, False])
    writer.add_array("texts", ["a", "", "ß"])
    writer.add_tensor("plain", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("half", np.arange(4, dtype=np.float16))
    writer.add_tensor("coded", quants.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), Type.Q8_0), raw_dtype=Type.Q8_0)


def model(pieces):
    def fill(writer):
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(32)
        writer.add_head_count(2)
        writer.add_head_count_kv(1)
        writer.add_rope_dimension_count(16)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model("llama" if pieces else "gpt2")
        writer.add_token_list(["<unk>", "<s>", "</s>", "<0x41>", "a", "b", "ab", "▁ab", "▁"])
        writer.add_token_types([2, 3, 3, 6, 1, 1, 1, 1, 1])
        if pieces:
            writer.add_token_scores([0, 0, 0, 0, -5, -6, -1, -2, -7])
        else:
            writer.add_tokenizer_pre("qwen2")
            writer.add_token_merges(["a b", "▁ ab"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
        rng = np.random.default_rng(3)
        matrix = lambda rows, kind: (quants.quantize(rng.normal(size=(rows, 32)).astype(np.float32), kind), kind)
        for name, rows, kind in (("token_embd", 9, Type.Q8_0), ("blk.0.attn_q", 32, Type.Q4_0), ("blk.0.attn_k", 16, Type.Q4_1),
                                 ("blk.0.attn_v", 16, Type.Q5_0), ("blk.0.attn_output", 32, Type.Q5_1), ("blk.0.ffn_gate", 32, Type.F16),
                                 ("blk.0.ffn_up", 32, Type.BF16), ("blk.0.ffn_down", 32, Type.Q8_0)):
            data, kind = matrix(rows, kind)
            writer.add_tensor(f"{name}.weight", data, raw_dtype=None if kind == Type.F16 else kind)
        for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
            writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    return fill


table()
seed("gguf_header/values.gguf", all_values)
seed("gguf_header/empty.gguf", lambda writer: None)
seed("gguf_model/bytes.gguf", model(False))
seed("gguf_model/pieces.gguf", model(True))
