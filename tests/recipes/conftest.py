"""A small corpus, a run that was trained on it once, and a copy of it to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.recipes.train import train
from erc_llm.runs.directory import Run
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

QUIET = Console(quiet=True)


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("recipes") / "corpus")


@pytest.fixture(scope="package")
def finished(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a few steps; read it, do not change it."""
    return train(tiny_config(tiny_llama, corpus, tmp_path_factory.mktemp("runs")), console=QUIET)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Path:
    """A copy of the finished run, to spoil."""
    return Path(shutil.copytree(finished.folder, tmp_path / finished.folder.name))
