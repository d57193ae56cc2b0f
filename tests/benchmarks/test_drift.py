"""The table of drift between two tables of the same targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import drift
from erc_llm.predictions import write_predictions
from tests.benchmarks.test_decided_tables import rows_of
from tests.predictions.scored_tables import draw, scored


def test_differences_and_other_answers_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = scored(*draw(100))
    assert table.probabilities is not None
    moved, predicted = table.probabilities.copy(), list(table.predicted)
    order = np.argsort(moved[0])
    moved[0, order[-1]] -= 0.25
    moved[0, order[0]] += 0.25
    predicted[0] = next(name for name in table.info.labels if name != predicted[0])
    write_predictions(table, tmp_path / "a.parquet")
    write_predictions(replace(table, probabilities=moved, predicted=tuple(predicted)), tmp_path / "b.parquet")
    assert drift.main([f"exact={tmp_path / 'a.parquet'}", f"less={tmp_path / 'b.parquet'}"]) == 0
    exact, less = rows_of(capsys.readouterr().out)
    assert exact[:5] == ["exact", "", "", "", ""]
    assert less[:5] == ["less", "0.250", "0.000", less[3], "1 of 100"]
    assert exact[5:] != less[5:]


def test_other_targets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("a", 40), ("b", 50)):
        write_predictions(scored(*draw(rows)), tmp_path / f"{name}.parquet")
    assert drift.main([f"{name}={tmp_path / name}.parquet" for name in "ab"]) == 2
    assert "expected the targets of the first table" in capsys.readouterr().err
