"""The first GPU: everything that was not measured without one, as one report within a budget of time.

Parts run in processes of their own, in the order of their importance. What a card cannot do is skipped with its reason,
and so is what is left when the time is over; a part that ends in any other way has failed, and the exit code is 1. The
base model has random weights at LLaMA-2-7B's shape; with `--dry` a tiny one, on the CPU: it shows that the script runs.

Input: a scratch folder (14 GB), a corpus. Output: a JSON file and a table.
Does not depend on: a network.

    benchmarks/gpu.sh --out gpu.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu_parts import Place
from benchmarks.measure import Job, JobError, Result, run_job
from benchmarks.outcome import CannotDo, exit_code
from erc_llm.files import write_text

PARTS = "benchmarks.gpu_parts"
_WITHOUT_RESULT = {"skipped", "failed"}


def measure(place: Place, minutes: float, console: Console) -> Result:
    """Run the parts until the time is over."""
    ends = time.monotonic() + 60 * minutes
    report: Result = {"dry": place.dry, "minutes": minutes, "parts": {}}

    def part(name: str, function: str, **arguments: Any) -> bool:
        """Run a part in a process of its own; whether it gave a result."""
        began = time.monotonic()
        if began > ends:
            report["parts"][name] = {"skipped": "the time is over"}
            return False
        try:
            found = run_job(Job(function, f"{PARTS}:{function}", {"place": place.as_dict(), **arguments}))
        except JobError as error:
            found = {"skipped" if error.exit_code == CannotDo.exit_code else "failed": str(error)}
        if found.get("equal") is False:
            found |= {"failed": f"not equal: {as_words(found)}"}
        report["parts"][name] = found | {"took": time.monotonic() - began}
        console.print(f"{name}: {as_words(found)}", highlight=False, markup=False, soft_wrap=True)
        return not found.keys() & _WITHOUT_RESULT

    if not (part("device", "device") and part("base model", "write")):
        return report
    for quantisation in ("none", "nf4"):
        part(f"path equality, {quantisation}", "equality", quantisation=quantisation)
    for tokens in (2048, 4096):
        part(f"training, {tokens} tokens", "training", tokens=tokens)
        part(f"training with TRL, {tokens} tokens", "training_trl", tokens=tokens)
    part("scoring", "scoring")
    part("generate, constrained", "generating")
    part("kill, resume, selection equals predict", "road")
    part("out of memory", "out_of_memory")
    return report


def as_words(found: Result) -> str:
    """A part's values in one line."""
    for outcome in _WITHOUT_RESULT & found.keys():
        return f"{outcome}: {str(found[outcome]).strip().splitlines()[-1]}"
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in found.items()
        if name != "took"
    )


def as_markdown(report: Result) -> str:
    """The table of a report."""
    lines = ["| part | found |", "| --- | --- |"]
    lines += [f"| {name} | {as_words(found)} |" for name, found in report["parts"].items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="budget; a part that has begun is finished")
    parser.add_argument("--corpus", default="sample", help="corpus; default: the embedded sample")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder for temporary files")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON file to write; a table beside it")
    parser.add_argument("--dry", action="store_true", help="a tiny model on the CPU")
    options = parser.parse_args(arguments)
    failed: list[str] = []
    return exit_code(lambda: failed.extend(_run(options))) or int(bool(failed))


def _run(options: argparse.Namespace) -> list[str]:
    """Measure, write and print; names of the parts that failed."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = measure(Place(folder, options.corpus, options.dry), options.minutes, console)
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    write_text(options.out.with_suffix(".md"), as_markdown(report) + "\n")
    without = {
        outcome: [name for name, found in report["parts"].items() if outcome in found] for outcome in _WITHOUT_RESULT
    }
    for outcome, names in without.items():
        if names:
            console.print(f"{outcome}: {', '.join(names)}", highlight=False)
    return without["failed"]


if __name__ == "__main__":
    sys.exit(main())
