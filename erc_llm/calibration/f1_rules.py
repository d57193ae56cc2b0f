"""Decision rules for F1: finds the rule argmax_k(gain_k p_k - cost_k) with the largest expected weighted or macro F1.

The expectation is taken under the label distributions themselves; no gold labels are used. If n rows P (n, labels) are
decided as y, then S_k is the sum of P_ik over all rows (expected support), N_k and T_k are the number of rows decided k
and the sum of P_ik over them (expected hits), and F_k = 2 T_k / (S_k + N_k). The expected score is sum_k w_k F_k, with
w_k = S_k / n for weighted F1 and 1 / (number of labels with S_k > 0) for macro F1. This ratio of expectations is the
plug-in estimate of N. Ye, K. M. A. Chai, W. S. Lee, H. L. Chieu, "Optimizing F-measures: a tale of two approaches"
(ICML 2012). Its optimum is a rule of the form above: H. Narasimhan, H. Ramaswamy, A. Saha, S. Agarwal, "Consistent
multiclass algorithms for complex performance measures" (ICML 2015).

Input: label distributions. Output: an `F1Rule`, or what a rule decides and its expected score.
Does not depend on: gold labels, predictions tables, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from erc_llm.calibration.f1_search import TIE, Task, centred, climb, iterate, search
from erc_llm.errors import PredictionsError
from erc_llm.metrics import Floats, Integers
from erc_llm.predictions.correction import decide

Metric = Literal["weighted_f1", "macro_f1"]

_SEARCH_CELLS = 14_000  # most rows times labels for sweeps from all starts: 2,000 rows of 7 labels
_CLIMB_CELLS = 140_000  # most rows times labels for sweeps from the best rule of that search
_ROW_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class F1Rule:
    """The rule argmax_k(gains_k p_k - costs_k), and its expected score on the distributions it was found on.

    Attributes:
        gains: (labels,) factors on the probabilities, with mean 1.
        costs: (labels,) amounts subtracted afterwards.
        expected: Expected score of the rule, between 0 and 1.
        probable: Expected score of the most probable label (all gains 1, all costs 0).
    """

    gains: tuple[float, ...]
    costs: tuple[float, ...]
    expected: float
    probable: float


def find_rule(probabilities: Floats, metric: Metric) -> F1Rule:
    """The rule with the largest expected score found; never one that is worse than the most probable label.

    Equal rows get the same label, although an assignment that splits them may score higher. A label without mass is
    never decided. The search is deterministic; it is local, from several starts. Large tables (more than 2,000 rows of
    7 labels) are searched on evenly spaced rows first, and the rule is improved on more of them afterwards.

    Args:
        probabilities: (rows, labels) label distributions.
        metric: The score to maximise.

    Raises:
        PredictionsError: There are no rows, or a row is not a distribution.
    """
    task, live = _task(probabilities, metric)
    point = search(task.sample(_SEARCH_CELLS))
    if task.mass.size > _SEARCH_CELLS:
        point = climb(task.sample(_CLIMB_CELLS), point.gains, point.costs)
    if task.mass.size > _CLIMB_CELLS:
        point = iterate(task, point.gains, point.costs)
    point = centred(task, point)
    labels = probabilities.shape[1]
    scale = point.gains.sum() / labels
    gains = np.zeros(labels)
    # With gain 0, a label whose cost exceeds another label's cost cannot win for any distribution.
    costs = np.full(labels, point.costs.min() / scale + 1)
    gains[live], costs[live] = point.gains[:, 0] / scale, point.costs[:, 0] / scale
    found = expected_score(probabilities, decide(probabilities, gains, costs), metric)
    equal = np.ones(labels), np.zeros(labels)
    probable = expected_score(probabilities, decide(probabilities, *equal), metric)
    if found <= probable + TIE:
        (gains, costs), found = equal, probable
    return F1Rule(tuple(gains.tolist()), tuple(costs.tolist()), found, probable)


def expected_score(probabilities: Floats, decided: Integers, metric: Metric) -> float:
    """Expected score, between 0 and 1, of decided labels; the definition is in the module's docstring.

    Args:
        probabilities: (rows, labels) label distributions.
        decided: (rows,) label indices.
        metric: The score.

    Raises:
        PredictionsError: There are no rows, a row is not a distribution, or `decided` does not fit the distributions.
    """
    task, live = _task(probabilities, metric)
    rows, labels = probabilities.shape
    if decided.shape != (rows,) or decided.min() < 0 or decided.max() >= labels:
        raise PredictionsError(
            f"decided labels: expected {rows} indices from 0 to {labels - 1}, found shape {decided.shape} with values "
            f"from {decided.min(initial=0)} to {decided.max(initial=0)}"
        )
    of_decided = probabilities[np.arange(rows), decided]
    hits, numbers = (np.bincount(decided, values, labels)[live, None] for values in (of_decided, np.ones(rows)))
    return float(task.score(hits.astype(np.float64), numbers.astype(np.float64))[0])


def _task(probabilities: Floats, metric: Metric) -> tuple[Task, Integers]:
    """The task on the labels with mass, and their indices."""
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise PredictionsError(
            f"label distributions: expected at least one row of probabilities, found shape {probabilities.shape}"
        )
    # A comparison with NaN is false.
    good = (abs(probabilities.sum(axis=1) - 1) <= _ROW_SUM_TOLERANCE) & (probabilities.min(axis=1) >= 0)
    if not good.all():
        row = int(np.argmin(good))
        raise PredictionsError(
            f"label distributions: row {row} (counted from 0) is {probabilities[row].tolist()}; expected probabilities "
            f"of at least 0 that sum to 1 within {_ROW_SUM_TOLERANCE}"
        )
    support = probabilities.sum(axis=0)
    live = np.flatnonzero(support > 0)
    mass = np.ascontiguousarray(probabilities[:, live].T, dtype=np.float64)
    support = support[live, None]
    weight = support / len(probabilities) if metric == "weighted_f1" else np.full_like(support, 1 / len(live))
    return Task(mass, support, weight), live
