"""Calibration by cross-validation: fits candidates on a predictions table and selects one by its held-out score.

Folds consist of whole dialogues, because the targets of one dialogue resemble each other.
`erc_llm.predictions.correct` applies a calibration, `erc_llm.calibration.store` stores it with a run.

Input: a table of the selection split with gold labels and log-likelihoods, and the prior to calibrate on top of.
Output: a `Calibration`.
Does not depend on: runs, files, models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from erc_llm import metrics
from erc_llm.calibration.fit import Fit, fit_decision, fit_scaling
from erc_llm.errors import PredictionsError
from erc_llm.predictions import Correction, Predictions, PriorShift, Scaling
from erc_llm.predictions.correction import normalise, scored_rows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Kind = Literal["identity", "temperature", "offsets"]
Goal = Literal["nll", "weighted_f1"]

FEWEST_DIALOGUES = 5
MOST_FOLDS = 10
STRENGTHS = (1.0, 0.1, 0.01, 0.001)  # strongest first, so that ties select the simpler fit
DECISION_STRENGTHS = (0.1, 0.01, 0.001)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate: the kind of calibration, its regularisation strength, and its held-out NLL in nats."""

    kind: Kind
    strength: float | None
    nll: float


@dataclass(frozen=True, slots=True)
class DecisionCandidate:
    """Regularisation strength of candidate decision weights (None: no weights), and their held-out weighted F1."""

    strength: float | None
    weighted_f1: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Metrics on held-out dialogues: fractions between 0 and 1, and `nll` in nats."""

    weighted_f1: float
    macro_f1: float
    nll: float
    calibration_error: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted calibration and how it was selected.

    Attributes:
        labels: Label names; the order of all lists over labels.
        prior: Prior shift that the calibration was fitted on top of; None: raw scores.
        kind: Kind of calibration that cross-validation selected.
        strength: Its regularisation strength; None for `identity`.
        temperature: Divisor of the scores.
        offsets: (labels,) in nats, added to the divided scores.
        fit_for: Goal of the fit; for `weighted_f1`, decision weights were candidates too.
        decision_strength: Regularisation strength of the decision weights; None if none were selected.
        decision_weights: (labels,) factors on the probabilities when the label is chosen; None if none were selected.
        targets: Number of targets in the fit.
        dialogues: Number of their dialogues.
        folds: Number of cross-validation folds, each of whole dialogues.
        seed: Seed of the assignment to folds.
        table_sha256: Hash of the data of the fit, see `table_hash`.
        before: Metrics without the calibration.
        after: Metrics with it on held-out dialogues; slightly optimistic, because the same folds served for selection.
        decided: The same with decision weights; None if none were selected.
        candidates: All candidates.
        decision_candidates: All candidates for decision weights.
    """

    labels: tuple[str, ...]
    prior: PriorShift | None
    kind: Kind
    strength: float | None
    temperature: float
    offsets: tuple[float, ...]
    fit_for: Goal
    decision_strength: float | None
    decision_weights: tuple[float, ...] | None
    targets: int
    dialogues: int
    folds: int
    seed: int
    table_sha256: str
    before: HeldOut
    after: HeldOut
    decided: HeldOut | None
    candidates: tuple[Candidate, ...]
    decision_candidates: tuple[DecisionCandidate, ...]

    @property
    def correction(self) -> Correction:
        """The correction of raw scores: the prior shift, the calibration and the decision weights."""
        return Correction(self.prior, Scaling(self.temperature, self.offsets, self.words), self.decision_weights)

    @property
    def words(self) -> str:
        """Description for the user."""
        what = {
            "identity": "identity, which cross-validation preferred to any calibration",
            "temperature": f"temperature {self.temperature:.4g}",
            "offsets": f"temperature {self.temperature:.4g} and an offset for each label",
        }[self.kind]
        return (
            f"{what}; fitted on {self.targets} targets of the selection split (table {self.table_sha256[:12]}), "
            f"chosen by {self.folds} folds over dialogues"
        )


