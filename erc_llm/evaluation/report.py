"""Evaluation of one predictions table: metrics with intervals, scores by label, confusions and warnings.

Input: a `Predictions` table with gold labels. Output: an `Evaluation` of plain values (`as_dict` for JSON); metrics are
fractions between 0 and 1.
Does not depend on: models, files, the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from erc_llm import metrics
from erc_llm.errors import PredictionsError
from erc_llm.evaluation.calibration_report import CalibrationReport, report_calibration
from erc_llm.metrics import Estimate, Headline, Integers
from erc_llm.predictions import Predictions, PredictionsInfo

FEW_DIALOGUES = 20  # below it a percentile interval over clusters is known to be too narrow

_MISSING = {
    "invalid": "No column 'invalid': only rows without a label count as invalid answers.",
    "label_mass": "No column 'label_mass': the probability mass of the labels is not known.",
    "probabilities": "No column 'probabilities': no log-likelihood and no calibration error.",
}


@dataclass(frozen=True)
class ClassScores:
    """Scores of one label between 0 and 1; `support` counts gold targets, `predicted` the answers with this label."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True)
class Evaluation:
    """The result of `erc-llm evaluate` on one table.

    Attributes:
        info: Metadata of the table.
        targets: Rows with a gold label; all metrics are about these.
        without_gold: Number of rows left out because they have none.
        dialogues: Number of dialogues of the targets.
        headline: Weighted F1 (over all labels, Neutral included), macro F1 and accuracy with 95 % intervals.
        classes: One row per label, in the order of `info.labels`.
        confusion: Gold label by predicted label, one more column for invalid answers.
        invalid_rate: Share of invalid answers.
        label_mass: Mean total probability of the labels before normalisation; None where unknown.
        neighbours_accuracy: Share of targets whose neighbours' most probable label is right; None without neighbours.
        negative_log_likelihood: Mean of -ln p(gold), in nats; None without probabilities.
        calibration_error: Expected calibration error over 15 bins, with its interval; None without probabilities.
        with_probabilities: Number of targets with probabilities.
        calibration: Steps of correction, reliability, risk by coverage, abstention; None without probabilities.
        draws: Number of resamples behind the intervals.
        seed: Seed of the resampling.
        missing: Sentences about columns that the table lacks, and what is left out without them.
        warnings: Sentences that limit what the metrics show.
    """

    info: PredictionsInfo
    targets: int
    without_gold: int
    dialogues: int
    headline: Headline
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    invalid_rate: float
    label_mass: float | None
    neighbours_accuracy: float | None
    negative_log_likelihood: float | None
    calibration_error: Estimate | None
    with_probabilities: int
    calibration: CalibrationReport | None
    draws: int
    seed: int
    missing: tuple[str, ...]
    warnings: tuple[str, ...]

    def _repr_html_(self) -> str:
        """The headline numbers, for notebooks."""
        from erc_llm.evaluation.displays import evaluation_html

        return evaluation_html(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {
            "info": self.info.as_dict(),
            "headline": asdict(self.headline),
            "classes": [asdict(row) for row in self.classes],
            "calibration_error": None if self.calibration_error is None else asdict(self.calibration_error),
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }


def evaluate(
    predictions: Predictions, *, draws: int = 10_000, seed: int = 0, abstain_below: float | None = None
) -> Evaluation:
    """Score a table against its gold labels; rows without one are left out and counted.

    Args:
        predictions: The table.
        draws: Number of resamples of whole dialogues; at least 1.
        seed: Seed of the resampling.
        abstain_below: Also score the rows whose largest probability is at least this; by default the table's own.

    Raises:
        PredictionsError: No row has a gold label, `draws` is below 1, or a threshold lacks probabilities.
    """
    if draws < 1:
        raise PredictionsError(f"draws: expected at least 1, found {draws}")
    rows = np.flatnonzero(predictions.gold_index >= 0)
    if not len(rows):
        raise PredictionsError("no row has a gold label, so there is nothing to score; predict a labelled split")
    gold, predicted = predictions.gold_index[rows], predictions.predicted_index[rows]
    dialogue, n = predictions.dialogue_index[rows], len(predictions.info.labels)
    counts = metrics.confusion(gold, predicted, n)
    dialogues = len(np.unique(dialogue))
    classes = _classes(predictions.info.labels, counts)
    without_gold = len(predictions) - len(rows)
    nll, calibration_error, with_probabilities = _probabilistic(predictions, rows, draws, seed)
    calibration = report_calibration(predictions, rows, abstain_below)
    if abstain_below is not None and calibration is None:
        raise PredictionsError("abstain below: the table has no probabilities to hold against a threshold")
    return Evaluation(
        info=predictions.info,
        targets=len(rows),
        without_gold=without_gold,
        dialogues=dialogues,
        headline=_headline(gold, predicted, dialogue, n, draws, seed),
        classes=classes,
        confusion=tuple(tuple(row) for row in counts.tolist()),
        invalid_rate=float(np.mean(predicted == metrics.INVALID)),
        label_mass=_mean_label_mass(predictions, rows),
        neighbours_accuracy=_neighbours_accuracy(predictions, rows),
        negative_log_likelihood=nll,
        calibration_error=calibration_error,
        with_probabilities=with_probabilities,
        calibration=calibration,
        draws=draws,
        seed=seed,
        missing=tuple(sentence for name, sentence in _MISSING.items() if name in predictions.missing),
        warnings=tuple(_warnings(predictions.info, classes, dialogues, without_gold)),
    )


def _headline(gold: Integers, predicted: Integers, dialogue: Integers, n: int, draws: int, seed: int) -> Headline:
    if len(np.unique(dialogue)) > 1:
        return metrics.bootstrap_over_dialogues(gold, predicted, dialogue, n, draws, seed)
    point = metrics.scores_from_confusion(metrics.confusion(gold, predicted, n))
    return Headline(**{metric: Estimate(float(getattr(point, metric))) for metric in metrics.HEADLINE})


def _classes(labels: Sequence[str], counts: Integers) -> tuple[ClassScores, ...]:
    scores = metrics.scores_from_confusion(counts)
    return tuple(
        ClassScores(
            label=label,
            precision=float(scores.precision[i]),
            recall=float(scores.recall[i]),
            f1=float(scores.f1[i]),
            support=int(scores.support[i]),
            predicted=int(counts[:, i].sum()),
        )
        for i, label in enumerate(labels)
    )


def _mean_label_mass(predictions: Predictions, rows: Integers) -> float | None:
    if predictions.label_mass is None:
        return None
    known = predictions.label_mass[rows]
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None


def _neighbours_accuracy(predictions: Predictions, rows: Integers) -> float | None:
    if predictions.neighbours is None:
        return None
    known = rows[~np.isnan(predictions.neighbours[rows]).any(axis=1)]
    right = predictions.neighbours[known].argmax(axis=1) == predictions.gold_index[known]
    return float(right.mean()) if len(known) else None


def _probabilistic(
    predictions: Predictions, rows: Integers, draws: int, seed: int
) -> tuple[float | None, Estimate | None, int]:
    """Negative log-likelihood, calibration error, and the number of `rows` with probabilities."""
    if predictions.probabilities is None:
        return None, None, 0
    known = rows[~np.isnan(predictions.probabilities[rows]).any(axis=1)]
    if not len(known):
        return None, None, 0
    probabilities, gold = predictions.probabilities[known], predictions.gold_index[known]
    nll, dialogue = metrics.negative_log_likelihood(probabilities, gold), predictions.dialogue_index[known]
    if len(np.unique(dialogue)) > 1:
        error = metrics.calibration_error_over_dialogues(probabilities, gold, dialogue, draws, seed)
    else:
        error = Estimate(metrics.expected_calibration_error(probabilities, gold))
    return nll, error, len(known)


def _warnings(
    info: PredictionsInfo, classes: Sequence[ClassScores], dialogues: int, without_gold: int
) -> Iterator[str]:
    if without_gold:
        yield f"{without_gold:,} rows have no gold label and are left out."
    if dialogues == 1:
        yield "All targets are from one dialogue: no intervals, because whole dialogues are resampled."
    elif dialogues < FEW_DIALOGUES:
        yield f"Only {dialogues} dialogues: intervals from so few are usually too narrow."
    if info.split == "train" and info.folds is not None:
        yield f"Cross-fitted on train: each of {info.folds} models predicts the episodes that it was not trained on."
    elif info.split == "train":
        yield "Split 'train' is what a model is fitted on: this says nothing about new scenes."
    if info.split == "selection":
        yield "Split 'selection' is what choices are made on: expect less on new scenes."
    absent = [row.label for row in classes if not row.support]
    if absent:
        yield f"Never the gold label here, counted as F1 0 in macro F1: {', '.join(absent)}."
    unsaid = [row.label for row in classes if row.support and not row.predicted]
    if unsaid:
        yield f"Never predicted: {', '.join(unsaid)}."
