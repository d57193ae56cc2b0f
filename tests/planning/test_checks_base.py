"""Architectures without weights: attention that token trees can and cannot express, and layers of the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from erc_llm.config import LoraConfig
from erc_llm.errors import ModelError
from erc_llm.models.adapters import attach_lora
from erc_llm.planning.checks_base import (
    attach_to_skeleton,
    build_skeleton,
    check_attention,
    trainable_parameters,
)
from erc_llm.planning.compute import written_bytes
from tests.tiny_models import TinyModel

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def _model(folder: Path, **fields: Any) -> Any:
    (folder / "config.json").write_text(json.dumps(SIZES | fields))
    return build_skeleton(folder)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model_type": "mistral", "sliding_window": 16}, "'sliding_window'"),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "use_sliding_window": False}, None),
        ({"model_type": "qwen3"}, None),
        ({"model_type": "llama"}, None),
        ({"model_type": "gemma2", "layer_types": ["full_attention"] * 2}, "'softcap'"),
        ({"model_type": "gemma2"}, "layers of the kinds sliding_attention"),
    ],
)
def test_attention(fields: dict[str, Any], told: str | None, tmp_path: Path) -> None:
    findings = check_attention(_model(tmp_path, **fields))
    if told is None:
        assert findings == []
    else:
        assert findings[0].severity == "error"
        assert told in findings[0].found
        assert "Llama" in findings[0].remedy


def test_what_cannot_be_found_out_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skeleton = _model(tmp_path, model_type="llama")

    def fails(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no such operation on meta")

    monkeypatch.setattr(skeleton, "forward", fails)
    (finding,) = check_attention(skeleton)
    assert finding.severity == "note"
    assert "was not checked: no such operation on meta" in finding.found


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "no_such"}', '{"model_type": "bert_not"}'])
def test_what_is_no_configuration_of_a_model(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="not the configuration of a causal language model"):
        build_skeleton(tmp_path)


def test_the_adapter_without_weights_is_as_large_as_the_real_one(tiny_llama: TinyModel) -> None:
    lora = LoraConfig(rank=4)
    skeleton = build_skeleton(tiny_llama.folder)
    assert {weight.device.type for weight in skeleton.parameters()} == {"meta"}
    adapted = attach_lora(tiny_llama.fresh_model(), rank=4, alpha=8, dropout=0.0, seed=1)
    assert trainable_parameters(attach_to_skeleton(skeleton, lora)) == trainable_parameters(adapted)


def test_seven_billion_parameters_need_no_memory(tmp_path: Path) -> None:
    """LLaMA-2-7B has 39,976,960 parameters in an adapter of rank 16 on all linear layers but the head."""
    true = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128}
    skeleton = _model(tmp_path, model_type="llama", **true, **heads)
    assert sum(weight.numel() for weight in skeleton.parameters()) == 6_738_415_616
    assert check_attention(skeleton) == []
    assert trainable_parameters(attach_to_skeleton(skeleton, LoraConfig())) == 39_976_960


def test_the_bytes_of_a_checkpoint_are_those_that_training_writes(tmp_path: Path) -> None:
    weights = [torch.nn.Parameter(torch.zeros(300, 40))]
    optimizer = torch.optim.AdamW(weights)
    weights[0].grad = torch.ones(300, 40)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    adapter, moments = 4 * 12_000, (tmp_path / "optimizer.pt").stat().st_size
    needed, told = written_bytes(12_000)
    assert needed == pytest.approx(2 * adapter + 3 * (2 * adapter + moments), rel=0.05)
    assert "3 checkpoints (192 kB each)" in told
