"""Trainings with balanced classes, and the prior that they tell their predictions."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from erc_llm.corpus import read_corpus
from erc_llm.errors import CorpusError
from erc_llm.predictor import load
from erc_llm.recipes.predict import predict
from erc_llm.recipes.train import train
from erc_llm.runs.directory import Run
from tests.recipes.changed import changed
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

QUIET = Console(quiet=True)


BALANCED = {
    "drawn": {"scheme": "inverse_frequency"},
    "weighted": {"loss_weights": "inverse_frequency"},
    "unnormalised": {"loss_weights": "inverse_frequency", "normalised": False},
}


@pytest.fixture(scope="module")
def balanced(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The finished run's configuration, with classes balanced."""
    folder = tmp_path_factory.mktemp("balanced")
    return {
        name: train(changed(finished, folder, name=name, sampling={**sampling, "allow_absent": True}), console=QUIET)
        for name, sampling in BALANCED.items()
    }


def test_every_way_to_balance_is_another_training(finished: Run, balanced: dict[str, Run]) -> None:
    runs = [finished, *balanced.values()]
    weights = [load_file(run.adapter / "adapter_model.safetensors") for run in runs]
    for one, other in combinations(weights, 2):
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_run_and_its_predictions_know_the_prior_that_training_saw(
    finished: Run, balanced: dict[str, Run], corpus: Path
) -> None:
    shares = finished.manifest.train_shares
    flat = [bool(share) / sum(map(bool, shares)) for share in shares]
    assert max(shares) > 1.2 * max(flat)
    for run in balanced.values():
        assert run.manifest.train_shares == shares
        assert run.manifest.training_prior == pytest.approx(flat)
    table = predict(load(balanced["drawn"].folder), read_corpus(corpus), "dev")
    assert table.info.training_prior == pytest.approx(flat)


def test_a_balanced_training_is_reproducible(finished: Run, balanced: dict[str, Run], tmp_path: Path) -> None:
    for name, run in balanced.items():
        again = train(changed(finished, tmp_path, **run.config.model_dump(include={"name", "sampling"})), console=QUIET)
        one, two = (load_file(r.adapter / "adapter_model.safetensors") for r in (run, again))
        assert all(torch.equal(one[k], two[k]) for k in one), name


def test_an_absent_class_is_refused_before_there_is_a_run(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", train=2)
    training, sampling = {"evaluations": 0}, {"scheme": "inverse_frequency"}
    with pytest.raises(CorpusError, match=r"sampling\.scheme=inverse_frequency: .* labelled .*allow_absent"):
        train(tiny_config(tiny_llama, folder, tmp_path / "runs", training=training, sampling=sampling), console=QUIET)
    assert not (tmp_path / "runs").exists()
