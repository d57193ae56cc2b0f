"""The report in a run directory: from the logs, from a table, and never a reason for a run to fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.predictions import write_predictions
from erc_llm.recipes.baseline import train_reported
from erc_llm.recipes.run_report import write_run_report
from erc_llm.recipes.train import train
from erc_llm.runs.directory import REPORT, Run
from erc_llm.runs.progress import SILENT, Silent
from tests.baselines.small import baseline_config, small_corpus
from tests.evaluation.compared_tables import table
from tests.tiny_models import TinyModel
from tests.tiny_runs import OPENINGS, tiny_config


class Noted(Silent):
    """Keeps the printed warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def line(self, text: str, *, warning: bool = False) -> None:
        if warning:
            self.warnings.append(text)


def test_a_finished_training_run_has_a_report_of_its_logs(finished: Run) -> None:
    page = (finished.folder / REPORT).read_text("utf-8")
    assert "<h1>Training of tiny</h1>" in page
    assert "Training loss" in page
    assert "Scores on the selection split" in page
    assert not any(words in page for words in OPENINGS), "no line of the corpus"


def test_a_report_that_fails_is_one_warning_and_the_run_is_finished(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("erc_llm.evaluation.plots.curves_figure", broken)
    with (tmp_path / "said.txt").open("w") as file:
        run = train(tiny_config(tiny_llama, corpus, tmp_path / "runs"), console=Console(file=file, width=300))
    lines = [line for line in (tmp_path / "said.txt").read_text().splitlines() if REPORT in line]
    assert lines == [f"note: {run.folder / REPORT} was not written: no fonts"]
    assert run.manifest.finished
    assert not (run.folder / REPORT).exists()


def test_a_report_of_an_earlier_state_does_not_stay_if_the_new_one_fails(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text("text that was to be removed")
    noted = Noted()
    write_run_report(tmp_path, "run", noted, tmp_path / "missing.parquet")
    assert len(noted.warnings) == 1
    assert "missing.parquet: no such file" in noted.warnings[0]
    assert not (tmp_path / REPORT).exists()


def test_a_run_without_logs_and_tables_has_nothing_to_report(tmp_path: Path) -> None:
    noted = Noted()
    write_run_report(tmp_path, "run", noted)
    assert noted.warnings == []
    assert list(tmp_path.iterdir()) == []


def test_logs_and_table_are_on_one_page(finished: Run, tmp_path: Path) -> None:
    for log in ("training.jsonl", "selection.jsonl"):
        (tmp_path / log).write_bytes((finished.folder / log).read_bytes())
    write_predictions(table(), tmp_path / "crossfit.parquet")
    write_run_report(tmp_path, "run", SILENT, tmp_path / "crossfit.parquet")
    page = (tmp_path / REPORT).read_text("utf-8")
    titles = re.findall(r"<h2 id=.*?>(.*?)</h2>", page)
    assert titles[:2] == ["Training", "Result"]
    assert "Leakage manifest" in titles


def test_answers_stay_where_no_rule_can_be_found(tmp_path: Path) -> None:
    write_predictions(table(), tmp_path / "small.parquet")
    noted = Noted()
    write_run_report(tmp_path, "run", noted, tmp_path / "small.parquet", "weighted_f1")
    assert noted.warnings == []
    page = (tmp_path / REPORT).read_text("utf-8")
    assert "answers: the most probable label" in page


def test_the_report_of_a_baseline_follows_its_tables(tiny_bert: TinyModel, tmp_path: Path) -> None:
    """Once the text is gone from the tables, it is gone from the report too."""
    config, corpus = baseline_config(tiny_bert, tmp_path), small_corpus()
    first = train_reported(config, corpus)
    page = (first.folder / REPORT).read_text("utf-8")
    assert "Training loss" in page
    assert any(words in page for words in OPENINGS)
    train_reported(config, corpus, resume=True, with_text=False)
    page = (first.folder / REPORT).read_text("utf-8")
    assert "Confusions" in page
    assert not any(words in page for words in OPENINGS)
