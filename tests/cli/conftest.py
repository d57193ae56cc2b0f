"""What the tests of commands share: a small corpus, a configuration for it, and a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.fixture(scope="package")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("ERC_LLM_CACHE", str(cache))


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("cli") / "corpus")


@pytest.fixture
def config(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config(tiny_llama, corpus, tmp_path / "runs").as_yaml(), encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def finished(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory, trained once; do not change it."""
    from rich.console import Console

    from erc_llm.recipes.train import train

    output = tmp_path_factory.mktemp("runs")
    return train(tiny_config(tiny_llama, corpus, output), console=Console(quiet=True)).folder
