"""Calibration by cross-validation: fits candidates on a predictions table and selects one by its held-out score.

Folds consist of whole dialogues, because the targets of one dialogue resemble each other; on a cross-fitted table, of
whole episodes. `erc_llm.predictions.correct` applies a calibration, `erc_llm.calibration.store` stores it with a run.

Input: a table with gold labels and log-likelihoods that the run was not trained on (its selection split, or its
cross-fitted train), and the prior to calibrate on top of. Output: a `Calibration`.
Does not depend on: runs, files, models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from erc_llm import metrics
from erc_llm.calibration.f1_rules import Metric, find_rule
from erc_llm.calibration.fit import Fit, fit_decision, fit_scaling, fit_weight
from erc_llm.calibration.record import (
    Calibration,
    Candidate,
    DecisionCandidate,
    F1Decide,
    Goal,
    HeldOut,
    Kind,
    NeighbourCandidate,
    StoredDecision,
    StoredNeighbours,
    Units,
)
from erc_llm.errors import PredictionsError
from erc_llm.metrics import Floats, Integers
from erc_llm.predictions import Correction, Decision, Predictions, PriorShift, Scaling
from erc_llm.predictions.correction import Rule, mix, normalise, scored_rows

F1_METRICS: tuple[Metric, ...] = ("weighted_f1", "macro_f1")
_Finder = Callable[[Floats], Decision]
_Rows = NDArray[np.bool_] | slice
_ALL = slice(None)
_FITTED: tuple[Kind, ...] = ("temperature", "offsets")

FEWEST_DIALOGUES = 5
MOST_FOLDS = 10
STRENGTHS = (1.0, 0.1, 0.01, 0.001)  # strongest first, so that ties select the simpler fit
DECISION_STRENGTHS = (0.1, 0.01, 0.001)


class Neighbourhood(NamedTuple):
    """Labels of the neighbours of every row of a table, for several candidates.

    Attributes:
        encoder: `words`, or the name of the encoder.
        index_sha256: Hash of the index's file.
        lines: Number of lines in the index.
        distributions: ((number of neighbours, temperature), (rows, labels) label distributions) of each candidate.
    """

    encoder: str
    index_sha256: str
    lines: int
    distributions: tuple[tuple[tuple[int, float], Floats], ...]


class _Choice(NamedTuple):
    """What is fitted: kind and strength of the calibration, and (targets, labels) labels of neighbours to mix in."""

    kind: Kind
    strength: float | None
    neighbours: Floats | None = None


@dataclass(frozen=True, eq=False)
class _Targets:
    """Labelled targets: rows, scores after the prior shift, gold labels, and the fold of each target's dialogue."""

    rows: Integers
    scores: Floats
    gold: Integers
    fold: Integers
    dialogues: int
    folds: int
    units: Units

    def splits(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """(targets to fit on, held-out targets) of each fold."""
        for fold in range(self.folds):
            yield self.fold != fold, self.fold == fold


def calibrate(
    table: Predictions,
    prior: PriorShift | None = None,
    goal: Goal = "nll",
    seed: int = 0,
    neighbours: Neighbourhood | None = None,
) -> Calibration:
    """Fit a calibration; its kind and strength are selected by held-out negative log-likelihood.

    The candidates are the identity, a temperature, and a temperature with an offset per label, the latter two with
    several regularisation strengths; the best is fitted again on all targets. Then the labels of neighbours are mixed
    in, if one of their candidates is better than none. The decision rules for weighted and macro F1 are found on the
    resulting probabilities. For `weighted_f1`, decision weights are fitted too, and kept if they improve weighted F1
    (over all labels) on the same folds.

    Args:
        table: Predictions that the run was not trained on; rows without gold label or log-likelihoods are ignored.
        prior: The prior shift to calibrate on top of.
        goal: `nll`: no decision weights; `weighted_f1`: decision weights are candidates too.
        seed: Seed of the assignment to folds.
        neighbours: Labels of neighbours to mix in; None for none.

    Raises:
        PredictionsError: Fewer than five dialogues, or the prior excludes a label that occurs.
    """
    targets = _targets_of(table, prior, seed)
    best, candidates = _best(targets)
    choice, options, neighbours_tried = _with_neighbours(targets, best, neighbours)
    held_out, fit = _held_out(targets, choice), _fit(targets, choice)
    sha256, before = table_hash(replace(table, gold=None)), normalise(targets.scores)
    strength, weights_tried = (None, ()) if goal == "nll" else _choose_weights(targets, choice, held_out)
    finders: dict[Rule, _Finder] = {metric: _f1_rule(metric, sha256) for metric in F1_METRICS}
    if strength is not None:
        finders["weights"] = _weights(strength, sha256)
    decisions = tuple(
        StoredDecision(find(_probabilities(targets, choice, fit)), _metrics_of_rule(targets, choice, held_out, find))
        for find in finders.values()
    )
    return Calibration(
        labels=table.info.labels,
        prior=prior,
        kind=best.kind,
        strength=best.strength,
        temperature=fit.temperature,
        offsets=fit.offsets,
        fit_for=goal,
        decision_strength=strength,
        targets=len(targets.gold),
        dialogues=targets.dialogues,
        folds=targets.folds,
        seed=seed,
        table_sha256=table_hash(table),
        before=_metrics(before, targets.gold, before.argmax(axis=1)),
        after=_metrics(held_out, targets.gold, held_out.argmax(axis=1)),
        candidates=candidates,
        decision_candidates=weights_tried,
        decisions=decisions,
        split=table.info.split,
        units=targets.units,
        neighbours=None
        if neighbours is None or options is None
        else StoredNeighbours(neighbours.encoder, neighbours.index_sha256, neighbours.lines, *options, fit.weight),
        neighbour_candidates=neighbours_tried,
    )


def decide_held_out(
    table: Predictions, prior: PriorShift | None, decide: F1Decide, *, calibrated: bool = True, seed: int = 0
) -> Predictions:
    """The table with every row decided by what was fitted on the other folds of `calibrate`: to measure a rule.

    The kind and strength of the calibration are chosen on all folds, as `calibrate` chooses them. If the table states
    neighbours, their labels are mixed in, with a weight that is fitted on the other folds too. The rows have no
    common correction, so log-likelihoods and the numbers of a correction are left out; the metadata names its steps.
    Rows that `calibrate` ignores keep their answers.

    Args:
        table: As for `calibrate`.
        prior: The prior shift before the calibration.
        decide: The rule.
        calibrated: Whether to calibrate and to mix in neighbours before the decision.
        seed: Seed of the assignment to folds.

    Raises:
        PredictionsError: As for `calibrate`.
    """
    targets = _targets_of(table, prior, seed)
    choice = _Choice("identity", None)
    if calibrated:
        best = _best(targets)[0]
        neighbours = None if table.neighbours is None else table.neighbours[targets.rows]
        choice = _Choice(best.kind, best.strength, neighbours)
    probabilities = _held_out(targets, choice)
    decided, stated = probabilities.argmax(axis=1), dict(Correction().metadata)
    if decide != "probable":
        decided = _decide_others(targets, choice, probabilities, _f1_rule(decide, None))
        stated |= {"decision": decide, "decision_way": "cross_fitted"}
    if choice.kind != "identity":
        stated["calibration"] = f"{choice.kind}, fitted on other {targets.units} (cross-fitted)"
    if prior is not None:
        stated["prior"] = prior.words
    everywhere = np.full((len(table), len(table.info.labels)), np.nan)
    everywhere[targets.rows] = probabilities
    predicted = np.array(table.predicted, dtype=object)
    predicted[targets.rows] = np.array(table.info.labels, dtype=object)[decided]
    return replace(
        table,
        info=replace(table.info, **stated),
        probabilities=everywhere,
        log_likelihoods=None,
        predicted=tuple(predicted.tolist()),
    )


def table_hash(table: Predictions) -> str:
    """Hash of the data that a calibration or rule is fitted on: labels, keys, gold labels and scores, in row order.

    Scores are the log-likelihoods, or the probabilities where a table has none.
    """
    rows = [table.info.labels, table.keys, table.gold]
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode())
    scores = table.probabilities if table.log_likelihoods is None else table.log_likelihoods
    if scores is not None:
        digest.update(np.ascontiguousarray(scores, dtype="<f8").tobytes())
    return digest.hexdigest()


