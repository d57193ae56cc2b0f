"""A cross-fitting of the first folds only: their table, and how it goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from erc_llm.corpus import read_corpus
from erc_llm.predictions import Predictions, read_predictions
from tests.command_line import Command, refused
from tests.recipes.crossfit.crossfitted import (
    FOLDS,
    ONE_BY_ONE,
    Crossfitted,
    crossfit_apart,
    same_results,
    scenes_of,
    write_config,
)
from tests.recipes.crossfit.test_baselines import write_baseline
from tests.tiny_models import TinyModel


def check_is_of_fold_1(table: Predictions, run: Crossfitted) -> None:
    """The table has the targets that fold 1 leaves out, as its own table has them, and is one of train."""
    left_out = run.left_out(1)
    assert table.keys == left_out.keys == tuple((d.id, u.id) for d in scenes_of(run.corpus, 1) for u in d.utterances)
    assert (table.predicted, table.gold) == (left_out.predicted, left_out.gold)
    np.testing.assert_array_equal(table.probabilities, left_out.probabilities)
    assert (table.info.split, table.info.folds, table.info.system) == ("train", 1, "tiny")
    assert table.info.corpus_sha256 == read_corpus(run.corpus).sha256


def test_the_first_folds_make_a_table_and_the_rest_can_follow(
    tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path, erc: Command
) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    run = Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny")
    assert crossfit_apart(config, *ONE_BY_ONE, "--first", 1) == 0
    assert not run.folder.exists(), "there is no average yet"
    assert sorted(path.name for path in run.fold(1).parent.iterdir()) == ["fold-1", "left_out.parquet"]
    path = run.fold(1).parent / "left_out.parquet"
    check_is_of_fold_1(read_predictions(path), run)
    said = erc("evaluate", path, "--decide", "weighted_f1", "--draws", 100)
    assert said.code == 0, said.err
    assert crossfit_apart(config, *ONE_BY_ONE, "--resume") == 0
    assert not path.exists(), "the table of all of train has these rows too"
    same_results(run, done)


def test_the_first_folds_of_a_baseline_make_a_table(
    tiny_bert: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    config = write_baseline(tiny_bert, corpus, tmp_path, "encoder")
    refused(erc("crossfit", config, *ONE_BY_ONE, "--first", 1, "--predict", "dev"), "--predict dev", "--first")
    assert not (tmp_path / "runs").exists()
    assert crossfit_apart(config, *ONE_BY_ONE, "--first", 1) == 0
    run = Crossfitted(config, corpus, tmp_path / "runs" / "tiny")
    check_is_of_fold_1(read_predictions(run.fold(1).parent / "left_out.parquet"), run)
    assert not run.folder.exists()


@pytest.mark.parametrize("number", [FOLDS, FOLDS + 1])
def test_as_many_first_folds_as_there_are_is_refused(
    number: int, tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    config = write_config(tiny_llama, corpus, tmp_path)
    refused(erc("crossfit", config, *ONE_BY_ONE, "--first", number), f"--first {number}", f"the {FOLDS} folds")
    assert not (tmp_path / "runs").exists()
