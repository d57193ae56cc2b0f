"""Large tables: time and memory of `evaluate` and `compare` on a million rows, in one file and in parts.

The rows are synthetic: distributions around a drawn gold label, ten lines a dialogue, ten dialogues an episode.

Input: a number of rows. Output: a Markdown table.
Does not depend on: models, what the commands print.

    python -m benchmarks.large_tables --rows 1000000
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.outcome import CannotDo, exit_code
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.predictions import Predictions, PredictionsInfo, write_predictions
from erc_llm.predictions.parts import write_index

_SPEAKERS = 200
_PARTS = 40


def synthetic(rows: int, seed: int) -> Predictions:
    """A table of one system; tables of other seeds have the same targets and other predictions."""
    corpus, draw = np.random.default_rng(0), np.random.default_rng(seed)
    labels = EMORYNLP.names
    gold = corpus.choice(len(labels), rows, p=[0.28, 0.1, 0.3, 0.09, 0.08, 0.07, 0.08])
    speaker = corpus.integers(_SPEAKERS, size=rows)
    scores = draw.normal(size=(rows, len(labels)))
    scores[np.arange(rows), gold] += 1
    probabilities = np.exp(scores)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    columns: dict[str, Any] = {
        "dialogue_id": [f"talk-{i // 10}" for i in range(rows)],
        "utterance_id": [f"u{i % 10}" for i in range(rows)],
        "predicted": [labels[k] for k in probabilities.argmax(axis=1)],
        "position": np.arange(rows) % 10,
        "episode": [f"e{i // 100}" for i in range(rows)],
        "scene_order": np.arange(rows) // 10,
        "speakers": [[f"speaker {k}"] for k in speaker],
        "text": [f"What speaker {k} says in the line with the number {i}." for i, k in enumerate(speaker)],
        "gold": [labels[k] for k in gold],
        "log_likelihoods": np.log(probabilities),
        "probabilities": probabilities,
        "label_mass": np.ones(rows),
    }
    info = PredictionsInfo(
        system=f"synthetic-{seed}",
        labels=labels,
        corpus_sha256="0" * 64,
        corpus_name="synthetic",
        corpus_version="own",
        split="all",
    )
    return Predictions.from_columns(info, columns)


def write_parts(table: Predictions, folder: Path) -> Path:
    """Write a table as a folder of parts, as a sharded prediction does."""
    columns = table.columns()
    names = []
    for part in range(_PARTS):
        rows = slice(part * len(table) // _PARTS, (part + 1) * len(table) // _PARTS)
        names.append(f"part-{part:05d}.parquet")
        of_part = Predictions.from_columns(table.info, {name: values[rows] for name, values in columns.items()})
        write_predictions(of_part, folder / names[-1])
    write_index(folder, names, len(table), len(table) // 10, 0)
    return folder


def measure(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of one command.

    Raises:
        CannotDo: It failed.
    """
    began, peak = time.monotonic(), 0.0
    with subprocess.Popen([sys.executable, "-m", "erc_llm", *arguments], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _peak_mb(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise CannotDo(f"`erc-llm {' '.join(arguments)}` ended with {process.returncode}")
    return time.monotonic() - began, peak


def _peak_mb(process: int) -> float:
    """Largest resident memory of a process so far; the kernel counts from the start of its program."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1e3 if found else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 3 if a command fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_tables", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each table; default: 1000000")
    options = parser.parse_args(arguments)

    def work() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            made: dict[str, list[str]] = {"one file": [], "parts": []}
            for seed in (1, 2):
                table = synthetic(options.rows, seed)
                write_predictions(table, folder / f"{seed}.parquet")
                made["one file"].append(f"{folder}/{seed}.parquet")
                made["parts"].append(str(write_parts(replace(table), folder / str(seed))))
            print(f"{options.rows:,} rows\n\n| command | tables | seconds | peak MB |\n| --- | --- | ---: | ---: |")
            for kind, (first, second) in made.items():
                commands = {"evaluate": [first], "compare": [f"a={first}", f"b={second}", "--out", f"{folder}/report"]}
                for command, given in commands.items():
                    seconds, peak = measure([command, *given])
                    print(f"| `{command}` | {kind} | {seconds:.0f} | {peak:,.0f} |", flush=True)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