def _targets_of(table: Predictions, prior: PriorShift | None, seed: int) -> _Targets:
    rows = np.flatnonzero((table.gold_index >= 0) & scored_rows(table))
    unit, units = table.dialogue_index[rows], "dialogues"
    if table.info.folds is not None and table.episode is not None:  # a fold's model has trained on none of an episode
        episodes = table.episode_index[rows]
        if len(set(episodes.tolist())) >= FEWEST_DIALOGUES:
            unit, units = episodes, "episodes"
    dialogue = np.unique(unit, return_inverse=True)[1]
    dialogues = int(dialogue.max()) + 1 if len(rows) else 0
    if table.log_likelihoods is None:
        raise PredictionsError(
            f"the table of {table.info.system} has no log-likelihoods, which a calibration is fitted on; predict it "
            "again, with scoring.decode=score, or a baseline by `erc-llm baseline CONFIG --resume --predict SPLIT`"
        )
    if dialogues < FEWEST_DIALOGUES:
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
    return _Targets(rows, scores, gold, fold_of[dialogue], dialogues, folds, cast(Units, units))


def _fit(targets: _Targets, choice: _Choice, rows: _Rows = _ALL) -> Fit:
    """What `choice` names, fitted on these targets."""
    scores, gold = targets.scores[rows], targets.gold[rows]
    fit = Fit(1.0, (0.0,) * scores.shape[1])
    if choice.kind != "identity" and choice.strength is not None:
        fit = fit_scaling(scores, gold, choice.strength, with_offsets=choice.kind == "offsets")
    if choice.neighbours is None:
        return fit
    return replace(fit, weight=fit_weight(_scaled(scores, fit), choice.neighbours[rows], gold))


