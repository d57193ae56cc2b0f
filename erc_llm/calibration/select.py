"""Fits a calibration on a predictions table, and chooses by cross-validation over whole dialogues how much of one.

In: a table of the selection split with gold labels and log-likelihoods, and the prior to calibrate on top of. Out: a
`Calibration`. Choices are made on dialogues that the fit has not seen, because the targets of one dialogue are alike.
Applying one is `erc_llm.predictions.correct`; storing it with a run is `erc_llm.calibration.store`.
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
STRENGTHS = (1.0, 0.1, 0.01, 0.001)  # strongest first, so that a tie goes to the simpler fit
DECISION_STRENGTHS = (0.1, 0.01, 0.001)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was tried: a kind of calibration, its strength of regularisation, and the held-out NLL in nats."""

    kind: Kind
    strength: float | None
    nll: float


@dataclass(frozen=True, slots=True)
class DecisionCandidate:
    """Decision weights that were tried (None: none), and the weighted F1 they reached on held-out dialogues."""

    strength: float | None
    weighted_f1: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Figures on held-out dialogues: fractions between 0 and 1, and `nll` in nats."""

    weighted_f1: float
    macro_f1: float
    nll: float
    calibration_error: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted calibration and how it was chosen.

    Attributes:
        labels: The order of every list in it.
        prior: The prior correction that it was fitted on top of; None: raw scores.
        kind: What cross-validation chose.
        strength: With what regularisation; None for `identity`.
        temperature: By which scores are divided.
        offsets: (labels,) nats added then.
        fit_for: `weighted_f1`: decision weights were tried too.
        decision_strength: Their regularisation; None where none were chosen.
        decision_weights: (labels,) by which probabilities are multiplied to choose the label; None: not at all.
        targets: Targets it was fitted on.
        dialogues: Their dialogues.
        folds: Of the cross-validation, each of whole dialogues.
        seed: Of the folds.
        table_sha256: Hash of what it was fitted on, see `table_hash`.
        before: Figures without it.
        after: With it, on held-out dialogues. The choice was made on the same folds, so they are slightly too good.
        decided: The same with decision weights; None without.
        candidates: All that was tried.
        decision_candidates: Decision weights that were tried.
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
        """What it does to raw scores, with the prior that it stands on."""
        return Correction(self.prior, Scaling(self.temperature, self.offsets, self.words), self.decision_weights)

    @property
    def words(self) -> str:
        """What it is, for people."""
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
    """Labelled targets with scores on which the prior is corrected already, and the fold of each one's dialogue."""

    scores: Floats
    gold: Integers
    fold: Integers
    dialogues: int
    folds: int

    def splits(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """For each fold: the targets to fit on, and those held out."""
        for fold in range(self.folds):
            yield self.fold != fold, self.fold == fold


@dataclass(frozen=True, slots=True)
class _Decision:
    strength: float | None = None
    weights: tuple[float, ...] | None = None
    figures: HeldOut | None = None
    candidates: tuple[DecisionCandidate, ...] = ()


def calibrate(table: Predictions, prior: PriorShift | None = None, goal: Goal = "nll", seed: int = 0) -> Calibration:
    """Fit a calibration and choose its kind and strength by held-out negative log-likelihood.

    Identity, a temperature, and a temperature with an offset for each label are tried, the latter two with several
    strengths of regularisation; the best is fitted again on all targets. For `weighted_f1` decision weights are fitted
    on the calibrated probabilities and chosen, or not, by weighted F1 (over all labels) on the same folds.

    Args:
        table: Of the selection split; rows without gold label or log-likelihoods are left out.
        prior: The prior correction to calibrate on top of.
        goal: `nll`: no decision weights.
        seed: Of the folds.

    Raises:
        PredictionsError: Fewer than five dialogues, or the prior excludes a label that occurs.
    """
    targets = _targets_of(table, prior, seed)
    candidates = [Candidate("identity", None, _held_out_nll(targets, "identity", None))]
    for kind in ("temperature", "offsets"):
        candidates += [Candidate(kind, s, _held_out_nll(targets, kind, s)) for s in STRENGTHS]
    best = min(candidates, key=lambda c: c.nll)  # the first of equals, which is the simplest
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
        before=_figures(before, targets.gold, before.argmax(axis=1)),
        after=_figures(held_out, targets.gold, held_out.argmax(axis=1)),
        decided=decision.figures,
        candidates=tuple(candidates),
        decision_candidates=decision.candidates,
    )