@dataclass(frozen=True, eq=False)
class _Targets:
    """Labelled targets: scores after the prior shift, gold labels, and the fold of each target's dialogue."""

    scores: Floats
    gold: Integers
    fold: Integers
    dialogues: int
    folds: int

    def splits(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """(targets to fit on, held-out targets) of each fold."""
        for fold in range(self.folds):
            yield self.fold != fold, self.fold == fold


@dataclass(frozen=True, slots=True)
class _Decision:
    strength: float | None = None
    weights: tuple[float, ...] | None = None
    metrics: HeldOut | None = None
    candidates: tuple[DecisionCandidate, ...] = ()


def calibrate(table: Predictions, prior: PriorShift | None = None, goal: Goal = "nll", seed: int = 0) -> Calibration:
    """Fit a calibration; its kind and strength are selected by held-out negative log-likelihood.

    The candidates are the identity, a temperature, and a temperature with an offset per label, the latter two with
    several regularisation strengths; the best is fitted again on all targets. For `weighted_f1`, decision weights are
    fitted on the calibrated probabilities, and kept if they improve weighted F1 (over all labels) on the same folds.

    Args:
        table: Predictions of the selection split; rows without gold label or log-likelihoods are ignored.
        prior: The prior shift to calibrate on top of.
        goal: `nll`: no decision weights; `weighted_f1`: decision weights are candidates too.
        seed: Seed of the assignment to folds.

    Raises:
        PredictionsError: Fewer than five dialogues, or the prior excludes a label that occurs.
    """
    targets = _targets_of(table, prior, seed)
    candidates = [Candidate("identity", None, _held_out_nll(targets, "identity", None))]
    for kind in ("temperature", "offsets"):
        candidates += [Candidate(kind, s, _held_out_nll(targets, kind, s)) for s in STRENGTHS]
    best = min(candidates, key=lambda c: c.nll)  # the first of equals, i.e. the simplest
    held_out = _held_out(targets, best.kind, best.strength)
    fit = _fit(targets.scores, targets.gold, best.kind, best.strength)
    decision = _Decision() if goal == "nll" else _choose_decision(targets, best, held_out, fit)
    before = normalise(targets.scores)
    return Calibration(
        labels=table.info.labels,
        prior=prior,
        kind=best.kind,
        strength=best.strength,
        temperature=fit.temperature,
        offsets=fit.offsets,
        fit_for=goal,
        decision_strength=decision.strength,
        decision_weights=decision.weights,
        targets=len(targets.gold),
        dialogues=targets.dialogues,
        folds=targets.folds,
        seed=seed,
        table_sha256=table_hash(table),
        before=_metrics(before, targets.gold, before.argmax(axis=1)),
        after=_metrics(held_out, targets.gold, held_out.argmax(axis=1)),
        decided=decision.metrics,
        candidates=tuple(candidates),
        decision_candidates=decision.candidates,
    )


def table_hash(table: Predictions) -> str:
    """Hash of the data that a calibration is fitted on: labels, keys, gold labels, log-likelihoods, in row order."""
    rows = [table.info.labels, table.keys, table.gold]
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode())
    if table.log_likelihoods is not None:
        digest.update(np.ascontiguousarray(table.log_likelihoods, dtype="<f8").tobytes())
    return digest.hexdigest()


