#!/usr/bin/env python3
"""Measures MLXEngine against other engines, turn by turn in one run, and prints a table in Markdown.

    cargo build --release
    benches/peers.py --model MODELS/mlx-4bit \\
        --llama-bench LLAMA/bin/llama-bench --gguf MODELS/Q4_0.gguf \\
        --openvino-python OV/bin/python --openvino MODELS/ov-int4 > table.md

A peer whose options are not given is left out. Equal weights on both sides: a checkpoint made from a GGUF file, beside that file
(`--model smollm2 --gguf smollm2/original.gguf --weights Q4_0`).

In a round every engine runs once, with each number of threads, bound to as many cores; a figure is an engine's best round
(noise only slows), a ratio the median over the rounds of ours to the peer's. `busy` is how many cores other programs used
meanwhile: where it is above 0.1, nothing here means much, and the run is to be repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# What the project wants at least: the ratio to a peer by kind of test, with and without AMX.
WANTED = {
    ("llama.cpp", "tg"): {"amx": 1.7, "plain": 1.3},
    ("llama.cpp", "tg@"): {"amx": 1.5, "plain": 1.5},
    ("llama.cpp", "pp"): {"amx": 5.0, "plain": 2.3},
    ("OpenVINO", "tg@"): {"amx": 1.3, "plain": 1.3},
    ("OpenVINO", "pp"): {"amx": 2.5, "plain": 1.2},
}
WANTED_OF_MEMORY = 0.9
WANTED_LONG_PROMPT = 0.8
WANTED_BATCH_OF_8 = 4.0
# Flags of a processor that kernels choose by.
FLAGS = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512vbmi", "avx512_bf16", "amx_tile",
         "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"]


def numbers(text):
    return [int(part) for part in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ours", default="target/release/mlxengine", metavar="PROGRAM", help="ours [%(default)s]")
    add("--model", required=True, metavar="DIR", help="the checkpoint that ours runs")
    add("--precision", default="fast", choices=["exact", "fast"], help="how ours computes [%(default)s]")
    add("--llama-bench", metavar="PROGRAM", help="llama.cpp's llama-bench")
    add("--gguf", metavar="FILE", help="the model that llama.cpp runs")
    add("--weights", metavar="NAME", help="what to call its weights [the file's name]")
    add("--openvino-python", metavar="PROGRAM", help="a Python that has openvino_genai")
    add("--openvino", metavar="DIR", help="the model that OpenVINO GenAI runs")
    add("-t", "--threads", type=numbers, default=[1, 2], metavar="LIST", help="numbers of threads [1,2]")
    add("-p", "--prompts", type=numbers, default=[512, 4096], metavar="LIST", help="prompts to read [512,4096]")
    add("-n", "--generate", type=int, default=128, metavar="N", help="tokens to write [%(default)s]")
    add("-d", "--depths", type=numbers, default=[0, 4096], metavar="LIST", help="tokens read before [0,4096]")
    add("-b", "--batches", type=numbers, default=[1, 8], metavar="LIST", help="sequences of ours together [1,8]")
    add("-r", "--repetitions", type=int, default=1, metavar="N", help="measurements of a test in a round [%(default)s]")
    add("--rounds", type=int, default=5, metavar="N", help="[%(default)s]")
    add("--json", metavar="FILE", help="write all figures there as well")
    # This program, run by the Python of OpenVINO.
    add("--as-openvino", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for one, other in [("llama_bench", "gguf"), ("openvino_python", "openvino")]:
        if not options.as_openvino and bool(getattr(options, one)) != bool(getattr(options, other)):
            flags = ["--" + name.replace("_", "-") for name in (one, other)]
            parser.error(f"{flags[0]} and {flags[1]} belong together")
    return options


def test_name(prompt=0, generated=0, depth=0, batch=1):
    name = f"pp{prompt}" if prompt else f"tg{generated}"
    return name + (f"b{batch}" if batch > 1 else "") + (f"@{depth}" if depth else "")


def output(command, threads, **environment):
    """What a command prints, run on as many cores as it has threads: the last ones, for the first has most interrupts."""
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    bind = lambda: os.sched_setaffinity(0, cores)
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), **environment)
    done = subprocess.run(command, env=env, preexec_fn=bind, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def joined(values):
    return ",".join(map(str, values))


class Ours:
    name = "ours"

    def __init__(self, o):
        self.command = [o.ours, "bench", "--json", "--model", o.model, "--precision", o.precision, "-r", str(o.repetitions)]
        self.o = o

    def run(self, threads):
        o, rates = self.o, {}
        prompts = ["-p", joined(o.prompts), "-n", "0"]
        answers = ["-p", "0", "-n", str(o.generate), "-d", joined(o.depths), "-b", joined(o.batches)]
        for tests in prompts, answers:
            for line in output([*self.command, "-t", str(threads), *tests], threads):
                rates[line["metric"]] = max(line["samples"])
                self.facts = line
                if line["int8_gop_s"] is not None:
                    rates["int8"] = line["int8_gop_s"]
                if line["memory_fraction"] is not None:
                    rates[line["metric"], "memory"] = line["memory_fraction"] * max(line["samples"]) / line["tok_s"]
        return rates


class Llama:
    def __init__(self, o):
        weights = o.weights or os.path.splitext(os.path.basename(o.gguf))[0]
        self.name, self.o = f"llama.cpp {weights}", o

    def run(self, threads):
        o, rates = self.o, {}
        command = [o.llama_bench, "-m", o.gguf, "-t", str(threads), "-r", str(o.repetitions), "-o", "jsonl"]
        prompts = ["-p", joined(o.prompts), "-n", "0"]
        answers = ["-p", "0", "-n", str(o.generate), "-d", joined(o.depths)]
        for tests in prompts, answers:
            for line in output(command + tests, threads, OMP_WAIT_POLICY="active"):
                name = test_name(line["n_prompt"], line["n_gen"], line.get("n_depth", 0))
                rates[name] = max(line["samples_ts"])
        return rates


class OpenVino:
    def __init__(self, o):
        self.name, self.o = f"OpenVINO {os.path.basename(os.path.normpath(o.openvino))}", o

    def run(self, threads):
        o = self.o
        command = [o.openvino_python, os.path.abspath(__file__), "--as-openvino", "--model", o.openvino, "-t", str(threads),
                   "-p", joined(o.prompts), "-n", str(o.generate), "-d", joined(o.depths), "-r", str(o.repetitions)]
        return {line["metric"]: line["tok_s"] for line in output(command, threads, HF_HUB_OFFLINE="1")}


def as_openvino(o):
    """The part that runs where openvino_genai is: one line a test."""
    import numpy
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(
        o.model, "CPU", INFERENCE_NUM_THREADS=o.threads[0], PERFORMANCE_HINT="LATENCY", ATTENTION_BACKEND="PA")
    random = numpy.random.default_rng(1)

    def measure(prompt, generated):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = generated
        config.ignore_eos, config.do_sample = True, False
        ids = random.integers(1000, 7000, (1, prompt)).astype(numpy.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids)))
        return pipeline.generate(inputs, config).perf_metrics

    measure(max(o.prompts), 4)
    for prompt in o.prompts:
        rates = [1e3 * prompt / measure(prompt, 2).get_ttft().mean for _ in range(o.repetitions)]
        print(json.dumps({"metric": test_name(prompt), "tok_s": max(rates)}), flush=True)
    for depth in o.depths:
        # The first token comes with the prompt; the time of the others is their mean.
        rates = [1e3 / measure(max(2, depth), o.generate + 1).get_tpot().mean for _ in range(o.repetitions)]
        print(json.dumps({"metric": test_name(0, o.generate, depth), "tok_s": max(rates)}), flush=True)


def processor():
    facts = {}
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    has = (facts.get("flags") or facts.get("Features") or "").split()
    return facts.get("model name", "unknown processor"), [flag for flag in FLAGS if flag in has]


def busy_seconds():
    """Seconds that all cores together have worked, and those of this program's children."""
    with open("/proc/stat") as lines:
        user, nice, system, _, _, interrupts, soft = map(int, lines.readline().split()[1:8])
    own = os.times()
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK"), own.children_user + own.children_system