def table_hash(table: Predictions) -> str:
    """Hash of what a calibration is fitted on: labels, keys, gold labels and log-likelihoods, in row order."""
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
            f"a calibration is chosen by cross-validation over whole dialogues: expected at least {FEWEST_DIALOGUES} "
            f"with gold labels and log-likelihoods, found {dialogues}; use a larger selection split"
        )
    raw, gold = table.log_likelihoods[rows], table.gold_index[rows]
    scores = raw if prior is None else raw + prior.log_ratio
    excluded = np.flatnonzero(np.isneginf(scores[np.arange(len(gold)), gold]))
    if len(excluded):
        label = table.info.labels[gold[excluded[0]]]
        raise PredictionsError(
            f"'{label}' is the gold label of a target that gives it likelihood 0; a calibration cannot mend that, "
            "give it a share in the prior"
        )
    folds = min(MOST_FOLDS, dialogues)
    # Sorting uniform numbers rather than `permutation`, whose stream numpy does not promise to keep.
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
    """(targets, labels) probabilities of each target by the fit on the other folds."""
    probabilities = np.empty_like(targets.scores)
    for train, test in targets.splits():
        fit = _fit(targets.scores[train], targets.gold[train], kind, strength)
        probabilities[test] = _scaled(targets.scores[test], fit)
    return probabilities


def _held_out_nll(targets: _Targets, kind: Kind, strength: float | None) -> float:
    return metrics.negative_log_likelihood(_held_out(targets, kind, strength), targets.gold)


def _choose_decision(targets: _Targets, best: Candidate, held_out: Floats, fit: Fit) -> _Decision:
    """None, unless some decision weights beat none on held-out dialogues."""
    answers = {None: held_out.argmax(axis=1)} | {
        strength: _decide_held_out(targets, best, held_out, strength) for strength in DECISION_STRENGTHS
    }
    figures = {strength: _figures(held_out, targets.gold, decided) for strength, decided in answers.items()}
    candidates = tuple(DecisionCandidate(strength, found.weighted_f1) for strength, found in figures.items())
    chosen = max(candidates, key=lambda c: c.weighted_f1).strength  # the first of equals: none, then the strongest
    if chosen is None:
        return _Decision(candidates=candidates)
    weights = fit_decision(_scaled(targets.scores, fit), chosen)
    return _Decision(chosen, weights, figures[chosen], candidates)


def _decide_held_out(targets: _Targets, best: Candidate, held_out: Floats, strength: float) -> Integers:
    """(targets,) labels by calibration and decision weights of the other folds."""
    decided = np.empty(len(targets.gold), dtype=np.int64)
    for train, test in targets.splits():
        fit = _fit(targets.scores[train], targets.gold[train], best.kind, best.strength)
        weights = fit_decision(_scaled(targets.scores[train], fit), strength)
        decided[test] = Correction(decision_weights=weights).decide(held_out[test])
    return decided


def _figures(probabilities: Floats, gold: Integers, decided: Integers) -> HeldOut:
    scores = metrics.scores_from_confusion(metrics.confusion(gold, decided, probabilities.shape[1]))
    return HeldOut(
        weighted_f1=float(scores.weighted_f1),
        macro_f1=float(scores.macro_f1),
        nll=metrics.negative_log_likelihood(probabilities, gold),
        calibration_error=metrics.expected_calibration_error(probabilities, gold),
    )
