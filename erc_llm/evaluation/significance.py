"""Significance: Holm's correction, the smallest detectable difference, McNemar's test.

Input: p-values, resamples, counts. Output: plain numbers.
Does not depend on: predictions tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from erc_llm.metrics import Floats

LEVEL, POWER = 0.05, 0.80
DETECTABLE = "(z(0.975) + z(0.80)) x standard error = 2.80 x standard error"


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values corrected so that the chance of any false finding among them stays below the level.

    S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6 (1979) 65-70. Of n p-values
    the smallest is multiplied by n, the next by n - 1, and so on; none ends below a smaller one, or above 1. NaN stands
    for a comparison that was not made: it stays NaN and does not count.
    """
    given = np.asarray(p_values, dtype=np.float64)
    made = np.flatnonzero(~np.isnan(given))
    order = made[np.argsort(given[made], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(given), np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    return tuple(corrected.tolist())


def standard_error(resampled: Floats) -> float:
    """Standard error of a metric, from its bootstrap resamples (draws,)."""
    return float(np.std(resampled, ddof=1)) if len(resampled) > 1 else float("nan")


def smallest_detectable(standard_error: float) -> float:
    """The true difference that a test set with this standard error shows with 80 % power at the 5 % level, two-sided.

    (z(1 - 0.05 / 2) + z(0.80)) times the standard error of the difference, which is the textbook formula for a normally
    distributed estimate, for example J. M. Bland, "An Introduction to Medical Statistics" (4th ed. 2015), chapter 18.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)) * standard_error


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value of the hypothesis that `a` alone is right as often as `b` alone.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947) 153-157, as the binomial test. It takes targets as independent, which those of a dialogue
    are not, so the value is descriptive.

    Args:
        only_a: Targets that only `a` has right.
        only_b: Targets that only `b` has right.
    """
    from scipy.special import bdtr  # scipy.stats would take ten times as long to import

    if only_a + only_b == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
