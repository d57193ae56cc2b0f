"""The leakage manifest understands what the tables of real predictions state about a speaker's past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erc_llm.evaluation.leakage import past_reaches_other_splits
from erc_llm.predictor import load
from erc_llm.recipes.data import open_corpus
from erc_llm.recipes.predict import predict
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.mark.parametrize(
    ("sections", "reads"),
    [
        ({}, False),
        ({"state": {"source": "predicted"}}, False),
        ({"prompt": {"names": "invented"}}, False),
        ({"profile": {"writer": "statistics"}}, True),
        ({"profile": {"writer": "lines", "placement": "question"}}, True),
        ({"profile": {"writer": "lines", "control": "stale"}, "state": {"source": "predicted"}}, True),
    ],
)
def test_scenes_of_other_splits_in_profiles_are_known_from_the_table(
    sections: dict[str, Any], reads: bool, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    config = tiny_config(tiny_llama, write_corpus(tmp_path / "corpus"), tmp_path, **sections)
    read = open_corpus(config.corpus, config.label_set())
    info = predict(load(config, past=read), read, "dev").info
    assert past_reaches_other_splits(info) is reads, info.profile
