"""Tallies: counts by cluster from which all metrics of several runs are computed, resampled and swapped by cluster.

Input: gold labels, each run's answers, the cluster of each target and its subgroups, all on the same targets. Output:
metrics of each run, their resamples, and permutation p-values. A cluster is a dialogue, or an episode.
Does not depend on: predictions tables, reports.

The metrics of a run are one vector, so that intervals and p-values are computed for all of them at once; `Layout` gives
the index of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erc_llm import metrics
from erc_llm.errors import InternalError
from erc_llm.metrics import Floats, Integers
from erc_llm.resampling import chunk_sizes, for_products, resampled_sums

BINS = 15  # of the calibration error
_TIE, _TIE_OF_LOSSES = 1e-12, 1e-6  # a swapped difference this much smaller than the observed one counts as equal


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the metrics of a run stand in its vector of metrics.

    Attributes:
        groups: Number of groups that have a weighted F1; group 0 is all targets.
        labels: Size of the label set.
    """

    groups: int
    labels: int

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self.groups + self.labels + 5

    def headline(self, metric: metrics.HeadlineMetric) -> int:
        """Place of a headline metric; weighted F1 of group `g` stands at place `g`."""
        return {"weighted_f1": 0, "macro_f1": self.groups, "accuracy": self.groups + 1}[metric]

    def label(self, index: int) -> int:
        """Place of the F1 of a label."""
        return self.groups + 2 + index

    @property
    def nll(self) -> int:
        """Place of the mean -ln p(gold), in nats; NaN without probabilities."""
        return self.size - 3

    @property
    def brier(self) -> int:
        """Place of the mean Brier score; NaN without probabilities."""
        return self.size - 2

    @property
    def calibration(self) -> int:
        """Place of the expected calibration error; NaN without probabilities."""
        return self.size - 1


@dataclass(frozen=True)
class Tallies:
    """Counts by cluster.

    Attributes:
        support: (clusters, groups, labels) targets with that gold label.
        hits: (clusters, runs, groups, labels) those of them that are predicted right.
        answered: (clusters, runs, groups, labels) targets for which that label is predicted.
        scored: (clusters,) targets on which all runs have probabilities.
        sums: (clusters, runs, 2 + bins) over these, of -ln p(gold) in nats, of the squared error, and of each bin's
            `metrics.calibration_gaps`.
    """

    support: Integers
    hits: Integers
    answered: Integers
    scored: Integers
    sums: Floats

    @property
    def layout(self) -> Layout:
        """Layout of the vectors of metrics."""
        return Layout(*self.support.shape[1:])

    @property
    def runs(self) -> int:
        """Number of runs."""
        return int(self.hits.shape[1])


def tally(
    gold: Integers,
    answers: Sequence[Integers],
    cluster: Integers,
    factors: Sequence[tuple[Integers, int]],
    n_labels: int,
    probabilities: Sequence[Floats] | None = None,
) -> Tallies:
    """Count answers and sum losses by cluster.

    Args:
        gold: (targets,) label indices.
        answers: For each run (targets,) label indices, -1 where invalid.
        cluster: (targets,) any integer per cluster.
        factors: Ways to divide the targets: (targets,) level of each, -1 for none, and the number of levels. Group 0 is
            all targets; the levels follow, factor after factor.
        n_labels: Size of the label set.
        probabilities: For each run (targets, labels), rows of NaN where unknown; None leaves NaN in the losses.
    """
    names, clusters = np.unique(np.asarray(cluster), return_inverse=True)
    everything = (np.zeros(len(gold), dtype=np.int64), 1)

    def count(label: Integers, which: NDArray[np.bool_]) -> Integers:
        parts = []
        for level, levels in (everything, *factors):
            counted = which & (level >= 0)
            cell = (clusters[counted] * levels + level[counted]) * n_labels + label[counted]
            parts.append(np.bincount(cell, minlength=len(names) * levels * n_labels))
        return np.concatenate([part.reshape(len(names), -1, n_labels) for part in parts], axis=1).astype(np.int32)

    support = count(gold, gold >= 0)
    hits = np.stack([count(gold, gold == predicted) for predicted in answers], axis=1)
    answered = np.stack([count(predicted, predicted >= 0) for predicted in answers], axis=1)
    return Tallies(support, hits, answered, *_probabilistic(gold, probabilities, clusters, len(names), len(answers)))