def measure(engines, o):
    """Rates by threads, test and engine: one a round. And how busy others kept the machine."""
    rates, busy = {}, []
    for number in range(o.rounds):
        for threads in o.threads:
            for engine in engines:
                begun, (all_before, own_before) = time.time(), busy_seconds()
                try:
                    got = engine.run(threads)
                except (RuntimeError, OSError) as error:
                    print(f"{engine.name}: {error}", file=sys.stderr)
                    continue
                all_after, own_after = busy_seconds()
                others = max(0.0, (all_after - all_before - own_after + own_before) / (time.time() - begun))
                busy.append(others)
                said = ", ".join(f"{test} {rate:.1f}" for test, rate in got.items() if isinstance(test, str))
                print(f"round {number + 1} {engine.name}, {threads} thread(s): {said}; busy {others:.2f}", file=sys.stderr)
                for test, rate in got.items():
                    rates.setdefault((threads, test), {}).setdefault(engine.name, {})[number] = rate
    return rates, statistics.median(busy) if busy else 0.0


def ratio(ours, theirs):
    both = [ours[number] / theirs[number] for number in ours if number in theirs]
    return statistics.median(both) if both else None


def with_wish(value, wanted, form="{:.2f}"):
    if value is None:
        return "–"
    return form.format(value) + (f" (wanted {form.format(wanted)})" if wanted else "")


