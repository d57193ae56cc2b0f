"""What a library leaves alone in the process that uses it: environment, memory allocator, random numbers."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from erc_llm.cli.app import app
from erc_llm.predictor import load
from tests.baselines.small import baseline_config, trained
from tests.tiny_models import TinyModel
from tests.tiny_runs import dialogue, tiny_config


def test_a_predictor_changes_nothing_of_the_process(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *rest, **more: opened.append(name) or real(name, *rest, **more))
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    environment, state = dict(os.environ), torch.get_rng_state()
    predictor = load(tiny_config(tiny_llama, tmp_path, tmp_path))
    assert len(predictor.predict(dialogue(0, 3))) == 3
    assert dict(os.environ) == environment
    assert torch.equal(torch.get_rng_state(), state)
    assert None not in opened, "the C library's allocator was set"


@pytest.mark.parametrize("kind", ["encoder", "emonet"])
def test_a_baseline_is_trained_without_touching_the_random_numbers_of_the_process(
    tiny_bert: TinyModel, tmp_path: Path, kind: str
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = trained(baseline_config(tiny_bert, tmp_path / "first", kind=kind))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = trained(baseline_config(tiny_bert, tmp_path / "second", kind=kind))
    weights = [(run.folder / "model.safetensors").read_bytes() for run in (first, second)]
    assert weights[0] == weights[1], "the caller's random numbers went into the model"


@pytest.mark.parametrize("arguments", [["predict", "no-run", "no-corpus"], ["calibrate", "no-run"]], ids=" ".join)
def test_a_command_that_scores_keeps_the_memory_that_it_frees(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []
    monkeypatch.setattr("erc_llm.models.devices.keep_freed_memory", lambda: kept.append(True))
    assert CliRunner().invoke(app, arguments).exit_code != 0
    assert kept
