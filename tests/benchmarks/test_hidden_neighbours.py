"""The table of neighbours by hidden states, on a fold of a tiny cross-fitted run."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import hidden_neighbours
from erc_llm.recipes.crossfit import crossfit
from erc_llm.recipes.crossfit_folds import Folds
from tests.benchmarks.test_decided_tables import rows_of
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.mark.slow
def test_every_arm_has_a_row(tiny_llama: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=24)
    config = tiny_config(tiny_llama, corpus, tmp_path / "runs", training={"evaluations": 0})
    crossfit(config, Folds(count=2, at_once=1), console=Console(quiet=True))
    capsys.readouterr()
    assert hidden_neighbours.main([str(tmp_path / "runs/tiny-folds/fold-1"), str(corpus), "words"]) == 0
    out = capsys.readouterr().out
    assert [row[0] for row in rows_of(out) if len(row) > 1] == [
        "no neighbours", "words", "hidden", "hidden, without taking off the mean"
    ]  # fmt: skip
    assert "lines that the fold left out; " in out
