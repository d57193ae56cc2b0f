"""Table of all ingredients: what each arm costs, how it differs from the plain recipe, and what published work reports.

Metrics are those of `benchmarks.ingredients`. An arm of which only the first folds were trained is compared on the rows
that these left out, and the plain recipe is calibrated on the same rows.

Input: a YAML file of arms with notes, the folder with their out-of-fold tables, and the costs of
`benchmarks.ingredient_costs`. Output: a Markdown table.
Does not depend on: how arms are trained; `benchmarks.ablation --folds` does that.

    python -m benchmarks.ingredient_table benchmarks/ingredients.yaml --out docs/results/ingredients
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.ablation import CROSSFIT, Arms, read_arms
from benchmarks.crossfitted import difference, signed
from benchmarks.ingredient_costs import Cost, read_costs
from benchmarks.ingredients import decide, lower_nll, on_shared_rows, read_folds
from benchmarks.outcome import exit_code
from erc_llm.errors import ConfigError
from erc_llm.metrics import HeadlineMetric
from erc_llm.predictions import Predictions, read_predictions

COSTS = "costs.json"
METRICS: tuple[HeadlineMetric, ...] = ("weighted_f1", "macro_f1")
HEADER = (
    "| arm | what | tokens | time | lines | weighted F1 better by: dialogues | episodes "
    "| macro F1 better by: dialogues | episodes | NLL lower by: dialogues | episodes | published |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
)


def read_arm_tables(arms: Arms, out: Path) -> dict[str, Predictions]:
    """The out-of-fold table of each arm that has one, the base arm first; of some, the first folds' rows only.

    Raises:
        ConfigError: The base arm has none.
    """
    found = {}
    for name in (arms.base, *(name for name in arms.arms if name != arms.base)):
        whole, folds = out / name / f"{CROSSFIT}.parquet", out / f"{name}-folds"
        if whole.is_file():
            found[name] = read_predictions(whole)
        elif folds.is_dir() and name != arms.base:
            found[name] = read_folds(folds)
    if arms.base not in found:
        raise ConfigError(f"{out / arms.base}: there is no {CROSSFIT}.parquet; the other arms are compared with it")
    return found


def rows(arms: Arms, tables: Mapping[str, Predictions], costs: Mapping[str, Cost]) -> Iterator[str]:
    """The rows of the table, one for each arm but the base arm."""
    for name in (name for name in arms.arms if name in tables and name != arms.base):
        shared = on_shared_rows({arms.base: tables[arms.base], name: tables[name]})
        base, own = decide(shared[arms.base]), decide(shared[name])
        fields, note = ", ".join(f"`{text}`" for text in arms.arms[name]), arms.notes.get(name)
        what, published = (fields, "") if note is None else (f"{note.what} ({fields})", note.literature)
        cells = [f"`{name}`", what, *_cost(costs.get(name)), *_differences(own, base), published]
        yield f"| {' | '.join(cells)} |"


def _cost(cost: Cost | None) -> list[str]:
    return ["", ""] if cost is None else [f"{cost.tokens_ratio:.2f}", str(cost.time)]


def _differences(own: Predictions, base: Predictions) -> list[str]:
    clusters = (base.dialogue_index, base.episode_index)
    f1 = [signed(difference(own, base, c, metric)) for metric in METRICS for c in clusters]
    return [f"{len(base):,}", *f1, *(lower_nll(own, base, cluster) for cluster in clusters)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingredient_table", description=__doc__)
    parser.add_argument("file", type=Path, help="YAML file of the arms")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arms' run directories and folds")
    parser.add_argument("--costs", type=Path, help=f"costs of the arms; default: {COSTS} there, if it exists")
    options = parser.parse_args(arguments)

    def show() -> None:
        arms = read_arms(options.file)
        stored = options.out / COSTS
        costs = read_costs(options.costs or stored) if options.costs or stored.exists() else {}
        print(HEADER, *rows(arms, read_arm_tables(arms, options.out), costs), sep="\n")

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
