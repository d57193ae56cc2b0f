"""Seconds and memory of the whole command `erc-llm compare`, including the start of Python and writing the files.

The tables are random. Each measurement is a fresh process that runs the command as the shell does; `python -m
benchmarks comparison` prints this section alone.

Input: the number of utterances. Output: a section of the report.
Does not depend on: models, corpora.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.commands import command_line
from benchmarks.measure import Job, Result, resident_mb, run_alternating
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.errors import UserError
from erc_llm.predictions import Predictions, PredictionsInfo, write_predictions

SIZES = (1_328, 1_000_000)  # EmoryNLP's `original` test set, and a large one
LIMITS = {1_328: (5.0, None), 1_000_000: (120.0, 2_000.0)}  # upper limits: seconds and MB
DRAWS = 10_000
PER_DIALOGUE, PER_EPISODE = 10, 100
SPEAKERS = 30


def compare(rounds: int, on_run: Callable[[int, Job, Result], None] | None = None) -> Result:
    """Measure the command on two tables of each size."""
    jobs = [Job(f"{size:,}", "benchmarks.comparison:run", {"utterances": size}) for size in SIZES]
    results = run_alternating(jobs, rounds, on_run)
    return {
        "draws": DRAWS,
        "sizes": {
            name: {
                "seconds": median(run["seconds"] for run in runs),
                "seconds_rounds": [run["seconds"] for run in runs],
                "cpu_seconds": median(run["cpu_seconds"] for run in runs),
                "peak_mb": max(run["peak_mb"] for run in runs),
                "limits": LIMITS.get(size, (None, None)),
            }
            for size, (name, runs) in zip(SIZES, results.items(), strict=True)
        },
    }


def run(utterances: int, draws: int = DRAWS) -> Result:
    """One measurement, without drawing and writing the tables.

    Raises:
        UserError: The command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.parquet" for name in ("one", "other")]
        code = f"from benchmarks.comparison import write; write({utterances}, {[str(p) for p in paths]!r})"
        subprocess.run([sys.executable, "-c", code], check=True)  # a process of its own, so its memory is not counted
        return measure(command_line("compare", *paths, "--draws", draws, "--out", folder))


def measure(command: list[str]) -> Result:
    """Wall and CPU seconds of a command, and its peak resident memory in MB.

    Raises:
        UserError: The command failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{' '.join(command[3:5])} ended with exit code {process.returncode}: {errors[-500:]}")
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": resident_mb(usage)}


def write(utterances: int, paths: list[str]) -> None:
    """Write two tables of random predictions on the same random scenes, with every column that a comparison uses."""
    for number, path in enumerate(paths):
        write_predictions(_table(utterances, number), path)


def _table(n: int, number: int) -> Predictions:
    scenes, rng = np.random.default_rng(0), np.random.default_rng(number + 1)
    names = np.array(EMORYNLP.names, dtype=object)
    gold, speaker = scenes.integers(7, size=n), scenes.zipf(1.6, size=n) % SPEAKERS
    scores = rng.gumbel(size=(n, 7))
    scores[np.arange(n), gold] += rng.normal(1.0 + 0.1 * number, 1.0, size=n)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    history = scenes.integers(2000, size=n)
    info = PredictionsInfo(
        system=f"drawn {number}",
        labels=EMORYNLP.names,
        corpus_sha256="0" * 64,
        corpus_name="drawn",
        corpus_version="own",
        split="test",
        selection="selection",
        context="past",
    )
    return Predictions(
        info,
        dialogue_id=tuple(f"d{i // PER_DIALOGUE}" for i in range(n)),
        utterance_id=tuple(f"d{i // PER_DIALOGUE}_u{i % PER_DIALOGUE}" for i in range(n)),
        predicted=tuple(names[scores.argmax(axis=1)].tolist()),
        position=np.arange(n) % PER_DIALOGUE * 2,
        episode=tuple(f"e{i // PER_EPISODE}" for i in range(n)),
        scene_order=np.arange(n) // PER_DIALOGUE,
        speakers=tuple((f"speaker {i}",) for i in speaker.tolist()),
        text=tuple(f"what was said in line {i} of this long corpus, about as long as a line is" for i in range(n)),
        gold=tuple(names[gold].tolist()),
        previous_gold_same_speaker=tuple(names[scenes.integers(7, size=n)].tolist()),
        history_length=history,
        first_seen=history < 20,
        invalid=np.zeros(n, dtype=np.bool_),
        log_likelihoods=scores,
        probabilities=probabilities,
        label_mass=np.full(n, 0.9),
    )
