"""`evaluate --report` and `compare --out`: one page each, without text if that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.predictions import write_predictions
from tests.command_line import Command, refused
from tests.evaluation.compared_tables import changed, table


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, right, draw in (("a", 0.6, 101), ("b", 0.3, 7)):
        given = table(right, name, draw=draw)
        write_predictions(changed(given, text=[f"secret {i}" for i in range(len(given))]), f"{name}.parquet")


def test_an_evaluation_is_written_as_one_page(erc: Command) -> None:
    done = erc("evaluate", "a.parquet", "--against", "b.parquet", "--draws", 100, "--report", "new/out.html")
    assert done.code == 0, done.err
    assert "report: new/out.html" in done.out
    assert [path.name for path in Path("new").iterdir()] == ["out.html"]
    page = Path("new/out.html").read_text("utf-8")
    assert "<h1>a on series, split dev</h1>" in page
    assert "Difference to others" in page
    assert "secret" in page


def test_without_text_no_page_has_a_line(erc: Command) -> None:
    assert erc("evaluate", "a.parquet", "--draws", 100, "--report", "out.html", "--without-text").code == 0
    assert "secret" not in Path("out.html").read_text("utf-8")
    compared = ("compare", "a.parquet", "b.parquet", "--draws", 100, "--out", "report")
    done = erc(*compared)
    assert done.code == 0, done.err
    assert "secret" in done.out
    assert "secret" in Path("report/comparison.html").read_text("utf-8")
    done = erc(*compared, "--without-text")
    assert "secret" not in done.out
    assert [path.name for path in Path("report").iterdir() if b"secret" in path.read_bytes()] == []


def test_a_report_that_cannot_be_written_is_one_message(erc: Command) -> None:
    Path("folder").mkdir()
    refused(erc("evaluate", "a.parquet", "--draws", 100, "--report", "folder"), "folder: cannot be written")
    assert list(Path("folder").iterdir()) == []
