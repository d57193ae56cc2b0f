"""Times of the page's server: what is asked, how times become a row, and the whole benchmark on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import ui_latency
from erc_llm.predictions import read_predictions
from erc_llm.ui.messages import Conversation
from tests.test_predictor import make_run
from tests.tiny_models import TinyModel


def test_scenes_are_valid_requests_and_differ() -> None:
    one, two = ui_latency.scene(1, 20), ui_latency.scene(2, 20)
    assert len(Conversation.model_validate({"system": 0, "lines": one}).lines) == 20
    assert one[:5] == ui_latency.scene(1, 5)
    assert all(a != b for a, b in zip(one, two, strict=True))


def test_a_row_has_median_smallest_largest_and_processor_per_time() -> None:
    assert ui_latency.row("a line", [0.3, 0.1, 0.2], 0.45) == "| a line | 3 | 200 | 100 | 300 | 150 |"
    assert ui_latency.row("a line", [0.1, 0.2]) == "| a line | 2 | 150 | 100 | 200 |  |"


def test_the_table_is_one_that_evaluate_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui_latency, "ROWS", 30)
    ui_latency.write_table(tmp_path / "dev.parquet")
    table = read_predictions(tmp_path / "dev.parquet")
    assert len(table) == 30
    assert "probabilities" not in table.missing


@pytest.mark.slow
def test_the_benchmark_asks_a_server_of_its_own(
    tmp_path: Path, tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("SCENE", 4), ("NEW", 2), ("SCENES", 2), ("PEOPLE", 3), ("EACH", 2), ("ROWS", 50)):
        monkeypatch.setattr(ui_latency, name, value)
    make_run(tmp_path / "run", tiny_llama)
    assert ui_latency.main([str(tmp_path / "run")]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [(row[0], row[1]) for row in rows] == [
        ("| a new line in a scene of 4 to 6 lines", "4"),
        ("| the first line after pasting 3", "2"),
        ("| a table of 50 rows, opened", "10"),
        ("| a new line while 3 people type, 2 lines each", "6"),
    ]
    for row in rows:
        middle, smallest, largest = (int(cell) for cell in row[2:5])
        assert smallest <= middle <= largest
    assert re.fullmatch(r"\d+ \|", rows[0][5])


@pytest.mark.slow
def test_a_server_that_does_not_start_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ui_latency.main([str(tmp_path / "none")]) == 3
    assert "did not start" in capsys.readouterr().err
