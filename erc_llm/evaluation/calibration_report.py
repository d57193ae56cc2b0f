"""Calibration of a predictions table: each correction step, reliability, risk by coverage and abstention.

Input: a `Predictions` table with probabilities, and the rows that have a gold label. Output: a `CalibrationReport` of
plain values, fractions between 0 and 1, NLL in nats. Every step is recomputed from the raw log-likelihoods and the
correction that the metadata states.
Does not depend on: files, the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from erc_llm import metrics
from erc_llm.metrics import Floats, Integers
from erc_llm.predictions import Correction, Predictions
from erc_llm.predictions.correction import scored_rows

BINS = 15
COVERAGES = tuple(range(100, 0, -5))  # percent


@dataclass(frozen=True)
class StepMetrics:
    """Metrics after one step of the correction; F1 over all labels, Neutral included."""

    step: str
    weighted_f1: float
    macro_f1: float
    accuracy: float
    nll: float
    calibration_error: float


@dataclass(frozen=True)
class RecallCost:
    """Recall of one label by the most probable label and by the decision rule, on the same probabilities."""

    label: str
    targets: int
    probable: float
    decided: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Targets whose largest probability is above `low` and at most `high`: its mean and their accuracy."""

    low: float
    high: float
    targets: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CoveragePoint:
    """Metrics of the targets that are answered when those with a largest probability below `threshold` are not.

    Attributes:
        threshold: A probability.
        coverage: Share of the targets that is answered; equally probable ones are answered or left out together.
        targets: Number of answered targets.
        risk: Error rate among them.
        weighted_f1: Their weighted F1 over all labels; 0 where nothing is answered.
        macro_f1: Their macro F1, likewise.
    """

    threshold: float
    coverage: float
    targets: int
    risk: float
    weighted_f1: float
    macro_f1: float


@dataclass(frozen=True)
class CalibrationReport:
    """Calibration of a table; all of it about targets with probabilities.

    Attributes:
        targets: Number of targets with probabilities.
        steps: Metrics of raw scores and after each step; empty where the metadata names no step.
        recalls: What a decision rule costs and brings, label by label, the most frequent label first; empty without a
            rule.
        reliability: Bins that hold targets, from the lowest confidence to the highest.
        risk_coverage: From all targets down to the most confident ones, in steps of about five percent.
        abstention: At the requested threshold, or else the table's own; None without one.
        warnings: Sentences about contradictions between metadata and columns.
    """

    targets: int
    steps: tuple[StepMetrics, ...]
    recalls: tuple[RecallCost, ...]
    reliability: tuple[ReliabilityBin, ...]
    risk_coverage: tuple[CoveragePoint, ...]
    abstention: CoveragePoint | None
    warnings: tuple[str, ...]


def report_calibration(table: Predictions, rows: Integers, abstain_below: float | None) -> CalibrationReport | None:
    """The report on `rows` of a table, all with a gold label; None where none of them has probabilities."""
    if table.probabilities is None:
        return None
    known = rows[~np.isnan(table.probabilities[rows]).any(axis=1)]
    if not len(known):
        return None
    below = table.info.abstain_below if abstain_below is None else abstain_below
    steps, warnings = _steps(table, known)
    confidence = table.probabilities[known].max(axis=1)
    return CalibrationReport(
        targets=len(known),
        steps=steps,
        recalls=tuple(_recalls(table, known)),
        reliability=tuple(reliability_bins(table.probabilities[known], table.gold_index[known])),
        risk_coverage=_risk_coverage(table, known, confidence),
        abstention=None if below is None else _kept(table, known, ~table.abstained(below)[known], below),
        warnings=warnings,
    )


