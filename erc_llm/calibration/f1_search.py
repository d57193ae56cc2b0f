"""Search for the decision rule with the largest expected F1: sweeps over rules, and exchanges between assignments.

A sweep changes the cost of one label and finds its best value exactly. Sweeps end where no single cost improves the
score; on small tables, exchanges of decisions between labels leave such points. The score and its terms are defined in
`erc_llm.calibration.f1_rules`.

Input: a `Task`, the distributions and what the score gives each label. Output: a `Point`, a rule with its score.
Does not depend on: the names of metrics and labels, predictions tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from erc_llm.metrics import Floats, Integers

TIE = 1e-12  # scores, and weighted probabilities relative to the largest gain, that are nearer than this are equal
# Most rows of a small table. Exchanges and all starts are for those: on larger ones, none has improved a score that
# sweeps from the first three starts reach (tests/calibration/test_f1_rules.py).
_SMALL = 200
_ROUNDS = 50  # limit of loops that end earlier when nothing improves
_FULL_ROUNDS = 5  # steps of the fixed point on larger tables
_RANDOM_STARTS = 16
_MARGIN = 1e-6  # fraction of the mean gain by which a label that is never decided loses


@dataclass(frozen=True, slots=True)
class Task:
    """Distributions, (labels, rows); expected support and weight in the score of each label, (labels, 1)."""

    mass: Floats
    support: Floats
    weight: Floats

    def score(self, hits: Floats, decided: Floats) -> Floats:
        """(...) expected score of expected hits and numbers of decisions, (labels, ...)."""
        score: Floats = (2 * self.weight * hits / (self.support + decided)).sum(axis=0)
        return score

    def counts(self, labels: Integers) -> tuple[Floats, Floats]:
        """Expected hits and numbers of decisions, (labels, 1) each, of decided labels, (rows,)."""
        of_label = self.mass[labels, np.arange(len(labels))]
        hits, decided = (np.bincount(labels, values, len(self.mass)) for values in (of_label, np.ones(len(labels))))
        return hits.astype(np.float64)[:, None], decided.astype(np.float64)[:, None]

    def gains(self, decided: Floats) -> Floats:
        """(labels, 1) derivative of the score by the hits, with at least one decision for each label."""
        return 2 * self.weight / (self.support + np.maximum(decided, 1))

    def sample(self, cells: int) -> Task:
        """The task on evenly spaced rows with at most so many probabilities, if these are at least a row."""
        step = -(-self.mass.size // cells)
        mass = np.ascontiguousarray(self.mass[:, ::step])
        # Support of all rows, because a rare label may have no mass on the sample.
        return self if step == 1 else Task(mass, self.support * mass.shape[1] / self.mass.shape[1], self.weight)


@dataclass(frozen=True, slots=True)
class Point:
    """A rule during the search: gains and costs, (labels, 1), the labels it decides, (rows,), and its score."""

    gains: Floats
    costs: Floats
    labels: Integers
    score: float


def _score(task: Task, labels: Integers) -> float:
    return float(task.score(*task.counts(labels))[0])


def _point(task: Task, gains: Floats, costs: Floats) -> Point:
    labels = (gains * task.mass - costs).argmax(axis=0)
    return Point(gains, costs, labels, _score(task, labels))


def _gradient(task: Task, point: Point) -> Point:
    """The rule of the score's gradient at a point: its fixed points are the optima of a large table."""
    hits, decided = task.counts(point.labels)
    gains = task.gains(decided)
    return _point(task, gains, gains * hits / (task.support + decided))


def iterate(task: Task, gains: Floats, costs: Floats) -> Point:
    """The best rule of some steps of the fixed point."""
    best = _point(task, gains, costs)
    for _ in range(_FULL_ROUNDS):
        step = _gradient(task, best)
        if step.score <= best.score + TIE:
            break
        best = step
    return best


# ---- Search over rules


