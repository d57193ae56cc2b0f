"""A small corpus, and a configuration of a tiny model for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus, read_corpus
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("served") / "corpus")


@pytest.fixture(scope="package")
def corpus(folder: Path) -> Corpus:
    return read_corpus(folder)


@pytest.fixture
def config(tiny_llama: TinyModel, folder: Path, tmp_path: Path) -> RunConfig:
    return tiny_config(tiny_llama, folder, tmp_path / "runs")
