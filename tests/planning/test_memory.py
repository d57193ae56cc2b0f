"""The plan's memory against the tensors of real forward and backward passes, and against bitsandbytes' own bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from erc_llm.planning.architecture import AdapterShape, Architecture, adapter_shape, parse_architecture
from erc_llm.planning.bases import shipped_shapes
from erc_llm.planning.memory import Load, our_stack, plain_stack, scoring_peak, training_peak
from erc_llm.planning.quantised import absmax_bytes, packed_bytes, quantised_bytes
from tests.planning.counting import Size, count_training

LLAMA2 = "meta-llama/Llama-2-7b-hf"


def _shape(name: str, layers: int | None = None) -> tuple[dict[str, Any], Architecture, AdapterShape]:
    config = dict(shipped_shapes()[name])
    if layers is not None:
        config["num_hidden_layers"] = layers
    architecture = parse_architecture(config, name)
    return config, architecture, adapter_shape(architecture, 16, "all-linear")


def _planned(architecture: Architecture, adapter: AdapterShape, size: Size, compute: int, **options: Any) -> int:
    """The plan's activations: all tensors but weights, adapter, gradients and optimizer."""
    branch, rows = size.branches, size.trunk + size.branches
    load = Load(size.rows, size.logit_rows, size.trees * size.trunk, size.trees * branch * rows, branch * rows)
    stack = our_stack(quantised=False, compute=compute)
    peak = training_peak(architecture, adapter, stack, load, **options)
    static = ("weights", "embeddings", "norms", "LoRA", "gradients", "optimizer")
    return peak.tensors - sum(size for name, size in peak.components.items() if name.startswith(static))


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("name", [LLAMA2, "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-0.5B"])
def test_activations_agree_with_the_tensors_of_a_real_pass(
    name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four layers of the true width; within 10 %, and never too low by more than 5 %."""
    config, architecture, adapter = _shape(name, layers=4)
    size = Size()
    counted = count_training(config, size, monkeypatch, checkpointing=checkpointing)
    planned = _planned(architecture, adapter, size, 2, checkpointing=checkpointing)
    print(name, checkpointing, counted, planned, planned / counted)
    assert planned == pytest.approx(counted, rel=0.10)
    assert planned > 0.95 * counted