def search(task: Task) -> Point:
    """The best rule from several starts, improved in turns by exchanges of rows and by sweeps."""
    best = max((climb(task, *start) for start in _starts(task)), key=lambda point: point.score)
    for _ in range(_ROUNDS if task.mass.shape[1] <= _SMALL else 0):
        labels = _exchange(task, best.labels)
        found = climb(task, *_separate(task, labels, task.gains(task.counts(labels)[1])))
        if found.score <= best.score + TIE:
            break
        best = found
    return best


def _starts(task: Task) -> Iterator[tuple[Floats, Floats]]:
    """Gains and costs: probable labels, and probability over (the root of) support.

    For a small table also one label for all rows, and random gains, whose costs are the gain times the share of the
    label, up to a random factor.
    """
    shape = task.support.shape
    yield np.ones(shape), np.zeros(shape)
    yield 1 / np.sqrt(task.support + 1), np.zeros(shape)
    yield 1 / (task.support + 1), np.zeros(shape)
    if task.mass.shape[1] > _SMALL:
        return
    for label in range(len(task.support)):
        yield np.ones(shape), np.where(np.arange(len(task.support))[:, None] == label, 0.0, 2.0)
    generator = np.random.default_rng(0)
    for _ in range(_RANDOM_STARTS):
        gains = np.exp(generator.normal(size=shape))
        factor = np.exp(0.5 * generator.normal(size=shape))
        yield gains, gains * factor * task.support / task.support.sum()


def climb(task: Task, gains: Floats, costs: Floats) -> Point:
    """Improves a rule, and its gradient rule, by sweeps over the cost of one label after the other."""
    best = _point(task, gains, costs)
    for _ in range(_ROUNDS):
        before = best.score
        for base in (best, _gradient(task, best)):
            if base.score > best.score + TIE:
                best = base
            for label in range(len(gains)):
                moved = _point(task, base.gains, _sweep(task, base, label))
                if moved.score > best.score + TIE:
                    best = base = moved
        if best.score <= before + TIE:
            break
    return best


def _sweep(task: Task, point: Point, label: int) -> Floats:
    """(labels, 1) costs with the best cost of one label, the other costs kept.

    While the cost falls, rows turn one by one from the best other label to this one, so that running sums give the
    score for every cost. Rows that turn at the same cost are not separated.
    """
    rows = task.mass.shape[1]
    if len(point.gains) == 1:
        return point.costs
    value = point.gains * task.mass - point.costs
    own = value[label] + point.costs[label]
    value[label] = -np.inf
    other = value.argmax(axis=0)
    turn = own - value[other, np.arange(rows)]
    order = np.argsort(-turn, kind="stable")
    turn = turn[order]
    hits, decided = (np.zeros((len(value), rows + 1)) for _ in range(2))
    hits[:, :1], decided[:, :1] = task.counts(other)
    left, column = other[order], np.arange(1, rows + 1)
    hits[left, column], decided[left, column] = -task.mass[left, order], -1
    hits[label, 1:], decided[label, 1:] = task.mass[label, order], 1
    score = task.score(hits.cumsum(axis=1), decided.cumsum(axis=1))
    score[1:-1][turn[:-1] - turn[1:] <= TIE * point.gains.max()] = -1
    best, margin = int(score.argmax()), 2 * point.gains.mean()
    edges = np.concatenate([[turn[0] + margin], turn, [turn[-1] - margin]])
    costs = point.costs.copy()
    costs[label] = (edges[best] + edges[best + 1]) / 2
    return costs


# ---- Search over assignments, which leaves the local optima of sweeps


def _exchange(task: Task, labels: Integers) -> Integers:
    """Improves decided labels, (rows,), as long as moving the number of decisions by one from label to label does.

    For given numbers of decisions the score is linear in the hits, so the best labels are those of a transportation
    problem in which a row decided k is worth gains_k P_ik.
    """
    best = _score(task, labels)
    for _ in range(_ROUNDS):
        before, decided = labels, task.counts(labels)[1]
        for lost in np.flatnonzero(decided):
            for won in range(len(decided)):
                wanted = decided.copy()
                wanted[lost] -= 1
                wanted[won] += 1
                moved = _transport(task, before, task.gains(wanted), int(lost), won)
                score = _score(task, moved)
                if score > best + TIE:
                    labels, best = moved, score
        if labels is before:
            break
    return labels


