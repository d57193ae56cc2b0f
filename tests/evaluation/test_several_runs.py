"""Intervals of several runs: they cover what other runs would give, and are not wider for having more runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from erc_llm.evaluation.several_runs import Resamples, resamples_of
from erc_llm.evaluation.tallies import bootstrap, metrics_of, tally
from erc_llm.resampling import percentile_interval

DIALOGUES, LINES = 60, 10
CHANCE = 0.6


def of_runs(rng: np.random.Generator, runs: int, by_run: float) -> tuple[np.ndarray, np.ndarray]:
    """(500, runs, 1) resampled and (runs, 1) accuracies of runs whose chance of being right varies."""
    gold, dialogue = np.zeros(DIALOGUES * LINES, dtype=np.int64), np.repeat(np.arange(DIALOGUES), LINES)
    of_dialogue = rng.normal(0, 0.1, DIALOGUES)[dialogue]
    chances = CHANCE + rng.normal(0, by_run, runs)
    answers = [(rng.random(len(gold)) > chance + of_dialogue).astype(np.int64) for chance in chances]
    tallies = tally(gold, answers, dialogue, [], 2)
    place = slice(tallies.layout.headline("accuracy"), tallies.layout.headline("accuracy") + 1)
    return bootstrap(tallies, 500, int(rng.integers(2**31)))[..., place], metrics_of(tallies)[:, place]


def test_one_run_is_what_it_is() -> None:
    resampled, points = of_runs(np.random.default_rng(0), 2, 0.05)
    np.testing.assert_array_equal(resamples_of(resampled, points, [1], seed=0).metrics, resampled[:, 1])


def test_runs_that_are_the_same_add_nothing() -> None:
    resampled, points = of_runs(np.random.default_rng(1), 1, 0)
    found = resamples_of(resampled.repeat(3, axis=1), points.repeat(3, axis=0), [0, 1, 2], seed=0)
    np.testing.assert_allclose(found.metrics, resampled[:, 0], atol=1e-12)


def test_the_draw_of_runs_by_hand() -> None:
    """Clusters change nothing; of two runs one has 0, the other 1: a variance of 1/2, of which the mean has half."""
    resampled, points = np.tile([[0.0], [1.0]], (8000, 1, 1)), np.array([[0.0], [1.0]])
    found = resamples_of(resampled, points, [0, 1], seed=0)
    assert found.variances[0] == pytest.approx(1 / 4)
    assert found.runs is not None
    assert found.runs.var() == pytest.approx(1 / 4, rel=0.05)
    shares = [np.isclose(found.runs, value).mean() for value in (-np.sqrt(0.5), 0.0, np.sqrt(0.5))]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    stretch = stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975)
    assert found.metrics.std() == pytest.approx(stretch * found.runs.std())


def test_what_runs_and_dialogues_do_to_each_other_is_not_taken_for_better_and_worse_runs() -> None:
    """Runs that are equally good differ by chance alone; the spread is that of the mean over other dialogues."""
    rng, means, spreads = np.random.default_rng(2), [], []
    for number in range(200):
        resampled, points = of_runs(rng, 3, 0)
        means.append(points.mean())
        spreads.append(resamples_of(resampled, points, [0, 1, 2], number).metrics.std())
    assert np.mean(spreads) == pytest.approx(np.std(means), rel=0.15)


def test_more_runs_of_both_systems_show_a_difference_no_worse() -> None:
    rng = np.random.default_rng(3)
    spreads = []
    for runs in (1, 3, 6):
        found = []
        for number in range(60):
            resampled, points = of_runs(rng, 2 * runs, 0.005)
            sides = [resamples_of(resampled, points, which, number) for which in np.split(np.arange(2 * runs), 2)]
            found.append((sides[0] - sides[1]).metrics.std())
        spreads.append(np.mean(found))
    assert spreads[0] > spreads[1] > spreads[2]


def test_in_a_difference_the_dialogues_of_a_draw_are_the_same() -> None:
    """Two systems of which one is always ahead by a point: dialogues cancel out, and only runs are left."""
    resampled, points = of_runs(np.random.default_rng(4), 3, 0.03)
    one, other = resamples_of(resampled, points, [0, 1, 2], 0), resamples_of(resampled + 0.01, points, [0, 1, 2], 1)
    found = other - one
    np.testing.assert_allclose(found.clusters, 0.01)
    assert found.freedom == (2, 2)
    alone = Resamples(one.clusters) - other
    assert alone.runs is not None
    np.testing.assert_array_equal(alone.runs, -other.runs)


@pytest.mark.slow
@pytest.mark.parametrize(("by_run", "least"), [(0.0, 0.93), (0.01, 0.93), (0.03, 0.88)])
def test_intervals_cover_what_other_runs_and_dialogues_would_give(by_run: float, least: float) -> None:
    """95 % intervals of a metric and of a difference between equals, three runs each, 1,000 times.

    Three runs say little of a variance between runs that is larger than that of the dialogues; hence the last row.
    """
    rng, covered = np.random.default_rng(5), np.zeros(2)
    for number in range(1000):
        resampled, points = of_runs(rng, 6, by_run)
        one, other = (resamples_of(resampled, points, which, number + which[0]) for which in ([0, 1, 2], [3, 4, 5]))
        for i, (found, truth) in enumerate([(one, CHANCE), (one - other, 0.0)]):
            low, high = percentile_interval(found.metrics[:, 0])
            covered[i] += low <= truth <= high
    assert (covered / 1000 >= least).all(), covered
    assert (covered / 1000 <= 0.975).all(), covered
