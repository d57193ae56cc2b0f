"""Uncertainty of a system's metrics over dialogues and, where it has several, over runs.

Input: metrics of each run, on all targets and on resampled clusters. Output: resamples of a system's metrics, or of a
difference.
Does not depend on: predictions tables.

All runs answer the same targets, so runs and clusters are crossed (A. B. Owen, "The pigeonhole bootstrap", Ann. Appl.
Stat. 1 (2007) 386-411). Resampling clusters under the mean of the runs covers the variance of clusters and of the
interaction of runs and clusters. Therefore only the variance between runs that exceeds this interaction is added for
the draw of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from erc_llm.metrics import Floats


@dataclass(frozen=True)
class Resamples:
    """Resamples of a system's metrics, or of a difference between two systems.

    Attributes:
        clusters: (draws, metrics) in resampled clusters, the mean over runs.
        runs: (draws, metrics) added to them by the draw of runs; None where no system has several.
        variances: For each system with several runs, (metrics,) variance of its mean over the draw of runs.
        freedom: For each of these, its number of runs less one.
    """

    clusters: Floats
    runs: Floats | None = None
    variances: tuple[Floats, ...] = ()
    freedom: tuple[int, ...] = ()

    def __sub__(self, other: Resamples) -> Resamples:
        """Resamples of the difference: the same clusters in every draw, runs drawn for each system on its own."""
        runs = self.runs
        if other.runs is not None:
            runs = -other.runs if runs is None else runs - other.runs
        clusters = self.clusters - other.clusters
        return Resamples(clusters, runs, self.variances + other.variances, self.freedom + other.freedom)

    @cached_property
    def metrics(self) -> Floats:
        """(draws, metrics) whose percentiles are intervals.

        A variance between a few runs is itself uncertain. So the resamples are stretched by as much as the quantile
        of Student's t exceeds that of the normal distribution, with the degrees of freedom of F. E. Satterthwaite,
        "An approximate distribution of estimates of variance components", Biometrics Bull. 2 (1946); those of the
        clusters count as many.
        """
        if self.runs is None:
            return self.clusters
        drawn = self.clusters + self.runs
        by_runs = np.stack(self.variances)
        uncertain = (by_runs**2 / np.array(self.freedom)[:, None]).sum(axis=0)
        squared = (self.clusters.var(axis=0) + by_runs.sum(axis=0)) ** 2
        freedom = np.divide(squared, uncertain, out=np.full_like(squared, np.inf), where=uncertain > 0)
        middle = drawn.mean(axis=0)
        stretched: Floats = middle + stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975) * (drawn - middle)
        return stretched


def resamples_of(resampled: Floats, points: Floats, runs: Sequence[int], seed: int) -> Resamples:
    """Resamples of one system; with one run, only clusters vary.

    Args:
        resampled: (draws, runs of all systems, metrics), as `tallies.bootstrap` gives.
        points: (runs of all systems, metrics) of all targets.
        runs: Indices of the system's runs.
        seed: Seed of the draws of runs; give every system its own.
    """
    if len(runs) == 1:
        return Resamples(resampled[:, runs[0]])
    count, found, of_system = len(runs), points[list(runs)], resampled[:, list(runs)]
    clusters = of_system.mean(axis=1)
    between = found.var(axis=0, ddof=1)
    crossed = (of_system - clusters[:, None]).var(axis=0).sum(axis=0) / (count - 1)
    of_runs = np.maximum(between - crossed, 0)
    # As many runs as there are, with replacement, have (count - 1) / count of the variance between them.
    share = np.divide(of_runs, between, out=np.zeros_like(between), where=between > 0) * count / (count - 1)
    drawn = np.random.default_rng([seed, 2]).integers(count, size=(len(resampled), count))
    moved = np.sqrt(share) * (found[drawn].mean(axis=1) - found.mean(axis=0))
    return Resamples(clusters, moved, (of_runs / count,), (count - 1,))
