"""Costs of ingredients: tokens and time of a training epoch with each arm of an ablation, against the base arm.

Every arm trains one epoch on the same scenes, each time in a process of its own; arms alternate, and a ratio is the
median over rounds. Tokens are those that the model reads in that epoch; all of them count, repeated ones too.

Input: a YAML file of arms and a corpus. Output: a Markdown table.
Does not depend on: what an arm is worth; `benchmarks.ingredients` says that.

    python -m benchmarks.ingredient_costs benchmarks/ingredients.yaml --corpus FOLDER [ARM ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.ablation import Arms, read_arms
from benchmarks.measure import Job, Result, ratio, run_alternating, speeds
from benchmarks.outcome import exit_code
from benchmarks.workload import Settings
from erc_llm.errors import ConfigError

HEADER = (
    "| arm | tokens a line | of the base arm | lines/s | time a line, of the base arm |\n"
    "| --- | ---: | ---: | ---: | ---: |"
)
SCENES = 24


def jobs(arms: Arms, names: Sequence[str], corpus: str, scenes: int) -> list[Job]:
    """One job for each arm; the base arm first.

    Raises:
        ConfigError: An arm is not in the file.
    """
    if unknown := [name for name in names if name not in arms.arms]:
        raise ConfigError(f"{unknown[0]}: is no arm; there are {', '.join(arms.arms)}")
    chosen = [arms.base, *(name for name in names or arms.arms if name != arms.base)]
    settings = {name: Settings(corpus, arms.config, (*arms.arms[name], "lora.start=null")) for name in chosen}
    return [
        Job(name, "benchmarks.training:run_tree", {"settings": asdict(own), "scenes": scenes})
        for name, own in settings.items()
    ]


def rows(results: Mapping[str, Sequence[Result]], base: str) -> Iterator[str]:
    """The rows of the table."""

    def per_line(name: str) -> float:
        return float(results[name][0]["tokens"] / results[name][0]["utterances"])

    for name, runs in results.items():
        time = ratio(speeds(results[base], "utterances"), speeds(runs, "utterances"))
        speed = sorted(speeds(runs, "utterances"))[len(runs) // 2]
        yield f"| {name} | {per_line(name):.1f} | {per_line(name) / per_line(base):.2f} | {speed:.2f} | {time} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingredient_costs", description=__doc__)
    parser.add_argument("file", type=Path, help="YAML file of the arms")
    parser.add_argument("arms", nargs="*", help="arms to measure; by default all")
    parser.add_argument("--corpus", required=True, help="corpus file or folder, or `sample`")
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"training scenes, drawn by seed; default: {SCENES}")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every arm; default: 3")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)

    def show() -> None:
        arms = read_arms(options.file)
        todo = jobs(arms, options.arms, options.corpus, options.scenes)

        def on_run(number: int, job: Job, result: Result) -> None:
            console.print(f"round {number + 1}, {job.name}: {result['seconds']:.1f} s", markup=False)

        print(HEADER, *rows(run_alternating(todo, options.rounds, on_run), arms.base), sep="\n")

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
