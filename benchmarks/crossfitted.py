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
from erc_llm.calibration.record import Decide
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

RULES: tuple[Decide, ...] = ("probable", "weighted_f1", "macro_f1")
_WORDS = {"probable": "most probable", "weighted_f1": "for weighted F1", "macro_f1": "for macro F1"}


def variants(table: Predictions) -> Iterator[tuple[str, PriorShift | None]]:
    """The name of each way to treat the prior of training, and its shift; one way if training kept the corpus's."""
    yield "", None
    shift = corpus_shift(table.info.training_prior, table.info.train_shares)
    if shift is not None:
        yield ", prior taken back", shift


def decided_arms(tables: dict[str, Predictions]) -> dict[tuple[str, Decide], Predictions]:
    """(arm and treatment of the prior, rule) to its table, decided by what was fitted on other episodes."""
    return {
        (arm + words, rule): decide_held_out(table, shift, rule, calibrated=rule != "probable")
        for arm, table in tables.items()
        for words, shift in variants(table)
        for rule in RULES
    }


def as_markdown(decided: dict[tuple[str, Decide], Predictions], base: str) -> str:
    """One row per arm and rule, with its differences to the base arm under the same rule."""
    rows = [
        "| arm | decided | weighted F1 | better by: dialogues | episodes | macro F1 | better by: dialogues | accuracy "
        "| NLL (nats) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (arm, rule), table in decided.items():
        gold, answers = table.gold_index, table.predicted_index
        kept = gold >= 0
        found = bootstrap_over_dialogues(gold[kept], answers[kept], table.dialogue_index[kept], len(table.info.labels))
        assert table.probabilities is not None, "a decided table has probabilities"
        cells = [arm, _WORDS[rule], _percent(found.weighted_f1), "", "", _percent(found.macro_f1), ""]
        if arm != base:
            other = decided[base, rule]
            cells[3] = _signed(_difference(table, other, table.dialogue_index, "weighted_f1"))
            cells[4] = _signed(_difference(table, other, table.episode_index, "weighted_f1"))
            cells[6] = _signed(_difference(table, other, table.dialogue_index, "macro_f1"))
        cells += [
            f"{100 * found.accuracy.value:.2f}",
            f"{negative_log_likelihood(table.probabilities[kept], gold[kept]):.3f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def gains_as_markdown(decided: dict[tuple[str, Decide], Predictions]) -> str:
    """One row per arm and rule: what the rule is worth against the most probable label of the same arm."""
    rows = [
        "| arm | decided | weighted F1 better by: dialogues | episodes | macro F1 better by: dialogues | episodes "
        "| accuracy better by: dialogues |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (arm, rule), table in decided.items():
        if rule == "probable":
            continue
        other, episodes = decided[arm, "probable"], table.episode_index
        cells = [arm, _WORDS[rule]]
        for metric in ("weighted_f1", "macro_f1"):
            cells += [_signed(_difference(table, other, by, metric)) for by in (table.dialogue_index, episodes)]
        cells.append(_signed(_difference(table, other, table.dialogue_index, "accuracy")))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _difference(a: Predictions, b: Predictions, cluster: Integers, metric: HeadlineMetric) -> Estimate:
    assert a.keys == b.keys, "out-of-fold tables of one corpus have the same rows"
    kept = a.gold_index >= 0
    both = (a.predicted_index[kept], b.predicted_index[kept])
    return paired_difference(a.gold_index[kept], *both, cluster[kept], len(a.info.labels), metric=metric)


def _percent(estimate: Estimate) -> str:
    bounds = "" if estimate.low is None else f" ({100 * estimate.low:.2f} to {100 * (estimate.high or 0):.2f})"
    return f"{100 * estimate.value:.2f}{bounds}"


def _signed(estimate: Estimate) -> str:
    low, high = (f"{100 * (bound or 0):+.2f}" for bound in (estimate.low, estimate.high))
    return f"{100 * estimate.value:+.2f} ({low} to {high})"


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