def wanted(engine, test, amx):
    kind = test[:2] + ("@" if "@" in test else "")
    return WANTED.get((engine.split()[0], kind), {}).get("amx" if amx else "plain")


def table(engines, rates, amx):
    peers = [engine.name for engine in engines[1:]]
    yield "| threads | test | ours, tok/s | of the memory's speed |" + "".join(f" {p}, tok/s | ours to it |" for p in peers)
    yield "|---:|---|---:|---:|" + "---:|---:|" * len(peers)
    for (threads, test), by in rates.items():
        if not isinstance(test, str) or test == "int8" or "ours" not in by:
            continue
        memory = rates.get((threads, (test, "memory")), {}).get("ours")
        wish = WANTED_OF_MEMORY if "@" not in test and "b" not in test else None
        cells = [str(threads), test, f"{max(by['ours'].values()):.1f}",
                 with_wish(max(memory.values()), wish, "{:.0%}") if memory else "–"]
        for peer in peers:
            theirs = by.get(peer)
            cells.append(f"{max(theirs.values()):.1f}" if theirs else "–")
            cells.append(with_wish(ratio(by["ours"], theirs), wanted(peer, test, amx)) if theirs else "–")
        yield "| " + " | ".join(cells) + " |"


def own_ratios(o, rates):
    """What is wanted of ours alone."""
    def compare(threads, test, base, words, wish):
        over, under = (rates.get((threads, name), {}).get("ours") for name in (test, base))
        if over and under and test != base:
            yield f"- {words}, {threads} thread(s): {with_wish(ratio(over, under), wish)}"

    for threads in o.threads:
        integers = rates.get((threads, "int8"), {}).get("ours")
        if integers:
            low, high = min(integers.values()), max(integers.values())
            yield f"- 8-bit integers, {threads} thread(s): {low:.0f} to {high:.0f} GOP/s, by round"
        short, long = min(o.prompts), max(o.prompts)
        words = f"prompt of {long} to one of {short}"
        yield from compare(threads, test_name(long), test_name(short), words, WANTED_LONG_PROMPT)
        for batch in o.batches:
            wish = WANTED_BATCH_OF_8 if batch == 8 else None
            words = f"{batch} sequences together to one"
            yield from compare(threads, test_name(0, o.generate, 0, batch), test_name(0, o.generate), words, wish)


def main():
    o = arguments()
    if o.as_openvino:
        return as_openvino(o)
    engines = [Ours(o)]
    if o.gguf:
        engines.append(Llama(o))
    if o.openvino:
        engines.append(OpenVino(o))
    rates, busy = measure(engines, o)
    name, flags = processor()
    print(f"{name}, {os.cpu_count()} cores: {' '.join(flags)}. Others used {busy:.2f} cores meanwhile.\n")
    print("\n".join(table(engines, rates, "amx_bf16" in flags)))
    print()
    print("\n".join(own_ratios(o, rates)))
    facts = getattr(engines[0], "facts", None)
    if facts:
        print(f"- load {facts['load_ms']} ms, first token {facts['first_token_ms']} ms after the start of a process")
    if o.json:
        flat = [{"threads": threads, "test": test, "rates": {e: list(r.values()) for e, r in by.items()}}
                for (threads, test), by in rates.items() if isinstance(test, str)]
        with open(o.json, "w") as file:
            json.dump({"processor": name, "flags": flags, "busy": busy, "tests": flat}, file, indent=1)


if __name__ == "__main__":
    main()
