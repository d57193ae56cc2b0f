"""Decision rules on finished runs: the same probabilities, answered in every way, with the differences.

A run directory (or a copy without its weights) holds `selection.parquet` and the table of the split. Inductive rules
and the calibration come from the selection split, or from `crossfit.parquet` where a run has one; transductive rules
from the split's own probabilities. A run with neither table gets the transductive rules only. Where training balanced
the classes, its prior is taken back before the calibration. Metrics are means over a system's runs. Intervals resample
whole dialogues, in every draw the same ones for both sides of a difference; runs are kept.

Input: runs as NAME=FOLDER, those of one system under one name. Output: a Markdown table.
Does not depend on: models, training.

    python -m benchmarks.decisions --split dev SmolLM2=docs/results/finals/none-1{3,4,5}
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.outcome import exit_code
from erc_llm.calibration.choose import decide_by_itself, rule_on
from erc_llm.calibration.select import calibrate
from erc_llm.corpus.dialogues import SELECTION
from erc_llm.errors import UserError
from erc_llm.metrics import HEADLINE, Estimate, Floats, confusion_by_dialogue, scores_from_confusion
from erc_llm.predictions import Correction, Predictions, PriorShift, corpus_shift, correct, read_predictions
from erc_llm.predictions.mean import log_probabilities
from erc_llm.resampling import percentile_interval, resampled_sums
from erc_llm.runs.directory import OUT_OF_FOLD

DRAWS = 10_000


@dataclass(frozen=True)
class Finished:
    """A run's table of the split, and one of a part of train that it was not trained on, if any; uncorrected."""

    held_out: Predictions | None
    split: Predictions


def read_run_tables(folder: Path, split: str) -> Finished:
    """The two tables of a run directory; tables without log-likelihoods get the logs of their probabilities.

    Raises:
        PredictionsError: A table is missing or damaged.
    """
    held_out = folder / OUT_OF_FOLD
    if not held_out.is_file():
        held_out = folder / f"{SELECTION}.parquet"
    tables = [
        _uncorrected(path) for path in (held_out, folder / f"{split}.parquet") if path != held_out or path.is_file()
    ]
    return Finished(tables[0] if len(tables) > 1 else None, tables[-1])


def _uncorrected(path: Path) -> Predictions:
    table = read_predictions(path)
    if table.log_likelihoods is not None or table.probabilities is None:
        return correct(table, Correction())
    return replace(table, log_likelihoods=log_probabilities(table.probabilities))


def answers(run: Finished) -> dict[str, Predictions]:
    """The table of the split, answered in every way, by the name of the way."""
    found = {
        "most probable": run.split,
        "weighted F1, transductive, uncalibrated": decide_by_itself(run.split, "weighted_f1"),
        "macro F1, transductive, uncalibrated": decide_by_itself(run.split, "macro_f1"),
    }
    info = run.split.info
    shift = corpus_shift(info.training_prior, info.train_shares)
    if shift is not None:
        taken_back = correct(run.split, Correction(shift))
        found |= {
            "most probable, prior taken back": taken_back,
            "weighted F1, transductive, prior taken back": decide_by_itself(taken_back, "weighted_f1"),
        }
    if run.held_out is None:
        return found
    fitted = calibrate(run.held_out, shift)
    calibrated = correct(run.split, fitted.correction())
    uncalibrated = Correction(decision=rule_on(run.held_out, "weighted_f1", "inductive"))
    found |= {
        "most probable, calibrated": calibrated,
        "weighted F1, inductive": correct(run.split, fitted.correction("weighted_f1")),
        "weighted F1, inductive, uncalibrated": correct(run.split, uncalibrated),
        "weighted F1, transductive": decide_by_itself(calibrated, "weighted_f1"),
        "macro F1, inductive": correct(run.split, fitted.correction("macro_f1")),
        "macro F1, transductive": decide_by_itself(calibrated, "macro_f1"),
    }
    estimated = estimated_prior(calibrated)
    assert calibrated.probabilities is not None, "a corrected table has probabilities"
    shifted = calibrated.probabilities * np.exp(estimated.log_ratio)
    labels = calibrated.info.labels
    found["most probable, prior by EM"] = replace(
        calibrated, predicted=tuple(labels[k] for k in shifted.argmax(axis=1))
    )
    return found