def _targets_of(table: Predictions, prior: PriorShift | None, seed: int) -> _Targets:
    rows = np.flatnonzero((table.gold_index >= 0) & scored_rows(table))
    dialogue = np.unique(table.dialogue_index[rows], return_inverse=True)[1]
    dialogues = int(dialogue.max()) + 1 if len(rows) else 0
    if table.log_likelihoods is None or dialogues < FEWEST_DIALOGUES:
        raise PredictionsError(
            f"calibration uses cross-validation over whole dialogues: expected at least {FEWEST_DIALOGUES} "
            f"with gold labels and log-likelihoods, found {dialogues}; use a larger selection split"
        )
    raw, gold = table.log_likelihoods[rows], table.gold_index[rows]
    scores = raw if prior is None else raw + prior.log_ratio
    excluded = np.flatnonzero(np.isneginf(scores[np.arange(len(gold)), gold]))
    if len(excluded):
        label = table.info.labels[gold[excluded[0]]]
        raise PredictionsError(
            f"a target with gold label '{label}' gives this label likelihood 0, which no calibration can correct; "
            "give the label a share above 0 in the prior"
        )
    folds = min(MOST_FOLDS, dialogues)
    # Sorts uniform numbers instead of calling `permutation`, whose random stream numpy may change.
    order = np.argsort(np.random.default_rng(seed).random(dialogues), kind="stable")
    fold_of = np.empty(dialogues, dtype=np.int64)
    fold_of[order] = np.arange(dialogues) % folds
    return _Targets(scores, gold, fold_of[dialogue], dialogues, folds)


def _fit(scores: Floats, gold: Integers, kind: Kind, strength: float | None) -> Fit:
    if kind == "identity" or strength is None:
        return Fit(1.0, (0.0,) * scores.shape[1])
    return fit_scaling(scores, gold, strength, with_offsets=kind == "offsets")


def _scaled(scores: Floats, fit: Fit) -> Floats:
    return Correction(scaling=Scaling(fit.temperature, fit.offsets)).probabilities(scores)


def _held_out(targets: _Targets, kind: Kind, strength: float | None) -> Floats:
    """(targets, labels) probabilities of each target from the fit on the other folds."""
    probabilities = np.empty_like(targets.scores)
    for train, test in targets.splits():
        fit = _fit(targets.scores[train], targets.gold[train], kind, strength)
        probabilities[test] = _scaled(targets.scores[test], fit)
    return probabilities


def _held_out_nll(targets: _Targets, kind: Kind, strength: float | None) -> float:
    return metrics.negative_log_likelihood(_held_out(targets, kind, strength), targets.gold)


def _choose_decision(targets: _Targets, best: Candidate, held_out: Floats, fit: Fit) -> _Decision:
    """Decision weights, if some improve weighted F1 on held-out dialogues; otherwise only the candidates."""
    decisions = {None: held_out.argmax(axis=1)} | {
        strength: _decide_held_out(targets, best, held_out, strength) for strength in DECISION_STRENGTHS
    }
    measured = {strength: _metrics(held_out, targets.gold, decided) for strength, decided in decisions.items()}
    candidates = tuple(DecisionCandidate(strength, found.weighted_f1) for strength, found in measured.items())
    chosen = max(candidates, key=lambda c: c.weighted_f1).strength  # the first of equals: none, then the strongest
    if chosen is None:
        return _Decision(candidates=candidates)
    weights = fit_decision(_scaled(targets.scores, fit), chosen)
    return _Decision(chosen, weights, measured[chosen], candidates)


def _decide_held_out(targets: _Targets, best: Candidate, held_out: Floats, strength: float) -> Integers:
    """(targets,) label indices chosen with the calibration and decision weights of the other folds."""
    decided = np.empty(len(targets.gold), dtype=np.int64)
    for train, test in targets.splits():
        fit = _fit(targets.scores[train], targets.gold[train], best.kind, best.strength)
        weights = fit_decision(_scaled(targets.scores[train], fit), strength)
        decided[test] = Correction(decision_weights=weights).decide(held_out[test])
    return decided


def _metrics(probabilities: Floats, gold: Integers, decided: Integers) -> HeldOut:
    scores = metrics.scores_from_confusion(metrics.confusion(gold, decided, probabilities.shape[1]))
    return HeldOut(
        weighted_f1=float(scores.weighted_f1),
        macro_f1=float(scores.macro_f1),
        nll=metrics.negative_log_likelihood(probabilities, gold),
        calibration_error=metrics.expected_calibration_error(probabilities, gold),
    )
