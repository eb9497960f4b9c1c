"""Records what mlx-lm finds of the demo-chat checkpoints: perplexities, likelihoods of endings, and answers that are right to
the letter in every quantization mode. The tests of the testkit compare with them.

    python tools/make_evaluation.py ../shared/models crates/testkit/cases/evaluation.json

Needs `pip install "mlx[cpu]" mlx-lm`. Weights are cast to float32, as the engine computes in `Precision::Exact`; quantized
ones are rounded from the bf16 checkpoint as `mlx_lm convert` does.
"""

import argparse
import json
import sys
import types
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm import load
from mlx_lm.generate import generate_step
from mlx_lm.perplexity import eval_ppl
from mlx_lm.tuner.datasets import ChatDataset, TextDataset

# Every so many of the test chats whose answer has to be right to the letter.
EVERY = 12
MODES = [("affine", bits, 32) for bits in (2, 3, 4, 5, 6, 8)]
MODES += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]

QUESTIONS = [
    ("What is the capital of France?", ["The capital of France is Paris.", "The capital of France is Rome.", "I like tea."], 0),
    ("What is the capital of Japan?", ["The capital of Japan is Paris.", "The capital of Japan is Tokyo."], 1),
    ("What is 3 + 4?", ["3 + 4 = 8", "3 + 4 = 7", "3 + 4 = 12"], 1),
    ("What is the opposite of hot?", ["The opposite of hot is cold.", "The opposite of hot is warm.", "No."], 0),
    ("Count from one to five.", ["Five.", "1, 2, 3, 4, 5", "One, two, three, four, five."], 2),
    ("What colour is the sky?", ["The sky is green.", "The sky is blue."], 1),
    ("How many days has a week?", ["A week has seven days.", "A week has nine days.", "x"], 0),
]
TEXTS = [
    ("The capital of France is", [" Paris.", " a cat.", " Rome, and the capital of Italy is Rome."], 0),
    ("Once upon a time there was a little", [" fox", " dog named Tom.", "!"], 1),
]


def endings():
    """mlx_lm.evaluate's scores. Of lm_eval it needs only a base class and a decorator."""
    base = types.ModuleType("lm_eval.api.model")
    base.LM = object
    registry = types.ModuleType("lm_eval.api.registry")
    registry.register_model = lambda *names: lambda cls: cls
    for name in ("lm_eval", "lm_eval.api"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules.setdefault("lm_eval.api.model", base)
    sys.modules.setdefault("lm_eval.api.registry", registry)
    from mlx_lm.evaluate import MLXLM, chat_template_fn

    # mlx-lm lets models think unless it is told; the engine tells a template nothing.
    MLXLM.apply_chat_template = chat_template_fn(enable_thinking=False)
    return MLXLM


def as_f32(model):
    to_f32 = lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x
    model.update(tree_map(to_f32, model.parameters()))
    return model


def likelihoods(scorer, questions, chat):
    scorer.use_chat_template = chat
    rows = []
    for context, choices, answer in questions:
        shown = scorer.apply_chat_template([{"role": "user", "content": context}]) if chat else context
        requests = [types.SimpleNamespace(args=(shown, choice)) for choice in choices]
        found = scorer.loglikelihood(requests)
        by_length = [logprob / len(choice) for (logprob, _), choice in zip(found, choices)]
        sums = [logprob for logprob, _ in found]
        rows.append(
            {
                "context": context,
                "choices": choices,
                "answer": answer,
                "chat": chat,
                "logprobs": sums,
                "greedy": [bool(greedy) for _, greedy in found],
                "likeliest": sums.index(max(sums)),
                "likeliest_by_length": by_length.index(max(by_length)),
            }
        )
    return rows


def perplexity(model, data, length):
    data = mx.array(data[: len(data) // length * length]).reshape(-1, length)
    ppl, error = eval_ppl(model, data)
    return {"sequence_length": length, "samples": data.shape[0], "perplexity": ppl, "standard_error": error}


def right(model, tokenizer, chats):
    """How many of the last answers are right to the letter."""
    count = 0
    for chat in chats:
        prompt = tokenizer.apply_chat_template(
            chat["messages"][:-1], add_generation_prompt=True, return_dict=False, enable_thinking=False
        )
        answer = []
        for token, _ in generate_step(mx.array(prompt), model, max_tokens=120):
            if token in tokenizer.eos_token_ids:
                break
            answer.append(token)
        count += tokenizer.decode(answer) == chat["messages"][-1]["content"]
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    path = arguments.models / "demo-chat"
    rows = [json.loads(line) for line in (path / "data/test.jsonl").open()]
    scorer = endings()(str(path))
    model, tokenizer = as_f32(scorer._model), scorer.tokenizer
    mx.eval(model.parameters())
    plain = [row for row in rows if set(row) == {"messages", "category", "exact"}]
    chats = ChatDataset(plain[:24], tokenizer)
    texts = TextDataset([{"text": row["messages"][-1]["content"]} for row in plain[:60]], tokenizer)
    tokens = lambda dataset: [token for row in dataset for token in dataset.process(row)[0]]
    exact = [row for row in plain if row["exact"]][::EVERY]
    recorded = {
        "perplexity": {
            "messages": perplexity(model, tokens(chats), 64),
            "text": perplexity(model, tokens(texts), 48),
        },
        "questions": likelihoods(scorer, QUESTIONS, True) + likelihoods(scorer, TEXTS, False),
        "chats": {"every": EVERY, "count": len(exact), "right": {"bf16": right(model, tokenizer, exact)}},
    }
    write = lambda: arguments.output.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
    write()
    for mode, bits, group in MODES:
        quantized, tokenizer = load(str(path))
        nn.quantize(quantized, group_size=group, bits=bits, mode=mode)
        name = f"affine{bits}" if mode == "affine" else mode
        recorded["chats"]["right"][name] = right(as_f32(quantized), tokenizer, exact)
        write()


if __name__ == "__main__":
    main()
