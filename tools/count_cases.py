#!/usr/bin/env python3
"""Counts the conformance cases that compare each type of model with mlx-lm: rows of the tables here, and recorded ones.

    pip install 'mlx[cpu]' mlx-lm
    python tools/count_cases.py [DIR ...] > crates/models/src/families/cases.txt

`DIR` has recorded cases, as `cargo xtask conformance --dir` takes them.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from mlx_lm.utils import MODEL_ARCHITECTURE_REMAPPING

from cases import CASES as PLAIN
from cases_recurrent import CASES as RECURRENT


def kind(config):
    of = config["model_type"]
    return MODEL_ARCHITECTURE_REMAPPING.get((of, *config.get("architectures", [])), of)


def recorded(folder):
    index = json.loads((folder / "index.json").read_text())
    files = (folder / case["path"] / "model" / "config.json" for case in index["cases"])
    return (json.loads(file.read_text()) for file in files if file.exists())


def main():
    configs = [row["config"] for row in {**PLAIN, **RECURRENT}.values()]
    for folder in sys.argv[1:]:
        configs.extend(recorded(Path(folder)))
    for name, count in sorted(Counter(map(kind, configs)).items()):
        print(name, count)


if __name__ == "__main__":
    main()
