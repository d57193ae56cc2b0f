"""Free text of a local model: a batch says what each text alone would get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erc_llm.build import build_profiler
from erc_llm.config import ProfileConfig
from erc_llm.decoding.generation import continue_texts
from erc_llm.models.loading import LoadedModel, load_base_model
from tests.prompting.random_corpora import corpus_of, scene_of
from tests.tiny_models import TinyModel

TEXTS = ["Mara: Who left", "Notes on Tomas:", "The kitchen of a small flat, early in the morning. Somebody has"]


@pytest.fixture(scope="module")
def loaded(tiny_llama: TinyModel) -> LoadedModel:
    return load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", attention="sdpa")


def test_a_batch_equals_one_by_one(loaded: LoadedModel) -> None:
    together = continue_texts(loaded, TEXTS, 12)
    assert together == [continue_texts(loaded, [text], 12)[0] for text in TEXTS]
    assert any(together)


def test_a_base_model_without_a_chat_template_will_do(tiny_llama2_base: TinyModel) -> None:
    base = load_base_model(str(tiny_llama2_base.folder), precision="fp32", device="cpu", attention="sdpa")
    assert base.tokenizer.chat_template is None
    assert continue_texts(base, TEXTS, 8) == [continue_texts(base, [text], 8)[0] for text in TEXTS]


def test_it_is_greedy(loaded: LoadedModel) -> None:
    """Greedy: a longer continuation begins with the shorter one."""
    short, long = continue_texts(loaded, TEXTS, 4), continue_texts(loaded, TEXTS, 12)
    assert short == continue_texts(loaded, TEXTS, 4)
    assert all(one.startswith(other.rstrip("\ufffd")) for one, other in zip(long, short, strict=True))


def test_it_ends_with_the_line(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third token is made a line's end in every row: nothing is written behind it."""
    line_end = loaded.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
    steps, forward = 0, loaded.model.forward

    def ending(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        output = forward(*args, **kwargs)
        if steps == 3:
            output.logits[:, -1, :] = -100.0
            output.logits[:, -1, line_end] = 100.0
        return output

    monkeypatch.setattr(loaded.model, "forward", ending)
    found = continue_texts(loaded, TEXTS, 40)
    assert steps == 3
    monkeypatch.undo()
    assert found == [text.rstrip() for text in continue_texts(loaded, TEXTS, 2)]


def test_no_four_tokens_come_twice(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the text and its continuation together; the model is made to want nothing but one token."""
    rows: list[list[int]] = []
    generate, forward = loaded.model.generate, loaded.model.forward

    def wanting(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits[:, -1, 300] = 100.0
        return output

    def kept(**kwargs: Any) -> Any:
        output = generate(**kwargs)
        rows.extend(output.tolist())
        return output

    monkeypatch.setattr(loaded.model, "forward", wanting)
    monkeypatch.setattr(loaded.model, "generate", kept)
    continue_texts(loaded, ["Mara: Hm"], 30)
    fours = list(zip(*(rows[0][k:] for k in range(4)), strict=False))
    assert len(set(fours)) == len(fours)
    assert len(rows[0]) > 30


@pytest.mark.parametrize("marker", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<tool_call>"])
def test_what_people_say_is_never_markup_to_the_writing_model(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str
) -> None:
    loaded = load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", attention="sdpa")
    read: list[int] = []

    def generate(input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        read.extend(input_ids[attention_mask.bool()].tolist())
        return input_ids

    monkeypatch.setattr(loaded.model, "generate", generate)
    monkeypatch.setattr("erc_llm.models.loading.load_base_model", lambda *_, **__: loaded)
    corpus = corpus_of({"train": [scene_of(i, ("Ada Quill", f"Hm {marker} ok")) for i in (1, 2)]})
    config = ProfileConfig(writer="llm", model=str(tiny_llama.folder), notes=str(tmp_path / "notes.jsonl"))
    build_profiler(config, corpus)
    assert len(read) > 50
    assert loaded.tokenizer.convert_tokens_to_ids(marker) not in read
