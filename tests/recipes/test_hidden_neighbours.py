"""`erc-llm calibrate RUN --neighbours hidden`: neighbours by the run's hidden states, in batch, live and exported."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import erc_llm
from erc_llm.build import training_view
from erc_llm.calibration.neighbours import adapter_sha256
from erc_llm.calibration.store import read_calibration, write_calibration
from erc_llm.models.hashes import file_sha256
from erc_llm.predictions import read_predictions
from erc_llm.recipes.crossfit import crossfit
from erc_llm.recipes.crossfit_folds import Folds
from erc_llm.recipes.train import train
from erc_llm.retrieval.index import Index
from erc_llm.retrieval.store import NEIGHBOURS, read_index
from erc_llm.retrieval.vectors import state_vectors
from erc_llm.runs.directory import read_run
from tests.command_line import Command, refused
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_telling_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose labels can be read off the end of a line."""
    return write_telling_corpus(tmp_path_factory.mktemp("hidden") / "corpus", train=24)


@pytest.fixture(scope="module")
def calibrated(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated run; the neighbours are mixed in whether they help this random model or not."""
    sections = {"corpus": {"path": str(corpus), "selection_fraction": 0.5}, "training": {"evaluations": 1}}
    run = train(
        tiny_config(tiny_llama, corpus, tmp_path_factory.mktemp("runs"), **sections), console=Console(quiet=True)
    )
    return run.folder


@pytest.fixture
def mixed(calibrated: Path, tmp_path: Path, erc: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(calibrated, tmp_path / "tiny"))
    monkeypatch.setattr("erc_llm.calibration.select.fit_weight", lambda *_: 0.4)
    monkeypatch.setattr("erc_llm.calibration.select._held_out_nll", lambda _, c: 1.0 if c.neighbours is None else 0.5)
    done = erc("calibrate", folder, "--neighbours", "hidden", "--decide", "probable")
    assert done.code == 0, done.err
    assert "lines of train (hidden, temperature" in done.out
    return folder


def index_of(run: Path) -> Index:
    return read_index(run / NEIGHBOURS, file_sha256(run / NEIGHBOURS), "")


def test_the_index_holds_the_states_of_the_lines_that_were_trained_on(mixed: Path, corpus: Path) -> None:
    index, run = index_of(mixed), read_run(mixed)
    view = training_view(erc_llm.read_corpus(corpus), run.config)
    assert (index.encoder, index.encoder_sha256) == ("hidden", file_sha256(run.adapter / "adapter_model.safetensors"))
    scored = erc_llm.load(mixed, calibration="none").scores(view.split("train"), states=True)
    states = np.array([s.state for scene in scored for s in scene])
    np.testing.assert_allclose(index.centre, states.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(index.vectors, state_vectors(states, states.mean(axis=0)), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-5)
    content = (mixed / NEIGHBOURS).read_bytes()
    assert not any(word in content for word in (b"kettle", b"gone again", b"landlord"))


def test_batch_predict_and_live_sessions_agree(mixed: Path, corpus: Path, erc: Command, tmp_path: Path) -> None:
    out = tmp_path / "dev.parquet"
    done = erc("predict", mixed, corpus, "--split", "dev", "--out", out)
    assert done.code == 0, done.err
    table = read_predictions(out)
    assert table.neighbours is not None
    assert table.probabilities is not None
    assert table.info.neighbours_weight == pytest.approx(0.4)
    predictor, dialogues = erc_llm.load(mixed), erc_llm.read_corpus(corpus).split("dev")
    rows = [line for dialogue in dialogues for line in predictor.predict(dialogue)]
    np.testing.assert_allclose([[*row.probabilities.values()] for row in rows], table.probabilities, atol=1e-4)
    said = []
    for dialogue in dialogues:
        live = predictor.live(dialogue.id)
        said += [live.say(u.speakers, u.text) for u in dialogue.utterances]
    np.testing.assert_allclose([[*row.probabilities.values()] for row in said], table.probabilities, atol=1e-4)


def test_the_held_out_table_was_mixed_as_in_use(mixed: Path, corpus: Path) -> None:
    """The states that the weight was fitted with are those of the predictor; lines of the own episode are left out."""
    view = training_view(erc_llm.read_corpus(corpus), read_run(mixed).config)
    predictor, index = erc_llm.load(mixed), index_of(mixed)
    assert predictor.neighbours is not None
    dialogue = view.split("train")[0]
    scores = predictor.scores([dialogue], states=True)[0]
    nearest = index.of_targets([dialogue], 5, np.array([s.state for s in scores]))
    assert np.isfinite(nearest.similarities).all()
    own = index.episodes.index(f"s{dialogue.season:02d}_e{dialogue.episode:02d}")
    assert not (index.episode[nearest.rows] == own).any()


def test_approximate_search_works_on_them_too(mixed: Path, erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    again = ("--neighbours", "hidden", "--search", "approximate", "--decide", "probable")
    done = erc("calibrate", mixed, *again)
    assert done.code == 0, done.err
    assert index_of(mixed).cells is not None
    assert erc_llm.load(mixed).neighbours is not None
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(erc_llm.errors.ModelError, match=r"pip install 'erc-llm\[neighbours\]'.*calibrate .* makes it"):
        erc_llm.load(mixed)


def test_another_adapter_is_refused(mixed: Path, corpus: Path, erc: Command, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = read_run(mixed).adapter / "adapter_model.safetensors"
    save_file({name: values * 2 for name, values in load_file(path).items()}, path)
    done = erc("predict", mixed, corpus, "--out", tmp_path / "x.parquet")
    refused(done, "hidden states are of an adapter with hash", "calibrate", "--neighbours hidden")


def test_what_is_refused(mixed: Path, corpus: Path, tiny_llama: TinyModel, erc: Command, tmp_path: Path) -> None:
    refused(erc("calibrate", mixed, "--search", "approximate"), "--search approximate", "add --neighbours")
    refused(erc("calibrate", mixed, "--neighbours", "words", "--search", "approximate"), "`words` are sparse")
    export = ("export", mixed, "--to", tmp_path / "away", "--base", "example/tiny", "--licence", "apache-2.0")
    for form in ("merged", "gguf-lora"):
        refused(erc(*export, "--format", form), "hidden states of its adapter", "--neighbours")
    refused(erc("average", mixed, "--rank", "2", "--out", tmp_path / "low"), "compression changes")


def test_a_cross_fitted_run_has_no_hidden_states_of_its_own(
    tiny_llama: TinyModel, corpus: Path, erc: Command, tmp_path: Path
) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path / "runs", training={"evaluations": 0})
    run = crossfit(config, Folds(count=2, at_once=1), console=Console(quiet=True))
    refused(erc("calibrate", run.folder, "--neighbours", "hidden"), "is cross-fitted", "Use words or an encoder")


@pytest.mark.slow
def test_an_export_of_the_adapter_carries_them(
    mixed: Path, corpus: Path, tiny_llama: TinyModel, erc: Command, tmp_path: Path
) -> None:
    away, out = tmp_path / "away", tmp_path / "t.parquet"
    done = erc("export", mixed, "--to", away, "--base", "example/tiny", "--licence", "apache-2.0")
    assert done.code == 0, done.err
    assert adapter_sha256(read_run(away)) == adapter_sha256(read_run(mixed))
    tables = []
    for source in (mixed, away):
        done = erc("predict", source, corpus, "--out", out, "--set", f"model.base={tiny_llama.folder}")
        assert done.code == 0, done.err
        tables.append(read_predictions(out).probabilities)
    np.testing.assert_allclose(*tables, atol=1e-5)


def test_another_weight_changes_nothing_else(mixed: Path, corpus: Path) -> None:
    """With weight 0 the probabilities are those of the model alone."""
    run = read_run(mixed)
    calibration = read_calibration(run)
    assert calibration.neighbours is not None
    write_calibration(run, replace(calibration, neighbours=replace(calibration.neighbours, weight=0.0)))
    dialogue = erc_llm.read_corpus(corpus).split("dev")[0]
    without = replace(calibration, neighbours=None).correction()
    predictor = erc_llm.load(mixed)
    for line, scores in zip(predictor.predict(dialogue), predictor.scores([dialogue])[0], strict=True):
        np.testing.assert_allclose([*line.probabilities.values()], without.probabilities(scores.log_likelihoods))