def _probabilistic(
    gold: Integers, probabilities: Sequence[Floats] | None, cluster: Integers, clusters: int, runs: int
) -> tuple[Integers, Floats]:
    """`scored` and `sums` of the tallies."""
    scored, sums = np.zeros(clusters, dtype=np.int64), np.zeros((clusters, runs, 2 + BINS))
    if probabilities is None:
        return scored, sums
    known = known_everywhere(probabilities)
    if not known.any():
        return scored, sums
    for run, found in enumerate(probabilities):
        for i, loss in enumerate((metrics.gold_surprise, metrics.squared_error)):
            sums[:, run, i] = np.bincount(cluster[known], loss(found[known], gold[known]), minlength=clusters)
        sums[:, run, 2:] = metrics.calibration_gaps(found[known], gold[known], cluster[known], clusters, BINS)
    return np.bincount(cluster[known], minlength=clusters).astype(np.int64), sums


def known_everywhere(probabilities: Sequence[Floats]) -> NDArray[np.bool_]:
    """(targets,) whether every run has probabilities, (targets, labels) each, for a target."""
    known: NDArray[np.bool_] = ~np.any([np.isnan(found[:, 0]) for found in probabilities], axis=0)
    return known


def metrics_of(tallies: Tallies) -> Floats:
    """(runs, metrics) of all targets."""
    sums = np.concatenate([part.sum(axis=0, dtype=np.float64) for part in _parts(tallies)])
    found: Floats = _metrics(sums[None], tallies)[0]
    return found


def bootstrap(tallies: Tallies, draws: int, seed: int) -> Floats:
    """(draws, runs, metrics) of resampled clusters; the same draws for every run.

    Raises:
        InternalError: Fewer than two clusters, or no draw is asked for.
    """
    if len(tallies.support) < 2:
        raise InternalError(f"resampling needs at least two clusters, found {len(tallies.support)}")
    per_cluster = for_products(_parts(tallies))
    return np.concatenate([_metrics(sums, tallies) for sums in resampled_sums(per_cluster, draws, seed)])