def _scaled(scores: Floats, fit: Fit) -> Floats:
    return Correction(scaling=Scaling(fit.temperature, fit.offsets)).probabilities(scores)


def _probabilities(targets: _Targets, choice: _Choice, fit: Fit, rows: _Rows = _ALL) -> Floats:
    """(targets, labels) probabilities of these targets by a fit."""
    scaled = _scaled(targets.scores[rows], fit)
    return scaled if choice.neighbours is None else mix(scaled, choice.neighbours[rows], fit.weight)


def _held_out(targets: _Targets, choice: _Choice) -> Floats:
    """(targets, labels) probabilities of each target from the fit on the other folds."""
    probabilities = np.empty_like(targets.scores)
    for train, test in targets.splits():
        probabilities[test] = _probabilities(targets, choice, _fit(targets, choice, train), test)
    return probabilities


def _with_neighbours(
    targets: _Targets, found: Candidate, given: Neighbourhood | None
) -> tuple[_Choice, tuple[int, float] | None, tuple[NeighbourCandidate, ...]]:
    """A calibration with the best candidate for neighbours, unless none is better; that candidate, and all of them."""
    choice = _Choice(found.kind, found.strength)
    best, options, lowest = choice, None, found.nll
    tried = []
    for candidate, distributions in () if given is None else given.distributions:
        mixed = choice._replace(neighbours=distributions[targets.rows])
        nll = _held_out_nll(targets, mixed)
        tried.append(NeighbourCandidate(*candidate, nll))
        if nll < lowest:
            best, options, lowest = mixed, candidate, nll
    return best, options, tuple(tried)


def _best(targets: _Targets) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The candidate with the smallest held-out NLL, and all candidates."""
    candidates = [Candidate("identity", None, _held_out_nll(targets, _Choice("identity", None)))]
    for kind in _FITTED:
        candidates += [Candidate(kind, s, _held_out_nll(targets, _Choice(kind, s))) for s in STRENGTHS]
    return min(candidates, key=lambda c: c.nll), tuple(candidates)  # the first of equals, i.e. the simplest


def _held_out_nll(targets: _Targets, choice: _Choice) -> float:
    return metrics.negative_log_likelihood(_held_out(targets, choice), targets.gold)


def _choose_weights(
    targets: _Targets, choice: _Choice, held_out: Floats
) -> tuple[float | None, tuple[DecisionCandidate, ...]]:
    """The strength of decision weights that improve weighted F1 on held-out dialogues, if any; and all candidates."""
    most_probable = _metrics(held_out, targets.gold, held_out.argmax(axis=1))
    candidates = [DecisionCandidate(None, most_probable.weighted_f1)]
    for strength in DECISION_STRENGTHS:
        measured = _metrics_of_rule(targets, choice, held_out, _weights(strength, None))
        candidates.append(DecisionCandidate(strength, measured.weighted_f1))
    # The first of equals: none, then the strongest.
    return max(candidates, key=lambda c: c.weighted_f1).strength, tuple(candidates)


def _weights(strength: float, table_sha256: str | None) -> _Finder:
    """Returns the function that fits decision weights on calibrated probabilities."""

    def find(probabilities: Floats) -> Decision:
        gains = fit_decision(probabilities, strength)
        return Decision("weights", "inductive", gains, (0.0,) * len(gains), table_sha256)

    return find


def _f1_rule(metric: Metric, table_sha256: str | None) -> _Finder:
    """Returns the function that finds the rule for a metric on calibrated probabilities."""

    def find(probabilities: Floats) -> Decision:
        found = find_rule(probabilities, metric)
        return Decision(metric, "inductive", found.gains, found.costs, table_sha256)

    return find


def _metrics_of_rule(targets: _Targets, choice: _Choice, held_out: Floats, find: _Finder) -> HeldOut:
    """Metrics of the labels that are chosen with the calibration and the decision rule of the other folds."""
    return _metrics(held_out, targets.gold, _decide_others(targets, choice, held_out, find))


def _decide_others(targets: _Targets, choice: _Choice, held_out: Floats, find: _Finder) -> Integers:
    """(targets,) labels that are chosen with the calibration and the decision rule of the other folds."""
    decided = np.empty(len(targets.gold), dtype=np.int64)
    for train, test in targets.splits():
        fit = _fit(targets, choice, train)
        decided[test] = find(_probabilities(targets, choice, fit, train)).decide(held_out[test])
    return decided


def _metrics(probabilities: Floats, gold: Integers, decided: Integers) -> HeldOut:
    scores = metrics.scores_from_confusion(metrics.confusion(gold, decided, probabilities.shape[1]))
    return HeldOut(
        weighted_f1=float(scores.weighted_f1),
        macro_f1=float(scores.macro_f1),
        nll=metrics.negative_log_likelihood(probabilities, gold),
        calibration_error=metrics.expected_calibration_error(probabilities, gold),
        accuracy=float(scores.accuracy),
    )
