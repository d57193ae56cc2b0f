"""The comparison of all forms of an export, on a stand-in model, and behind llama.cpp's server if it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.exports import FORMS, as_markdown, main, make_tables
from benchmarks.llama_server import installed
from erc_llm.recipes.train import train
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

QUIET = Console(quiet=True)


@pytest.mark.slow
def test_every_form_has_a_row_and_finished_ones_are_kept(
    tiny_llama: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, out = write_corpus(tmp_path / "corpus"), tmp_path / "exports"
    run = train(tiny_config(tiny_llama, corpus, tmp_path / "runs"), console=QUIET)
    make_tables(run.folder, str(corpus), "dev", out, QUIET, "example/tiny", "apache-2.0")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    make_tables(run.folder, str(corpus), "dev", out, QUIET, "example/tiny", "apache-2.0")
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert main(["--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert as_markdown(out) in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()[3:]]
    assert len(rows) == len(FORMS)
    for row in rows:
        assert 0 <= float(row[2]) <= 0.05
        assert 0 <= float(row[3]) <= 0.1
        assert row[4].endswith(" of 9")
        assert bool(row[6]) == (installed() and row[0].startswith("gguf"))


def test_without_tables_the_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    assert "give --run and --corpus" in " ".join(capsys.readouterr().err.split())
    assert main(["--out", str(tmp_path), "--run", str(tmp_path)]) == 2
    assert "--corpus" in capsys.readouterr().err