def _steps(table: Predictions, known: Integers) -> tuple[tuple[StepMetrics, ...], tuple[str, ...]]:
    steps = Correction.of(table.info).steps
    if len(steps) == 1:
        return (), ()
    scored, last = known[scored_rows(table)[known]], steps[-1][1]
    rows = scored if table.log_likelihoods is not None and len(scored) else known
    if rows is known and any(step is not None for step in (last.prior, last.scaling, last.mixing)):
        return (), ("What prior and calibration did is not known: no log-likelihoods to compute it from.",)
    assert table.probabilities is not None, "the caller has checked that there are some"
    gold, found = table.gold_index[rows], []
    for name, correction in steps:
        probabilities = table.probabilities[rows]
        if rows is scored and table.log_likelihoods is not None:
            neighbours = None if table.neighbours is None else table.neighbours[rows]
            probabilities = correction.probabilities(table.log_likelihoods[rows], neighbours)
        decided = np.where(table.predicted_index[rows] < 0, metrics.INVALID, correction.decide(probabilities))
        scores = metrics.scores_from_confusion(metrics.confusion(gold, decided, probabilities.shape[1]))
        nll = metrics.negative_log_likelihood(probabilities, gold)
        error = metrics.expected_calibration_error(probabilities, gold)
        f1, macro, accuracy = float(scores.weighted_f1), float(scores.macro_f1), float(scores.accuracy)
        found.append(StepMetrics(name, f1, macro, accuracy, nll, error))
    off = float(np.abs(probabilities - table.probabilities[rows]).max())
    if off <= 1e-6 and (decided == table.predicted_index[rows]).all():
        return tuple(found), ()
    return tuple(found), (
        "Probabilities or answers of the table are not those that its log-likelihoods and metadata give "
        f"(probabilities differ by up to {off:.2g}).",
    )


def _recalls(table: Predictions, rows: Integers) -> Iterator[RecallCost]:
    """The recall of each gold label, with and without the table's decision rule."""
    if not table.info.decided or table.probabilities is None:
        return
    gold = table.gold_index[rows]
    answers = (table.probabilities[rows].argmax(axis=1), table.predicted_index[rows])
    support = np.bincount(gold, minlength=len(table.info.labels))
    for k in np.argsort(-support, kind="stable").tolist():
        if support[k]:
            probable, decided = (float((found[gold == k] == k).mean()) for found in answers)
            yield RecallCost(table.info.labels[k], int(support[k]), probable, decided)


def reliability_bins(probabilities: Floats, gold: Integers) -> Iterator[ReliabilityBin]:
    """The bins that hold targets, from the lowest confidence to the highest; probabilities are (targets, labels)."""
    found = metrics.reliability(probabilities, gold, BINS)
    for i in np.flatnonzero(found.count).tolist():
        n = int(found.count[i])
        yield ReliabilityBin(i / BINS, (i + 1) / BINS, n, float(found.confidence[i]) / n, float(found.right[i]) / n)


def _risk_coverage(table: Predictions, rows: Integers, confidence: Floats) -> tuple[CoveragePoint, ...]:
    """The risk-coverage curve of selective classification: Y. Geifman and R. El-Yaniv, NeurIPS 2017."""
    falling = np.sort(confidence)[::-1]
    wanted = [max(1, round(percent / 100 * len(rows))) for percent in COVERAGES]
    thresholds = dict.fromkeys(float(falling[n - 1]) for n in wanted)
    return tuple(_kept(table, rows, confidence >= threshold, threshold) for threshold in thresholds)


def _kept(table: Predictions, rows: Integers, kept: np.ndarray, threshold: float) -> CoveragePoint:
    gold, predicted = table.gold_index[rows][kept], table.predicted_index[rows][kept]
    scores = metrics.scores_from_confusion(metrics.confusion(gold, predicted, len(table.info.labels)))
    return CoveragePoint(
        threshold=threshold,
        coverage=len(gold) / len(rows),
        targets=len(gold),
        risk=1 - float(scores.accuracy) if len(gold) else 0.0,
        weighted_f1=float(scores.weighted_f1),
        macro_f1=float(scores.macro_f1),
    )
