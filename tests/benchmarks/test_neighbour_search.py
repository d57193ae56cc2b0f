"""The table of approximate search, on few lines."""

from __future__ import annotations

import pytest

from benchmarks import neighbour_search
from tests.benchmarks.test_decided_tables import rows_of


def test_every_number_of_lines_has_a_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_search, "QUERIES", 50)
    assert neighbour_search.main(["800", "300"]) == 0
    out = capsys.readouterr().out
    few, more = [row for row in rows_of(out) if len(row) > 1]
    assert (few[0], more[0]) == ("300", "800")
    assert float(more[4].split()[0]) > 90
    assert "50 queries, 8 nearest lines of other episodes" in out
