"""Table of ingredients: what each arm of a cross-fitted ablation costs, and how it differs from the plain recipe.

Weighted and macro F1 are those of answers decided for weighted F1, and NLL that of calibrated probabilities;
calibration and rule of a row are fitted on other episodes than the row's. Differences are paired; intervals resample
whole dialogues, and whole episodes. Every arm makes as many optimizer steps as the plain recipe, so its tokens per step
show what its prompts cost in training.

Input: a YAML file of arms, and the folder with their out-of-fold tables. Output: a Markdown table.
Does not depend on: how arms are trained; `benchmarks.ablation --folds` does that.

    python -m benchmarks.ingredients benchmarks/ingredients.yaml --out docs/results/ingredients
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation import CROSSFIT, Arms, read_arms
from benchmarks.outcome import exit_code
from erc_llm.calibration.select import decide_held_out
from erc_llm.config import RunConfig
from erc_llm.config_files import load_section
from erc_llm.errors import ConfigError
from erc_llm.metrics import Estimate, Floats, Integers, gold_surprise, paired_difference, paired_mean_difference
from erc_llm.predictions import Predictions, corpus_shift, read_predictions

HEADER = (
    "| arm | tokens in training | weighted F1 better by: dialogues | episodes | macro F1 better by: dialogues "
    "| episodes | NLL lower by: dialogues | episodes |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def rows(arms: Arms, out: Path) -> Iterator[str]:
    """The rows of the table, in the order of the arms; an arm without a table yet has none.

    Raises:
        ConfigError: The base arm has no table.
    """
    tables = {arm: read_predictions(path) for arm in arms.arms if (path := out / arm / f"{CROSSFIT}.parquet").is_file()}
    if arms.base not in tables:
        raise ConfigError(f"{out / arms.base}: there is no {CROSSFIT}.parquet; the other arms are compared with it")
    decided = {arm: _decided(table) for arm, table in tables.items()}
    tokens = {arm: load_section(RunConfig, out / arm / "config.yaml", ()).training.tokens_per_step for arm in tables}
    base = decided[arms.base]
    for arm, table in decided.items():
        if arm != arms.base:
            yield _row(arm, table, base, tokens[arm] / tokens[arms.base])


def _decided(table: Predictions) -> Predictions:
    shift = corpus_shift(table.info.training_prior, table.info.train_shares)
    return decide_held_out(table, shift, "weighted_f1", calibrated=True)


def _row(arm: str, table: Predictions, base: Predictions, tokens: float) -> str:
    assert table.keys == base.keys, "out-of-fold tables of one corpus have the same rows"
    cells = [arm, f"{tokens:.2f}x"]
    gold, kept = table.gold_index, table.gold_index >= 0
    clusters = {"dialogues": table.dialogue_index[kept], "episodes": table.episode_index[kept]}
    answers = (table.predicted_index[kept], base.predicted_index[kept])
    for metric in ("weighted_f1", "macro_f1"):
        found = (
            paired_difference(gold[kept], *answers, cluster, len(table.info.labels), metric=metric)
            for cluster in clusters.values()
        )
        cells += [_signed(estimate, 100, 2) for estimate in found]
    surprise = _surprise(base, gold, kept), _surprise(table, gold, kept)
    cells += [_signed(paired_mean_difference(*surprise, cluster), 1, 4) for cluster in clusters.values()]
    return f"| {' | '.join(cells)} |"


def _surprise(table: Predictions, gold: Integers, kept: NDArray[np.bool_]) -> Floats:
    assert table.probabilities is not None, "a calibrated table has probabilities"
    return gold_surprise(table.probabilities[kept], gold[kept])


def _signed(estimate: Estimate, scale: float, digits: int) -> str:
    value, low, high = (f"{scale * (v or 0):+.{digits}f}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingredients", description=__doc__)
    parser.add_argument("file", type=Path, help="YAML file of the arms")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arms' run directories")
    options = parser.parse_args(arguments)
    return exit_code(lambda: print(HEADER, *rows(read_arms(options.file), options.out), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())
