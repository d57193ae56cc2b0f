"""Large tables as a benchmark: synthetic systems, and parts that read as the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import large_tables
from benchmarks.outcome import CannotDo
from erc_llm.predictions import read_predictions


def test_systems_have_the_same_targets_and_other_predictions(tmp_path: Path) -> None:
    first, second = (large_tables.synthetic(500, seed) for seed in (1, 2))
    assert first.keys == second.keys
    assert first.gold == second.gold
    assert first.predicted != second.predicted


def test_parts_read_as_the_table_that_was_divided(tmp_path: Path) -> None:
    table = large_tables.synthetic(500, 1)
    parts = read_predictions(large_tables.write_parts(table, tmp_path / "parts"))
    assert parts.info == table.info
    assert parts.keys == table.keys
    assert parts.speakers == table.speakers
    assert parts.probabilities is not None
    assert table.probabilities is not None
    np.testing.assert_array_equal(parts.probabilities, table.probabilities)


def test_memory_is_that_of_the_command_and_a_failure_is_named() -> None:
    seconds, peak = large_tables.measure(["--help"])
    assert seconds > 0
    assert 10 < peak < 2000
    with pytest.raises(CannotDo, match=r"`erc-llm evaluate nothing.parquet` ended with 2"):
        large_tables.measure(["evaluate", "nothing.parquet"])
