"""Table of ingredients: what each arm of a cross-fitted ablation costs, and how it differs from the plain recipe.

Weighted and macro F1 are those of answers decided for weighted F1, and NLL that of calibrated probabilities;
calibration and rule of a row are fitted on other episodes than the row's. Differences are paired; intervals resample
whole dialogues, and whole episodes. Every arm makes as many optimizer steps as the plain recipe, so its tokens per step
show what its prompts cost in training. A table with more rows than the plain recipe's counts on the same rows only.

Input: a YAML file of arms and the folder with their out-of-fold tables, or tables. Output: a Markdown table.
Does not depend on: how arms are trained; `benchmarks.ablation --folds` does that.

    python -m benchmarks.ingredients benchmarks/ingredients.yaml --out docs/results/ingredients
    python -m benchmarks.ingredients aligned=a/crossfit.parquet original=b/crossfit.parquet    # against the first one
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ablation import CROSSFIT, read_arms
from benchmarks.outcome import exit_code
from erc_llm.calibration.select import decide_held_out
from erc_llm.config import load_config
from erc_llm.errors import ConfigError
from erc_llm.metrics import (
    Estimate,
    Floats,
    Integers,
    gold_surprise,
    paired_difference,
    paired_mean_difference,
    scores_from_confusion,
)
from erc_llm.metrics import confusion as confusion_of
from erc_llm.predictions import Predictions, corpus_shift, read_predictions

HEADER = (
    "| arm | tokens in training | weighted F1 | better by: dialogues | episodes | macro F1 | better by: dialogues "
    "| NLL (nats) | lower by: dialogues | episodes |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


@dataclass(frozen=True, eq=False, slots=True)
class Arm:
    """The decided rows of an arm, in the order of the plain recipe's.

    Attributes:
        name: Its name.
        tokens: Tokens per training step, relative to the plain recipe; None if unknown.
        gold: (rows,) index of the gold label.
        answers: (rows,) index of the decided label.
        surprise: (rows,) nats.
        dialogues: (rows,) number of the dialogue.
        episodes: (rows,) number of the episode.
        labels: Number of labels.
    """

    name: str
    tokens: float | None
    gold: Integers
    answers: Integers
    surprise: Floats
    dialogues: Integers
    episodes: Integers
    labels: int

    def score(self, metric: str) -> float:
        """A metric of the answers in percent."""
        return 100 * float(getattr(scores_from_confusion(confusion_of(self.gold, self.answers, self.labels)), metric))


def decided(name: str, table: Predictions, keys: Sequence[tuple[str, str]], tokens: float | None = None) -> Arm:
    """Decide a table and take the labelled rows of `keys`.

    Raises:
        ConfigError: The table lacks some of them.
    """
    shift = corpus_shift(table.info.training_prior, table.info.train_shares)
    found = decide_held_out(table, shift, "weighted_f1", calibrated=True)
    row = {key: i for i, key in enumerate(found.keys)}
    if lacking := sum(key not in row for key in keys):
        raise ConfigError(f"{name}: its table lacks {lacking} of the {len(keys)} rows it is compared on")
    rows = np.array([row[key] for key in keys])
    rows = rows[found.gold_index[rows] >= 0]
    assert found.probabilities is not None, "a decided table has probabilities"
    return Arm(
        name,
        tokens,
        found.gold_index[rows],
        found.predicted_index[rows],
        gold_surprise(found.probabilities[rows], found.gold_index[rows]),
        found.dialogue_index[rows],
        found.episode_index[rows],
        len(table.info.labels),
    )


def row(arm: Arm, base: Arm) -> str:
    """The row of an arm; without differences for the base itself."""
    cells = ["", "", "", "", ""]
    if arm is not base:
        assert np.array_equal(arm.gold, base.gold), "tables of one corpus have the same gold labels"
        answers = (arm.answers, base.answers)

        def better(metric: str, cluster: Integers) -> str:
            difference = paired_difference(arm.gold, *answers, cluster, arm.labels, metric=metric)  # type: ignore[arg-type]
            return _signed(difference, 100, 2)

        clusters = (base.dialogues, base.episodes)
        cells = [better("weighted_f1", cluster) for cluster in clusters]
        cells.append(better("macro_f1", base.dialogues))
        cells += [_signed(paired_mean_difference(base.surprise, arm.surprise, cluster), 1, 4) for cluster in clusters]
    tokens = "" if arm.tokens is None else f"{arm.tokens:.2f}x"
    f1 = [f"{arm.score('weighted_f1'):.2f}", *cells[:2], f"{arm.score('macro_f1'):.2f}", cells[2]]
    return f"| {' | '.join([arm.name, tokens, *f1, f'{arm.surprise.mean():.4f}', *cells[3:]])} |"


def _signed(estimate: Estimate, scale: float, digits: int) -> str:
    value, low, high = (f"{scale * (v or 0):+.{digits}f}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def rows_of_arms(file: Path, out: Path) -> Iterator[str]:
    """The rows of the arms that have a table, in their order; the base arm first.

    Raises:
        ConfigError: The base arm has no table.
    """
    arms = read_arms(file)
    names = [arms.base, *(name for name in arms.arms if name != arms.base)]
    tables = {name: read_predictions(path) for name in names if (path := out / name / f"{CROSSFIT}.parquet").is_file()}
    if arms.base not in tables:
        raise ConfigError(f"{out / arms.base}: there is no {CROSSFIT}.parquet; the other arms are compared with it")
    tokens = {name: load_config(out / name / "config.yaml").training.tokens_per_step for name in tables}
    keys = tables[arms.base].keys
    found = [decided(name, table, keys, tokens[name] / tokens[arms.base]) for name, table in tables.items()]
    yield from (row(arm, found[0]) for arm in found)


def rows_of_tables(named: Sequence[str]) -> Iterator[str]:
    """The rows of tables that are given as NAME=FILE."""
    tables = {name: read_predictions(Path(path)) for name, _, path in (text.partition("=") for text in named)}
    keys = next(iter(tables.values())).keys
    found = [decided(name, table, keys) for name, table in tables.items()]
    yield from (row(arm, found[0]) for arm in found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingredients", description=__doc__)
    parser.add_argument("what", nargs="+", help="YAML file of the arms, or tables as NAME=FILE")
    parser.add_argument("--out", type=Path, help="folder of the arms' run directories")
    options = parser.parse_args(arguments)

    def show() -> None:
        if options.out is None:
            print(HEADER, *rows_of_tables(options.what), sep="\n")
        else:
            print(HEADER, *rows_of_arms(Path(options.what[0]), options.out), sep="\n")

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
