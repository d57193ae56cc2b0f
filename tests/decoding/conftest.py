"""A tiny model of each kind: ChatML, Llama 2's chat style, and a base model."""

from __future__ import annotations

import pytest

from tests.tiny_models import TinyModel


@pytest.fixture(scope="module", params=["chatml", "llama2", "base"])
def tiny(
    request: pytest.FixtureRequest, tiny_llama: TinyModel, tiny_llama2_style: TinyModel, tiny_llama2_base: TinyModel
) -> TinyModel:
    return {"chatml": tiny_llama, "llama2": tiny_llama2_style, "base": tiny_llama2_base}[request.param]
