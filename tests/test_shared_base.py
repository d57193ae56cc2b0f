"""Several adapters on one base model: it is loaded once, and each predictor answers as it does by itself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

import erc_llm
from erc_llm.corpus import read_corpus
from erc_llm.errors import ConfigError, PredictionsError, RunError
from erc_llm.predictions import read_predictions
from erc_llm.predictions.mean import mean_prediction
from erc_llm.recipes.train import train
from tests.command_line import Command, refused
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.fixture(scope="module")
def runs(tiny_llama: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs with other seeds and ranks."""
    folder = tmp_path_factory.mktemp("shared")
    corpus = write_corpus(folder / "corpus")
    found = []
    for seed in (1, 2, 3):
        sections: dict[str, Any] = {"name": f"r{seed}", "seed": seed, "lora": {"rank": 2 * seed, "alpha": 8}}
        found.append(train(tiny_config(tiny_llama, corpus, folder, **sections), console=Console(quiet=True)).folder)
    return found


def test_three_adapters_share_one_base_and_answer_as_alone(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    scene = read_corpus(runs[0].parent / "corpus").split("dev")[0]
    alone = [erc_llm.load(run).scores([scene])[0] for run in runs]
    loads = []
    original = erc_llm.opened_model.build_model
    monkeypatch.setattr("erc_llm.opened_model.build_model", lambda *a, **k: loads.append(1) or original(*a, **k))
    first = erc_llm.load(runs[0])
    together = [first, *(erc_llm.load(run, beside=first) for run in runs[1:])]
    assert loads == [1]
    for _ in range(2):
        for predictor, expected in zip(together, alone, strict=True):
            found = predictor.scores([scene])[0]
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one.log_likelihoods, other.log_likelihoods, rtol=0, atol=1e-6)
    live = [predictor.live() for predictor in together]
    line = scene.utterances[0]
    for session, predictor in zip(live, together, strict=True):
        said = session.say(line.speakers, line.text)
        assert said.log_likelihoods == pytest.approx(predictor.predict(scene)[0].log_likelihoods, abs=1e-4)


def test_what_cannot_share_a_base_is_refused(runs: list[Path], tiny_llama: TinyModel, tmp_path: Path) -> None:
    base = erc_llm.load(tiny_config(tiny_llama, tmp_path, tmp_path))
    with pytest.raises(ConfigError, match="only adapters"):
        erc_llm.load(runs[0], beside=base)
    first = erc_llm.load(runs[0])
    with pytest.raises(ConfigError, match="load it by itself"):
        erc_llm.load(runs[1], beside=first, overrides=["model.precision=bf16"])


@pytest.mark.slow
def test_an_export_with_other_weights_shares_no_base(runs: list[Path], tmp_path: Path) -> None:
    first, export = erc_llm.load(runs[0]), tmp_path / "export"
    erc_llm.export_run(runs[1], export, base="example/tiny", licence="apache-2.0", probes=1)
    base = [f"model.base={first.config.model.base}"]
    assert erc_llm.load(export, beside=first, overrides=base).run is not None
    weights = export / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match="has hash"):
        erc_llm.load(export, beside=first, overrides=base)


def test_the_command_predicts_with_each_adapter_or_their_mean(runs: list[Path], tmp_path: Path, erc: Command) -> None:
    corpus = runs[0].parent / "corpus"
    further = ("--adapter", runs[1], "--adapter", runs[2])
    done = erc("predict", runs[0], corpus, *further, "--out", tmp_path / "dev.parquet")
    assert done.code == 0, done.err
    tables = [read_predictions(tmp_path / f"dev-r{seed}.parquet") for seed in (1, 2, 3)]
    for run, table in zip(runs, tables, strict=True):
        assert erc("predict", run, corpus, "--out", tmp_path / "alone.parquet").code == 0
        alone = read_predictions(tmp_path / "alone.parquet")
        assert table.info == alone.info
        np.testing.assert_allclose(table.log_likelihoods, alone.log_likelihoods, rtol=0, atol=1e-6)
    done = erc("predict", runs[0], corpus, *further, "--ensemble", "--out", tmp_path / "mean.parquet")
    assert done.code == 0, done.err
    mean = read_predictions(tmp_path / "mean.parquet")
    np.testing.assert_allclose(mean.probabilities, np.mean([t.probabilities for t in tables], axis=0), atol=1e-9)
    assert mean.info.system == "ensemble of r1, r2, r3"
    assert erc("evaluate", tmp_path / "mean.parquet", "--draws", 100).code == 0
    refused(erc("predict", runs[0], corpus, "--ensemble"), "--ensemble", "--adapter")
    refused(erc("predict", runs[0], corpus, "--adapter", runs[0]), "expected different ones")
    decided = erc("predict", runs[0], corpus, *further, "--ensemble", "--decide", "weighted_f1")
    refused(decided, "an ensemble has none", "--transductive")
    refused(
        erc("predict", runs[0], corpus, *further, "--decode", "generate", "--abstain-below", "0.5"), "probabilities"
    )


def test_all_adapters_are_loaded_before_any_predicts(
    runs: list[Path], tmp_path: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predicts(*_: object, **__: object) -> None:
        raise AssertionError("nothing should be predicted")

    monkeypatch.setattr("erc_llm.recipes.predict_together.predict_with_progress", predicts)
    spoilt = Path(shutil.copytree(runs[2], tmp_path / "r3"))
    weights = spoilt / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    del tensors[next(name for name in tensors if "layers.1" in name)]
    save_file(tensors, weights, metadata={"format": "pt"})
    corpus = runs[0].parent / "corpus"
    done = erc("predict", runs[0], corpus, "--adapter", spoilt, "--out", tmp_path / "dev.parquet")
    refused(done, "has no base_model", "lacks 1 tensors")


def test_tables_of_other_labels_have_no_mean(runs: list[Path], tmp_path: Path, erc: Command) -> None:
    assert erc("predict", runs[0], runs[0].parent / "corpus", "--out", tmp_path / "a.parquet").code == 0
    one = read_predictions(tmp_path / "a.parquet")
    other = replace(one, info=replace(one.info, labels=one.info.labels[::-1]))
    with pytest.raises(PredictionsError, match="different labels"):
        mean_prediction([one, other])


@pytest.mark.slow
def test_sharing_a_base_is_measured_against_a_base_each(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.shared_base import SEPARATE, SHARED, main

    assert main([*map(str, runs), "--pairs", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"| {SHARED} |" in printed
    assert f"| {SEPARATE} |" in printed
    assert main([str(runs[0]), str(runs[0].parent / "none"), "--pairs", "1"]) == 2
