"""Contrasts: the first system minus each other one, with intervals and corrected p-values.

Input: tallies, and which runs belong to which system. Output: contrasts of headline metrics, losses, labels, subgroups.
Does not depend on: predictions tables.

Families of comparisons corrected by Holm's method: each headline metric and each loss over the pairs; all labels and
subgroups of one pair together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from erc_llm.evaluation.evidence import Contrast, Division
from erc_llm.evaluation.several_runs import Resamples, resamples_of
from erc_llm.evaluation.significance import holm, smallest_detectable, standard_error
from erc_llm.evaluation.subgroups import Factor
from erc_llm.evaluation.systems import System
from erc_llm.evaluation.tallies import Tallies, bootstrap, metrics_of, permutation_p_values
from erc_llm.metrics import HEADLINE, Estimate, Floats, HeadlineMetric, calibration_estimate
from erc_llm.resampling import percentile_interval

TITLES: dict[HeadlineMetric, str] = {"weighted_f1": "weighted F1", "macro_f1": "macro F1", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Side:
    """A system's metrics on all targets (metrics,), and their resamples; None for a single cluster."""

    system: System
    point: Floats
    resamples: Resamples | None

    def estimate(self, place: int) -> Estimate:
        """A metric with its interval."""
        return _estimate(float(self.point[place]), self._resampled(place))

    def calibration_error(self, place: int) -> Estimate:
        """The calibration error with its interval, corrected for the upward bias of resampling."""
        value, resampled = float(self.point[place]), self._resampled(place)
        if resampled is None or not np.isfinite(resampled).all():
            return Estimate(value)
        return calibration_estimate(value, resampled)

    def _resampled(self, place: int) -> Floats | None:
        return None if self.resamples is None else self.resamples.metrics[:, place]


@dataclass(frozen=True)
class Contrasts:
    """The contrasts of one pair; the attributes are those of `evidence.Pair`."""

    headline: tuple[Contrast, ...]
    standard_error: float | None
    detectable: float | None
    losses: tuple[Contrast, ...]
    classes: tuple[Contrast, ...]
    divisions: tuple[Division, ...]


def sides(tallies: Tallies, systems: Sequence[System], draws: int, seed: int) -> tuple[Side, ...]:
    """All systems, resampled together: every draw takes the same clusters for all systems."""
    points = metrics_of(tallies)
    resampled = bootstrap(tallies, draws, seed) if len(tallies.support) > 1 else None
    return tuple(
        Side(
            system,
            points[list(system.runs)].mean(axis=0),
            None if resampled is None else resamples_of(resampled, points, system.runs, seed + number),
        )
        for number, system in enumerate(systems)
    )


def contrasts(
    tallies: Tallies, sides: Sequence[Side], labels: Sequence[str], ways: Sequence[Factor], draws: int, seed: int
) -> tuple[Contrasts, ...]:
    """The first side minus each other one; `ways` are the factors that the tallies were counted by."""
    found = [_against(tallies, sides[0], side, labels, ways, draws, seed) for side in sides[1:]]
    headline, losses = (_over_pairs([getattr(c, name) for c in found]) for name in ("headline", "losses"))
    return tuple(replace(c, headline=h, losses=lost) for c, h, lost in zip(found, headline, losses, strict=True))


def _against(
    tallies: Tallies, a: Side, b: Side, labels: Sequence[str], ways: Sequence[Factor], draws: int, seed: int
) -> Contrasts:
    layout, resampled = tallies.layout, None
    p_values = np.full(layout.size, np.nan)
    if a.resamples is not None and b.resamples is not None:
        resampled = (a.resamples - b.resamples).metrics
        p_values = permutation_p_values(tallies, a.system.runs, b.system.runs, draws, seed)
    support = tallies.support.sum(axis=0)

    def contrast(name: str, place: int, targets: int, lower_is_better: bool = False) -> Contrast:
        first, second = float(a.point[place]), float(b.point[place])
        estimate = _estimate(first - second, None if resampled is None else resampled[:, place])
        p_value = None if np.isnan(p_values[place]) else float(p_values[place])
        return Contrast(name, targets, first, second, estimate, p_value, lower_is_better=lower_is_better)

    targets, scored = int(support[0].sum()), int(tallies.scored.sum())
    losses = (("NLL, nats", layout.nll), ("Brier score", layout.brier)) if scored else ()
    classes = [contrast(label, layout.label(i), int(support[0, i])) for i, label in enumerate(labels)]
    rows = [
        contrast(level, 1 + i, int(support[1 + i].sum())) for i, level in enumerate(lv for w in ways for lv in w.levels)
    ]
    in_parts = corrected([*classes, *rows])
    error = None if resampled is None else standard_error(resampled[:, 0])
    return Contrasts(
        headline=tuple(contrast(TITLES[metric], layout.headline(metric), targets) for metric in HEADLINE),
        standard_error=error,
        detectable=None if error is None else smallest_detectable(error),
        losses=tuple(contrast(name, place, scored, lower_is_better=True) for name, place in losses),
        classes=in_parts[: len(classes)],
        divisions=_divisions(ways, in_parts[len(classes) :]),
    )


def _divisions(ways: Sequence[Factor], rows: Sequence[Contrast]) -> tuple[Division, ...]:
    found, start = [], 0
    for way in ways:
        found.append(Division(way.name, way.definition, tuple(rows[start : start + len(way.levels)])))
        start += len(way.levels)
    return tuple(found)


def corrected(family: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """The contrasts with p-values corrected as one family; levels without targets are not part of it."""
    p_values = [np.nan if c.p_value is None or not c.targets else c.p_value for c in family]
    return tuple(
        replace(c, p_corrected=None if np.isnan(p) else p) for c, p in zip(family, holm(p_values), strict=True)
    )


def _over_pairs(pairs: Sequence[tuple[Contrast, ...]]) -> list[tuple[Contrast, ...]]:
    """Correct each metric over the pairs: one family per metric."""
    by_metric = [corrected(family) for family in zip(*pairs, strict=True)]
    return list(zip(*by_metric, strict=True)) if by_metric else [() for _ in pairs]


def _estimate(value: float, resampled: Floats | None) -> Estimate:
    if resampled is None or not np.isfinite(resampled).all():
        return Estimate(value)
    return Estimate(value, *percentile_interval(resampled))
