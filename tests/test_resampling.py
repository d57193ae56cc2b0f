"""Resampled sums: the same as adding up drawn clusters one by one, in whatever chunks."""

from __future__ import annotations

import numpy as np
import pytest

from erc_llm import resampling
from erc_llm.errors import InternalError
from erc_llm.resampling import chunk_sizes, for_products, percentile_interval, resampled_sums


def test_sums_are_those_of_the_drawn_clusters() -> None:
    values = np.random.default_rng(0).integers(0, 9, size=(7, 3))
    found = np.concatenate(list(resampled_sums(values, 50, seed=4)))
    drawn = np.random.default_rng(4).integers(7, size=(50, 7))
    np.testing.assert_array_equal(found, values[drawn].sum(axis=1))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 9, size=(7, 3))
    whole = np.concatenate(list(resampled_sums(values, 50, seed=4)))
    monkeypatch.setattr(resampling, "_CELLS_PER_CHUNK", 21)
    parts = list(resampled_sums(values, 50, seed=4))
    assert len(parts) > 10
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_whole_numbers_stay_exact_however_large() -> None:
    small, large, floats = np.full((4, 1), -(2**20)), np.full((4, 1), 2**23 + 1), np.full((4, 2), 0.1)
    assert for_products([small]).dtype == np.float32
    assert for_products([large]).dtype == np.float64, "four of them are more than float32 can tell apart"
    assert for_products([floats]).dtype == np.float64
    beside = for_products([small, floats])
    assert (beside.dtype, beside.shape) == (np.float32, (4, 3))
    assert set(np.concatenate(list(resampled_sums(large, 3, seed=0))).ravel()) == {4 * (2**23 + 1)}


def test_draws_are_cut_so_that_memory_is_bounded() -> None:
    assert list(chunk_sizes(10, 1_000_000)) == [4, 4, 2]
    assert list(chunk_sizes(2, 10**9)) == [1, 1]


def test_a_draw_is_needed() -> None:
    with pytest.raises(InternalError, match="at least one draw"):
        next(resampled_sums(np.ones((3, 1)), 0, seed=0))


def test_the_interval_holds_the_middle() -> None:
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25, 975))
