"""Free text of a local model: a batch says what each text alone would get."""

from __future__ import annotations

import pytest

from erc_llm.decoding.generation import continue_texts
from erc_llm.models import LoadedModel, load_base_model
from tests.tiny_models import TinyModel

TEXTS = ["Mara: Who left", "Notes on Tomas:", "The kitchen of a small flat, early in the morning. Somebody has"]


@pytest.fixture(scope="module")
def loaded(tiny_llama: TinyModel) -> LoadedModel:
    return load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", attention="sdpa")


def test_a_batch_equals_one_by_one(loaded: LoadedModel) -> None:
    together = continue_texts(loaded, TEXTS, 12)
    assert together == [continue_texts(loaded, [text], 12)[0] for text in TEXTS]
    assert any(together)


def test_it_ends_with_the_line(loaded: LoadedModel) -> None:
    assert not any("\n" in found for found in continue_texts(loaded, TEXTS, 40))
