"""Small formulas of significance, against numbers worked out by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from erc_llm.evaluation.significance import DETECTABLE, holm, mcnemar, smallest_detectable, standard_error


def test_holm_by_hand() -> None:
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1; the third would be smaller than none, and stays 0.06
    assert holm([0.02, 0.01, 0.5, 0.03]) == pytest.approx((0.06, 0.04, 0.5, 0.06))
    assert holm([0.04, 0.03, 0.9]) == pytest.approx((0.09, 0.09, 0.9)), "0.04 x 2 is below 0.03 x 3, so it is raised"
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([0.2]) == (0.2,)
    assert holm([]) == ()


def test_what_was_not_compared_does_not_count() -> None:
    first, second, third = holm([0.01, float("nan"), 0.04])
    assert (first, third) == pytest.approx((0.02, 0.04))
    assert np.isnan(second)


def test_holm_keeps_false_findings_below_the_level() -> None:
    rng = np.random.default_rng(0)
    found = [min(holm(rng.random(8).tolist())) < 0.05 for _ in range(4000)]
    assert 0.04 < np.mean(found) < 0.06


def test_the_smallest_detectable_difference_has_its_power() -> None:
    assert smallest_detectable(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert smallest_detectable(0.02) == pytest.approx(0.02 * smallest_detectable(1.0))
    assert "2.80" in DETECTABLE
    shown = np.abs(np.random.default_rng(1).normal(smallest_detectable(1.0), 1.0, size=100_000)) > 1.959964
    assert shown.mean() == pytest.approx(0.80, abs=0.01)


def test_the_standard_error_is_the_spread_of_the_resamples() -> None:
    assert standard_error(np.array([1.0, 3.0])) == pytest.approx(np.sqrt(2))
    assert np.isnan(standard_error(np.array([1.0])))


@pytest.mark.parametrize(("only_a", "only_b"), [(10, 3), (3, 10), (5, 5), (0, 7), (250, 190)])
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int) -> None:
    expected = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(expected)


def test_mcnemar_of_equal_answers_is_one() -> None:
    assert mcnemar(0, 0) == 1.0