def estimated_prior(table: Predictions, rounds: int = 1000) -> PriorShift:
    """The shift to the prior that EM estimates on unlabelled data.

    M. Saerens, P. Latinne, C. Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori Probabilities",
    Neural Computation 14 (2002) 21-41.
    """
    assert table.probabilities is not None, "a corrected table has probabilities"
    trained = table.info.train_shares
    assert trained is not None, "tables of runs state the label distribution of train"
    old = np.maximum(np.array(trained), 1e-9)
    new = old.copy()
    for _ in range(rounds):
        posterior = table.probabilities * (new / old)
        following = (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(following - new).max() < 1e-7:
            break
        new = following
    return PriorShift("estimated", tuple(old.tolist()), tuple((following / following.sum()).tolist()))


def resampled(tables: Sequence[Predictions]) -> tuple[Floats, Floats]:
    """(metrics,) means over runs of the headline metrics, and (draws, metrics) in resampled dialogues."""
    counts = np.stack([_by_dialogue(table) for table in tables], axis=1)  # (dialogues, runs, labels, labels + 1)
    shape = counts.shape[1:]
    sums = resampled_sums(counts.reshape(len(counts), -1), DRAWS, 0)
    draws = np.concatenate([_metrics(part.reshape(-1, *shape)) for part in sums])
    return _metrics(counts.sum(axis=0)[None])[0], draws


def _by_dialogue(table: Predictions) -> np.ndarray:
    kept = table.gold_index >= 0
    gold, predicted, dialogue = table.gold_index[kept], table.predicted_index[kept], table.dialogue_index[kept]
    return confusion_by_dialogue(gold, predicted, dialogue, len(table.info.labels))


def _metrics(counts: np.ndarray) -> Floats:
    """(..., metrics) means over runs of (..., runs, labels, labels + 1) counts."""
    scores = scores_from_confusion(counts)
    return np.stack([getattr(scores, metric).mean(axis=-1) for metric in HEADLINE], axis=-1)


def as_markdown(systems: Mapping[str, Sequence[Finished]]) -> str:
    """One row per system and way to answer, with the difference to the same system's most probable labels."""
    rows = [
        "| system | answer | weighted F1 | of each run | better than the most probable label by | macro F1 | better by "
        "| accuracy |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in systems.items():
        by_run = [answers(run) for run in runs]
        base = resampled([found["most probable"] for found in by_run])
        for way in by_run[0]:
            tables = [found[way] for found in by_run]
            value, draws = resampled(tables)
            alone = ", ".join(f"{100 * resampled([table])[0][0]:.2f}" for table in tables)
            better = [_signed(value[i] - base[0][i], draws[:, i] - base[1][:, i]) for i in range(2)]
            if way == "most probable":
                better = ["", ""]
            cells = [name, way, _percent(value[0], draws[:, 0]), alone, better[0]]
            cells += [_percent(value[1], draws[:, 1]), better[1], f"{100 * value[2]:.2f}"]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _percent(value: float, draws: Floats) -> str:
    estimate = Estimate(value, *percentile_interval(draws))
    return f"{100 * value:.2f} ({100 * (estimate.low or 0):.2f} to {100 * (estimate.high or 0):.2f})"


def _signed(value: float, draws: Floats) -> str:
    low, high = percentile_interval(draws)
    return f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decisions", description=__doc__)
    parser.add_argument("system", nargs="+", help="NAME=FOLDER of a finished run; runs of one name are one system")
    parser.add_argument("--split", default="dev", help="split to answer; its table is SPLIT.parquet in every folder")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _print_table(options.system, options.split))


def _print_table(runs: Sequence[str], split: str) -> None:
    systems: dict[str, list[Finished]] = {}
    for text in runs:
        name, equals, folder = text.partition("=")
        if not equals or not folder:
            raise UserError(f"{text}: expected NAME=FOLDER")
        systems.setdefault(name, []).append(read_run_tables(Path(folder), split))
    print(as_markdown(systems))


if __name__ == "__main__":
    sys.exit(main())
