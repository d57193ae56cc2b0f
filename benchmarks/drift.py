"""How far predictions of one run drift when its adapter is changed, for example compressed to a lower rank.

Input: predictions tables of the same targets, the unchanged one first. Output: a Markdown table.
Does not depend on: how the adapters were changed.

    python -m benchmarks.drift exact=exact.parquet rank-24=rank-24.parquet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.ingredients import named_files
from benchmarks.outcome import exit_code
from erc_llm.errors import UserError
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Predictions, read_predictions

HEADER = (
    "| adapter | largest difference of a probability | median | 99th percentile | other answers "
    "| weighted F1 | NLL (nats) |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def as_markdown(tables: Mapping[str, Predictions]) -> str:
    """One row per table; differences are to the first one, per line the largest over its labels.

    Raises:
        UserError: Two tables are about different targets, or one has no probabilities.
    """
    first = next(iter(tables.values()))
    lines = [HEADER]
    for name, table in tables.items():
        if table.keys != first.keys or table.probabilities is None or first.probabilities is None:
            raise UserError(f"{name}: expected the targets of the first table, with probabilities; predict them again")
        cells = [""] * 4
        if table is not first:
            apart = np.abs(table.probabilities - first.probabilities).max(axis=1)
            other = sum(a != b for a, b in zip(table.predicted, first.predicted, strict=True))
            half, most = np.quantile(apart, (0.5, 0.99))
            cells = [f"{apart.max():.3f}", f"{half:.3f}", f"{most:.3f}", f"{other} of {len(table)}"]
        found = evaluate(table, draws=1)
        cells += [f"{100 * found.headline.weighted_f1.value:.2f}", f"{found.negative_log_likelihood:.4f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("tables", nargs="+", help="tables as NAME=FILE, the unchanged one first")
    texts = parser.parse_args(arguments).tables
    return exit_code(lambda: print(as_markdown({n: read_predictions(path) for n, path in named_files(texts).items()})))


if __name__ == "__main__":
    sys.exit(main())