def _transport(task: Task, labels: Integers, gains: Floats, lost: int, won: int) -> Integers:
    """The most valuable labels after one decision has moved from label `lost` to label `won`, possibly the same.

    Exchanges along positive cycles reach the optimum for the old numbers of decisions; the longest path from `lost` to
    `won` then reaches the optimum for the new ones (successive shortest paths).
    """
    labels = labels.copy()
    for _ in labels:
        value, rows = _moves(task, labels, gains)
        longest, follow = _longest(value)
        cycle = bool(longest.diagonal().max() > TIE * gains.max())
        start = int(longest.diagonal().argmax()) if cycle else lost
        path = _path(follow, start, start if cycle else won)
        edges = path[:-1], path[1:]
        if cycle and value[edges].sum() <= 0:
            break
        labels[rows[edges]] = path[1:]
        if not cycle:
            break
    return labels


def _moves(task: Task, labels: Integers, gains: Floats) -> tuple[Floats, Integers]:
    """Largest value of moving a row from label j to label k, (labels, labels), and that row; -inf without a row."""
    count = len(gains)
    value, row = np.full((count, count), -np.inf), np.zeros((count, count), dtype=np.int64)
    for label in range(count):
        rows = np.flatnonzero(labels == label)
        if len(rows):
            won = gains * task.mass[:, rows]
            won -= won[label].copy()
            best = won.argmax(axis=1)
            value[label], row[label] = won[np.arange(count), best], rows[best]
    np.fill_diagonal(value, 0)
    return value, row


def _longest(value: Floats) -> tuple[Floats, Integers]:
    """Length and second node of the longest paths, (nodes, nodes), by Floyd-Warshall; ends at a positive cycle."""
    longest, follow = value, np.tile(np.arange(len(value)), (len(value), 1))
    tie = TIE * abs(value[np.isfinite(value)]).max()
    for node in range(len(value)):
        detour = longest[:, [node]] + longest[[node]]
        better = detour > longest + tie
        follow = np.where(better, follow[:, [node]], follow)
        longest = np.where(better, detour, longest)
        if longest.diagonal().max() > tie:
            break
    return longest, follow


def _path(follow: Integers, start: int, end: int) -> list[int]:
    """Nodes from start to end; if they lead through another cycle before, that cycle."""
    path = [start, int(follow[start, end])]
    while path[-1] != end:
        following = int(follow[path[-1], end])
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
    return path


def _separate(task: Task, labels: Integers, gains: Floats) -> tuple[Floats, Floats]:
    """Gains, and costs in the middle of the range for which the rule decides these labels.

    The rule decides a row j and not k if cost_k - cost_j exceeds the value of moving it to k. The longest paths of
    these values from one label, and the negative ones to it, are the extreme costs; their mean is between them. The
    constant that all costs may share is that of the gradient, as is the cost of a label that is never decided, or the
    least one with which it is never decided.
    """
    longest, _ = _longest(_moves(task, labels, gains)[0])
    hits, decided = task.counts(labels)
    used = np.flatnonzero(decided)
    costs = gains * hits / (task.support + decided)
    between = longest[np.ix_(used, used)]
    middle = (between - between.T).mean(axis=0) / 2
    costs[used, 0] = middle + np.average(costs[used, 0] - middle, weights=decided[used, 0])
    least = (costs[used] + longest[used]).max(axis=0)[:, None] + _MARGIN * gains.mean()
    return gains, np.where(decided > 0, costs, np.maximum(costs, least))


def centred(task: Task, point: Point) -> Point:
    """A rule that scores the same, with costs in the middle of their range and gains of the gradient if possible."""
    for gains in (task.gains(task.counts(point.labels)[1]), point.gains):
        centred = _point(task, *_separate(task, point.labels, gains))
        if centred.score >= point.score - TIE:
            return centred
    return point
