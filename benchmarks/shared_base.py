"""Several adapters on one base model: loaded one by one, each with a base of its own, against sharing one.

Both sides answer about one scene with every adapter, twice, so that switching is counted.

Input: runs on one base model. Output: a Markdown table of seconds and peak memory, medians of alternating rounds.
Does not depend on: what the adapters have learned.

    python -m benchmarks.shared_base RUN RUN RUN
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.measure import Job, Result, peak_mb, ratio, run_alternating
from benchmarks.outcome import exit_code

SHARED, SEPARATE = "one base, shared", "a base each"


def compare(runs: Sequence[str], rounds: int) -> dict[str, list[Result]]:
    """Measure both sides, each in a fresh process per round."""
    jobs = [
        Job(name, "benchmarks.shared_base:answer", {"runs": list(runs), "share": name == SHARED})
        for name in (SHARED, SEPARATE)
    ]
    return run_alternating(jobs, rounds)


def answer(runs: Sequence[str], share: bool) -> Result:
    """Load the adapters and answer about a scene of the sample corpus with each, twice."""
    from erc_llm.corpus import read_sample
    from erc_llm.predictor import Predictor, load

    scene = read_sample().split("test")[0]
    began = time.perf_counter()
    predictors: list[Predictor] = []
    for run in runs:
        beside = predictors[0] if share and predictors else None
        predictors.append(load(run, "none", prior="none", calibration="none", decide="probable", beside=beside))
    loaded = time.perf_counter() - began
    for _ in range(2):
        for predictor in predictors:
            predictor.predict(scene)
    seconds = time.perf_counter() - began
    return {"loading": loaded, "answering": seconds - loaded, "peak_mb": peak_mb(predictors[0].loaded.device)}


def as_markdown(found: dict[str, list[Result]]) -> str:
    """The table."""
    lines = ["| | loading, s | answering, s | peak MB |", "| --- | ---: | ---: | ---: |"]
    for name, runs in found.items():
        cells = [f"{median(run[key] for run in runs):.1f}" for key in ("loading", "answering")]
        lines.append(f"| {name} | {' | '.join(cells)} | {max(run['peak_mb'] for run in runs):.0f} |")
    times: dict[str, list[Any]] = {name: [run["loading"] for run in runs] for name, runs in found.items()}
    return (
        "\n".join(lines) + f"\n\nLoading takes {ratio(times[SEPARATE], times[SHARED])} times as long with a base each."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_base", description=__doc__)
    parser.add_argument("runs", nargs="+", help="runs on one base model")
    parser.add_argument("--pairs", type=int, default=3, help="number of rounds")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    runs = [str(Path(run).resolve()) for run in options.runs]
    return exit_code(lambda: console.print(as_markdown(compare(runs, options.pairs)), markup=False, soft_wrap=True))


if __name__ == "__main__":
    sys.exit(main())
