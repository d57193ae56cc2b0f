"""`erc-llm calibrate RUN --neighbours`, on a cross-fitted run whose labels can be read off the words of a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import erc_llm
from erc_llm.build import training_view
from erc_llm.calibration.store import CALIBRATION, read_calibration
from erc_llm.predictions import Correction, Mixing, read_predictions
from erc_llm.recipes.crossfit import crossfit
from erc_llm.recipes.crossfit_folds import Folds
from erc_llm.recipes.train import train
from erc_llm.retrieval.store import NEIGHBOURS
from erc_llm.runs.directory import OUT_OF_FOLD, read_run
from tests.command_line import Command, refused
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus, write_telling_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_telling_corpus(tmp_path_factory.mktemp("neighbours") / "corpus", train=16)


@pytest.fixture(scope="module")
def crossfitted(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(tiny_llama, corpus, tmp_path_factory.mktemp("runs"), training={"evaluations": 0})
    return crossfit(config, Folds(count=2, at_once=1), console=Console(quiet=True)).folder


@pytest.fixture
def run(crossfitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(crossfitted, tmp_path / "run"))


@pytest.fixture
def mixed(run: Path, erc: Command) -> Path:
    """The run with neighbours."""
    done = erc("calibrate", run, "--neighbours", "words")
    assert done.code == 0, done.err
    assert "Neighbours: weight " in done.out
    assert "lines of train (words" in done.out
    return run


def test_the_index_and_the_column_come_with_the_calibration(mixed: Path, crossfitted: Path) -> None:
    chosen = read_calibration(read_run(mixed)).neighbours
    assert chosen is not None
    assert chosen.weight > 0.3  # the stand-in model has learnt nothing
    before, after = (read_predictions(folder / OUT_OF_FOLD) for folder in (crossfitted, mixed))
    assert chosen.lines == len(before)
    assert (before.neighbours, before.info.neighbours) == (None, None)
    assert after.neighbours is not None
    assert after.info.neighbours == chosen.words
    np.testing.assert_array_equal(before.log_likelihoods, after.log_likelihoods)
    assert (after.neighbours.argmax(axis=1) == after.gold_index).mean() > 0.9


def test_predictions_and_live_sessions_mix_them_in(mixed: Path, corpus: Path, erc: Command, tmp_path: Path) -> None:
    out = tmp_path / "dev.parquet"
    done = erc("predict", mixed, corpus, "--split", "dev", "--out", out)
    assert done.code == 0, done.err
    table = read_predictions(out)
    mixing = Correction.of(table.info).mixing
    assert isinstance(mixing, Mixing)
    assert mixing == read_calibration(read_run(mixed)).correction().mixing
    assert table.neighbours is not None
    assert table.probabilities is not None
    predictor, dialogues = erc_llm.load(mixed), erc_llm.read_corpus(corpus).split("dev")
    rows = [line for dialogue in dialogues for line in predictor.predict(dialogue)]
    np.testing.assert_allclose([[*row.probabilities.values()] for row in rows], table.probabilities, atol=1e-5)
    live = predictor.live(dialogues[0].id)
    said = [live.say(u.speakers, u.text) for u in dialogues[0].utterances]
    np.testing.assert_allclose(
        [[*row.probabilities.values()] for row in said], table.probabilities[: len(said)], atol=1e-4
    )
    plain = erc("predict", mixed, corpus, "--split", "dev", "--out", out, "--calibration", "none")
    assert plain.code == 0, plain.err
    assert read_predictions(out).neighbours is None


def test_evaluate_and_compare_decide_with_them(mixed: Path, crossfitted: Path, erc: Command) -> None:
    done = erc("evaluate", mixed / OUT_OF_FOLD)
    assert done.code == 0, done.err
    assert "the neighbours alone are right in" in done.out
    pair = f"mixed={mixed / OUT_OF_FOLD}", f"plain={crossfitted / OUT_OF_FOLD}"
    done = erc("compare", *pair, "--decide", "weighted_f1")
    assert done.code == 0, done.err


def test_resuming_the_cross_fitting_keeps_them(mixed: Path, corpus: Path, crossfitted: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(crossfitted.parent, tmp_path / "runs"))
    for name in (CALIBRATION, NEIGHBOURS, OUT_OF_FOLD):
        shutil.copyfile(mixed / name, runs / "tiny" / name)
    base = Path(read_run(crossfitted).config.model.base)
    config = tiny_config(base, corpus, runs, training={"evaluations": 0})
    crossfit(config, Folds(count=2, at_once=1), resume=True, console=Console(quiet=True))
    assert read_predictions(runs / "tiny" / OUT_OF_FOLD).neighbours is not None


def test_calibrating_without_them_removes_them(mixed: Path, crossfitted: Path, erc: Command) -> None:
    done = erc("calibrate", mixed)
    assert done.code == 0, done.err
    assert not (mixed / NEIGHBOURS).exists()
    assert read_predictions(mixed / OUT_OF_FOLD).neighbours is None
    was, now = (json.loads((folder / CALIBRATION).read_text("utf-8")) for folder in (crossfitted, mixed))
    assert now["decisions"] == was["decisions"]


def test_a_selection_split_has_neighbours_in_the_rest_of_train(
    tiny_llama: TinyModel, corpus: Path, erc: Command, tmp_path: Path
) -> None:
    sections = {"corpus": {"path": str(corpus), "selection_fraction": 0.7}, "training": {"evaluations": 1}}
    run = train(tiny_config(tiny_llama, corpus, tmp_path / "runs", **sections), console=Console(quiet=True))
    done = erc("calibrate", run.folder, "--neighbours", "words")
    assert done.code == 0, done.err
    chosen = read_calibration(run).neighbours
    assert chosen is not None
    view = training_view(erc_llm.read_corpus(corpus), run.config)
    assert chosen.lines == sum(len(d.targets) for d in view.split("train"))


def test_what_is_refused(mixed: Path, corpus: Path, erc: Command, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", train=12)
    refused(erc("calibrate", mixed, other, "--neighbours", "words"), "train split than the corpus given")
    refused(erc("calibrate", mixed, "--neighbours", "./nowhere"), "nowhere")
    out = tmp_path / "x.parquet"
    (mixed / NEIGHBOURS).write_bytes(b"something else")
    refused(erc("predict", mixed, corpus, "--out", out), NEIGHBOURS, "has hash", "calibrate", "--neighbours words")
    (mixed / NEIGHBOURS).unlink()
    refused(erc("predict", mixed, corpus, "--out", out), NEIGHBOURS, "is missing")
    assert not out.exists()


@pytest.mark.slow
def test_an_export_carries_them(mixed: Path, corpus: Path, tiny_llama: TinyModel, erc: Command, tmp_path: Path) -> None:
    away, out = tmp_path / "away", tmp_path / "t.parquet"
    done = erc("export", mixed, "--to", away, "--base", "example/tiny", "--licence", "apache-2.0")
    assert done.code == 0, done.err
    tables = []
    for source in (mixed, away):
        done = erc("predict", source, corpus, "--out", out, "--set", f"model.base={tiny_llama.folder}")
        assert done.code == 0, done.err
        tables.append(read_predictions(out).probabilities)
    np.testing.assert_allclose(*tables, atol=1e-5)