def permutation_p_values(tallies: Tallies, a: Sequence[int], b: Sequence[int], draws: int, seed: int) -> Floats:
    """(metrics,) two-sided p-values of the difference between two systems, by exchanging their answers.

    Each draw gives every cluster's answers of `a` to `b` and the other way round, or not, by a fair coin. p is the
    share of draws, the observed one among them, whose difference is at least as far from zero: B. Phipson and G. K.
    Smyth, "Permutation P-values Should Never Be Zero", Stat. Appl. Genet. Mol. Biol. 9 (2010). A system's several runs
    are swapped together, the first of the one with the first of the other and so on, and scored each on its own; where
    the numbers of runs differ, each is repeated up to their least common multiple. p takes the runs as given.

    Args:
        tallies: Counts by cluster.
        a: Runs of the first system.
        b: Runs of the second.
        draws: Number of random swaps; at least 1.
        seed: Seed of the swaps.
    """
    times = lcm(len(a), len(b))
    one, other = (_side_by_side(tallies, [runs[k % len(runs)] for k in range(times)]) for runs in (a, b))
    difference = for_products([theirs - ours for ours, theirs in zip(one, other, strict=True)])
    of_one, of_other = (np.concatenate([part.sum(axis=0, dtype=np.float64) for part in side]) for side in (one, other))

    def distance(first: Floats) -> Floats:
        found, others = (_mean_over_runs(sums, times, tallies) for sums in (first, of_one + of_other - first))
        apart: Floats = np.abs(found - others)
        return apart

    observed = distance(of_one[None])[0]
    ties = np.where(np.arange(len(observed)) >= tallies.layout.nll, _TIE_OF_LOSSES, _TIE)
    rng, reached = np.random.default_rng([seed, 1]), np.ones(len(observed))
    for size in chunk_sizes(draws, max(difference.shape)):
        bits = np.frombuffer(rng.bytes(-(-size * len(difference) // 8)), dtype=np.uint8)
        swapped = np.unpackbits(bits, count=size * len(difference)).reshape(size, -1).astype(difference.dtype)
        drawn = distance(of_one + (swapped @ difference).astype(np.float64))
        reached += (drawn >= observed - ties).sum(axis=0)
    p_values: Floats = np.where(np.isnan(observed), np.nan, reached / (draws + 1))
    return p_values


def _side_by_side(tallies: Tallies, runs: Sequence[int]) -> list[NDArray[Any]]:
    """(clusters, cells) each: hits, answers and sums of losses of some runs, one run after the other."""
    parts = (tallies.hits, tallies.answered, tallies.sums)
    return [part[:, list(runs)].reshape(len(tallies.support), -1) for part in parts]


def _mean_over_runs(sums: Floats, runs: int, tallies: Tallies) -> Floats:
    """(draws, metrics), from sums as `_side_by_side` lays them out; on all targets, wherever the answers come from."""
    layout, scored = tallies.layout, int(tallies.scored.sum())
    cells = runs * layout.groups * layout.labels
    hits, answered, losses = np.split(sums, [cells, 2 * cells], axis=1)
    shape = (-1, runs, layout.groups, layout.labels)
    support = tallies.support.sum(axis=0, dtype=np.float64)
    losses = losses / scored if scored else np.full_like(losses, np.nan)
    found = _vector(hits.reshape(shape), answered.reshape(shape), support, losses.reshape(-1, runs, 2 + BINS))
    mean: Floats = found.mean(axis=1)
    return mean


def _parts(tallies: Tallies) -> list[NDArray[Any]]:
    """(clusters, cells) each: support, hits, answers, how many are scored, and the sums of losses."""
    parts = (tallies.support, tallies.hits, tallies.answered, tallies.scored, tallies.sums)
    return [part.reshape(len(tallies.support), -1) for part in parts]


def _metrics(sums: Floats, tallies: Tallies) -> Floats:
    """(draws, runs, metrics) of the sums of `_parts`, side by side."""
    layout, runs = tallies.layout, tallies.runs
    cells = layout.groups * layout.labels
    shape = (-1, runs, layout.groups, layout.labels)
    support = sums[:, :cells].reshape(-1, 1, layout.groups, layout.labels)
    hits = sums[:, cells : (1 + runs) * cells].reshape(shape)
    answered = sums[:, (1 + runs) * cells : (1 + 2 * runs) * cells].reshape(shape)
    scored, losses = sums[:, (1 + 2 * runs) * cells, None, None], sums[:, (1 + 2 * runs) * cells + 1 :]
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing scored in a draw: NaN
        return _vector(hits, answered, support, losses.reshape(-1, runs, 2 + BINS) / scored)


def _vector(hits: Floats, answered: Floats, support: Floats, losses: Floats) -> Floats:
    """(..., metrics) in the order of `Layout`, of (..., groups, labels) counts and (..., 2 + bins) mean losses."""
    scores = metrics.scores_from_counts(hits, answered, support)
    headline = [scores.macro_f1[..., :1], scores.accuracy[..., :1], scores.f1[..., 0, :]]
    calibration = np.abs(losses[..., 2:]).sum(axis=-1, keepdims=True)
    return np.concatenate([scores.weighted_f1, *headline, losses[..., :2], calibration], axis=-1)
