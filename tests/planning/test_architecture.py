"""Numbers of parameters against transformers and PEFT, on models without weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from erc_llm.errors import ConfigError, ModelError
from erc_llm.planning.architecture import adapter_shape, parse_architecture
from erc_llm.planning.bases import shipped_shapes

PUBLISHED = {  # what the models' pages on the hub say, or `safetensors` metadata
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
}


def _on_meta(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {name: value for name, value in config.items() if name != "dtype"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert parse_architecture(shipped_shapes()[name], name).parameters == parameters


@pytest.mark.parametrize("name", sorted({str(s) for s in PUBLISHED}))
def test_transformers_counts_the_same(name: str) -> None:
    """With four layers: the others are equal."""
    config = dict(shipped_shapes()[name]) | {"num_hidden_layers": 4}
    assert parse_architecture(config, name).parameters == _on_meta(config).num_parameters()


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
        {"model_type": "qwen3", "attention_bias": True},
        {"model_type": "qwen3"},
        {"model_type": "qwen2", "tie_word_embeddings": True},
        {"model_type": "mistral", "sliding_window": None, "head_dim": 24},
    ],
)
def test_transformers_counts_the_same_with_biases_and_defaults(fields: dict[str, Any]) -> None:
    config = {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 300,
    } | fields
    assert parse_architecture(config, "here").parameters == _on_meta(config).num_parameters()


@pytest.mark.parametrize("rank", [8, 16])
@pytest.mark.parametrize(
    "targets", ["all-linear", ("q_proj", "v_proj"), r".*\.layers\.[01]\.mlp\.(gate|up)_proj", ("self_attn.o_proj",)]
)
def test_peft_attaches_as_many_trainable_parameters(rank: int, targets: str | tuple[str, ...]) -> None:
    from erc_llm.models.adapters import attach_lora

    config = dict(shipped_shapes()["Qwen/Qwen3-0.6B"]) | {"num_hidden_layers": 3}
    adapted = attach_lora(_on_meta(config), rank=rank, alpha=8, dropout=0.0, target_modules=targets, seed=1)
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert adapter_shape(parse_architecture(config, "here"), rank, targets).parameters == trainable


def test_targets_that_match_nothing_are_refused() -> None:
    architecture = parse_architecture(shipped_shapes()["Qwen/Qwen3-0.6B"], "here")
    with pytest.raises(ConfigError, match="matches no linear layer; there are q_proj"):
        adapter_shape(architecture, 8, ("query_key_value",))


def test_other_architectures_and_broken_files_are_refused() -> None:
    llama = shipped_shapes()["meta-llama/Llama-2-7b-hf"]
    with pytest.raises(ModelError, match="model_type is 'gemma2', expected one of llama, mistral"):
        parse_architecture(dict(llama) | {"model_type": "gemma2"}, "here")
    with pytest.raises(ModelError, match="hidden_size is missing"):
        parse_architecture({name: value for name, value in llama.items() if name != "hidden_size"}, "here")
    with pytest.raises(ModelError, match="sliding window of 4096"):
        parse_architecture(dict(llama) | {"model_type": "mistral", "sliding_window": 4096}, "here")


def test_a_window_that_qwen_does_not_use_is_no_window() -> None:
    qwen = dict(shipped_shapes()["Qwen/Qwen2.5-7B"]) | {"sliding_window": 131072, "use_sliding_window": False}
    assert parse_architecture(qwen, "here").layers == 28
