"""What the tests of checks share: a cache of their own, a small corpus, and a configuration file for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from huggingface_hub import constants

from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("validate") / "corpus")


@pytest.fixture
def config_for(corpus: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration of a tiny run; `sections` are merged in."""

    def write(model: TinyModel | Path, **sections: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(tiny_config(model, corpus, tmp_path / "runs", **sections).as_yaml(), encoding="utf-8")
        return path

    return write


@pytest.fixture
def config(config_for: Callable[..., Path], tiny_llama: TinyModel) -> Path:
    return config_for(tiny_llama)


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub, and a hub client that may go online."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with one kilobyte left."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(10**12, 10**12 - 1000, 1000))


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4, which has no units for bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    memory = SimpleNamespace(total_memory=15360 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: memory)
