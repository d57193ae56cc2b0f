"""Costs of ingredients: tokens and time of a training epoch with each arm of an ablation, against the base arm.

Every arm trains one epoch on the same scenes, each time in a process of its own; arms alternate, and a ratio is the
median over rounds. Tokens are those that the model reads in that epoch; all of them count, repeated ones too.

Input: a YAML file of arms and a corpus. Output: a Markdown table, and a JSON file for `benchmarks.ingredient_table`.
Does not depend on: what an arm is worth; `benchmarks.ingredients` says that.

    python -m benchmarks.ingredient_costs benchmarks/ingredients.yaml --corpus FOLDER [ARM ...] [--out costs.json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_high

from rich.console import Console

from benchmarks.ablation import Arms, read_arms
from benchmarks.measure import Job, Ratio, Result, ratio, run_alternating, speeds
from benchmarks.outcome import exit_code
from benchmarks.workload import Settings
from erc_llm.errors import ConfigError
from erc_llm.files import write_text

HEADER = (
    "| arm | tokens a line | of the base arm | lines/s | time a line, of the base arm |\n"
    "| --- | ---: | ---: | ---: | ---: |"
)
SCENES = 24


@dataclass(frozen=True, slots=True)
class Cost:
    """What a training epoch with one arm costs, for each labelled line.

    Attributes:
        tokens: Tokens that the model reads.
        tokens_ratio: The same, divided by those of the base arm.
        lines_per_second: Of the middle round; of the faster of two.
        time: Time divided by that of the base arm in the same round.
    """

    tokens: float
    tokens_ratio: float
    lines_per_second: float
    time: Ratio


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


def costs_of(results: Mapping[str, Sequence[Result]], base: str) -> dict[str, Cost]:
    """The costs of each arm."""

    def per_line(name: str) -> float:
        return float(results[name][0]["tokens"] / results[name][0]["utterances"])

    of_base = speeds(results[base], "utterances")
    found = {}
    for name, runs in results.items():
        own = speeds(runs, "utterances")
        found[name] = Cost(per_line(name), per_line(name) / per_line(base), median_high(own), ratio(of_base, own))
    return found


def rows(costs: Mapping[str, Cost]) -> Iterator[str]:
    """The rows of the table."""
    for name, cost in costs.items():
        yield f"| {name} | {cost.tokens:.1f} | {cost.tokens_ratio:.2f} | {cost.lines_per_second:.2f} | {cost.time} |"


def write_costs(path: Path, costs: Mapping[str, Cost]) -> None:
    """Write costs as JSON."""
    write_text(path, json.dumps({name: asdict(cost) for name, cost in costs.items()}, indent=1) + "\n")


def read_costs(path: Path) -> dict[str, Cost]:
    """Read what `write_costs` wrote.

    Raises:
        ConfigError: The file cannot be read, or has another form.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        return {name: Cost(**{**cost, "time": Ratio(tuple(cost["time"]["values"]))}) for name, cost in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{path}: expected the costs of arms; `python -m benchmarks.ingredient_costs` with --out writes them: "
            f"{error}"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingredient_costs", description=__doc__)
    parser.add_argument("file", type=Path, help="YAML file of the arms")
    parser.add_argument("arms", nargs="*", help="arms to measure; by default all")
    parser.add_argument("--corpus", required=True, help="corpus file or folder, or `sample`")
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"training scenes, drawn by seed; default: {SCENES}")
    parser.add_argument("--out", type=Path, help="JSON file to write the costs to as well")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every arm; default: 3")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)

    def show() -> None:
        arms = read_arms(options.file)
        todo = jobs(arms, options.arms, options.corpus, options.scenes)

        def on_run(number: int, job: Job, result: Result) -> None:
            console.print(f"round {number + 1}, {job.name}: {result['seconds']:.1f} s", markup=False)

        costs = costs_of(run_alternating(todo, options.rounds, on_run), arms.base)
        print(HEADER, *rows(costs), sep="\n")
        if options.out is not None:
            write_costs(options.out, costs)

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
