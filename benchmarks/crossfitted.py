"""Tables of cross-fitted arms: each arm under every decision rule, with and without the prior taken back.

Prior, calibration and rule of a row are fitted on other episodes than the row's (`decide_held_out`), so that the arms
are measured as they would be used. Differences to the base arm are paired; their intervals resample whole dialogues,
and whole episodes.

Input: a YAML file of arms, and the folder with their out-of-fold tables. Output: Markdown tables.
Does not depend on: how arms are trained; `benchmarks.ablation --folds` does that.

    python -m benchmarks.crossfitted benchmarks/crossfit.yaml --out docs/results/crossfit
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.ablation import CROSSFIT, read_arms
from benchmarks.outcome import exit_code
from erc_llm.calibration.choose import decide_by_itself
from erc_llm.calibration.record import F1Decide
from erc_llm.calibration.select import decide_held_out
from erc_llm.errors import ConfigError
from erc_llm.metrics import (
    Estimate,
    HeadlineMetric,
    Integers,
    bootstrap_over_dialogues,
    negative_log_likelihood,
    paired_difference,
)
from erc_llm.predictions import Predictions, PriorShift, corpus_shift, read_predictions

MOST_PROBABLE = "most probable"
CALIBRATED = "most probable, calibrated"
TRANSDUCTIVE = "for weighted F1, transductive"
ANSWERS: dict[str, tuple[F1Decide, bool]] = {  # in words: (rule, whether the probabilities are calibrated first)
    MOST_PROBABLE: ("probable", False),
    CALIBRATED: ("probable", True),
    "for weighted F1": ("weighted_f1", True),
    "for weighted F1, uncalibrated": ("weighted_f1", False),
    "for macro F1": ("macro_f1", True),
}
COMPARED = (MOST_PROBABLE, "for weighted F1", "for macro F1")  # between arms


def variants(table: Predictions) -> Iterator[tuple[str, PriorShift | None]]:
    """The name of each way to treat the prior of training, and its shift; one way if training kept the corpus's."""
    yield "", None
    shift = corpus_shift(table.info.training_prior, table.info.train_shares)
    if shift is not None:
        yield ", prior taken back", shift


def decided_arms(tables: dict[str, Predictions]) -> dict[tuple[str, str], Predictions]:
    """(arm and treatment of the prior, answers) to its table, decided by what was fitted on other episodes.

    Except for the transductive rule, which is found on the whole table, after a calibration fitted on other episodes.
    """
    found = {}
    for arm, table in tables.items():
        for words, shift in variants(table):
            for answers, (rule, calibrated) in ANSWERS.items():
                found[arm + words, answers] = decide_held_out(table, shift, rule, calibrated=calibrated)
            calibrated_only = found[arm + words, CALIBRATED]
            found[arm + words, TRANSDUCTIVE] = decide_by_itself(calibrated_only, "weighted_f1")
    return found


def as_markdown(decided: dict[tuple[str, str], Predictions], base: str) -> str:
    """One row per arm and way to answer, with its differences to the base arm that answers in the same way."""
    rows = [
        "| arm | decided | weighted F1 | better by: dialogues | episodes | macro F1 | better by: dialogues | accuracy "
        "| NLL (nats) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (arm, answers), table in decided.items():
        if answers not in COMPARED:
            continue
        gold, labels = table.gold_index, table.predicted_index
        kept = gold >= 0
        found = bootstrap_over_dialogues(gold[kept], labels[kept], table.dialogue_index[kept], len(table.info.labels))
        assert table.probabilities is not None, "a decided table has probabilities"
        cells = [arm, answers, percent(found.weighted_f1), "", "", percent(found.macro_f1), ""]
        if arm != base:
            other = decided[base, answers]
            cells[3] = signed(difference(table, other, table.dialogue_index, "weighted_f1"))
            cells[4] = signed(difference(table, other, table.episode_index, "weighted_f1"))
            cells[6] = signed(difference(table, other, table.dialogue_index, "macro_f1"))
        cells += [
            f"{100 * found.accuracy.value:.2f}",
            f"{negative_log_likelihood(table.probabilities[kept], gold[kept]):.3f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def gains_as_markdown(decided: dict[tuple[str, str], Predictions]) -> str:
    """One row per arm and way to answer: what it is worth against the most probable, uncalibrated label of the arm."""
    rows = [
        "| arm | decided | weighted F1 better by: dialogues | episodes | macro F1 better by: dialogues | episodes "
        "| accuracy better by: dialogues |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (arm, answers), table in decided.items():
        if answers == MOST_PROBABLE:
            continue
        other, episodes = decided[arm, MOST_PROBABLE], table.episode_index
        cells = [arm, answers]
        for metric in ("weighted_f1", "macro_f1"):
            cells += [signed(difference(table, other, by, metric)) for by in (table.dialogue_index, episodes)]
        cells.append(signed(difference(table, other, table.dialogue_index, "accuracy")))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def difference(a: Predictions, b: Predictions, cluster: Integers, metric: HeadlineMetric) -> Estimate:
    """How much better `a` is than `b` on the same rows, with an interval over the clusters."""
    assert a.keys == b.keys, "out-of-fold tables of one corpus have the same rows"
    kept = a.gold_index >= 0
    both = (a.predicted_index[kept], b.predicted_index[kept])
    return paired_difference(a.gold_index[kept], *both, cluster[kept], len(a.info.labels), metric=metric)


def percent(estimate: Estimate) -> str:
    """A fraction with its interval, in percent."""
    bounds = "" if estimate.low is None else f" ({100 * estimate.low:.2f} to {100 * (estimate.high or 0):.2f})"
    return f"{100 * estimate.value:.2f}{bounds}"


def signed(estimate: Estimate, scale: float = 100, digits: int = 2) -> str:
    """A difference with its interval; by default of fractions, in points."""
    value, low, high = (f"{scale * (v or 0):+.{digits}f}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossfitted", description=__doc__)
    parser.add_argument("file", type=Path, help="YAML file of the arms")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arms' run directories")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _print_tables(options.file, options.out))


def _print_tables(file: Path, out: Path) -> None:
    arms = read_arms(file)
    paths = {arm: out / arm / f"{CROSSFIT}.parquet" for arm in arms.arms}
    tables = {arm: read_predictions(path) for arm, path in paths.items() if path.is_file()}
    if arms.base not in tables:
        raise ConfigError(f"{paths[arms.base]}: missing; the other arms are compared with {arms.base}")
    decided = decided_arms(tables)
    print(as_markdown(decided, arms.base))
    print()
    print(gains_as_markdown(decided))


if __name__ == "__main__":
    sys.exit(main())
