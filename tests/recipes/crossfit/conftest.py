"""A cross-fitting that was made once, and a copy of it to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.recipes.crossfit.crossfitted import (
    SCENES,
    Crossfitted,
    crossfitted,
)
from tests.tiny_models import TinyModel
from tests.tiny_runs import write_corpus


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("crossfit") / "corpus", train=SCENES)


@pytest.fixture(scope="package")
def done(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Crossfitted:
    return crossfitted(tiny_llama, corpus, tmp_path_factory.mktemp("done"))


@pytest.fixture
def copied(done: Crossfitted, tmp_path: Path) -> Crossfitted:
    """A copy of the finished cross-fitting, to spoil."""
    shutil.copytree(done.folder.parent, tmp_path / "runs")
    config = tmp_path / "config.yaml"
    content = yaml.safe_load(done.config.read_text("utf-8")) | {"output": str(tmp_path / "runs")}
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny")
