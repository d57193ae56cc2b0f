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


def _planned(
    architecture: Architecture, adapter: AdapterShape, size: Size, compute: int, quantised: bool = False, **options: Any
) -> int:
    """The plan's activations: all tensors but weights, adapter, gradients and optimizer."""
    branch, rows = size.branches, size.trunk + size.branches
    load = Load(size.rows, size.logit_rows, size.trees * size.trunk, size.trees * branch * rows, branch * rows)
    stack = our_stack(quantised=quantised, compute=compute)
    peak = training_peak(architecture, adapter, stack, load, **options)
    static = ("weights", "scales", "embeddings", "norms", "LoRA", "gradients", "optimizer")
    return peak.tensors - sum(size for name, size in peak.components.items() if name.startswith(static))


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("name", [LLAMA2, "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-0.5B"])
def test_activations_agree_with_the_tensors_of_a_real_pass(
    name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four layers of the true width."""
    config, architecture, adapter = _shape(name, layers=4)
    size = Size()
    counted = count_training(config, size, monkeypatch, checkpointing=checkpointing)
    planned = _planned(architecture, adapter, size, 2, checkpointing=checkpointing)
    assert planned == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("name", [LLAMA2, "Qwen/Qwen2.5-0.5B"])
def test_so_do_those_of_qlora(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is the higher one: it counts a dequantised weight at the peak, which is at another moment here."""
    config, architecture, adapter = _shape(name, layers=4)
    counted = count_training(config, Size(), monkeypatch, quantised=True)
    planned = _planned(architecture, adapter, Size(), 2, quantised=True, checkpointing=True)
    assert planned == pytest.approx(counted, rel=0.10)


@pytest.mark.parametrize(
    ("dropout", "dtype", "checkpointing", "logit_rows"),
    [
        (0.1, torch.bfloat16, True, 200),
        (0.1, torch.bfloat16, False, 200),
        (0.0, torch.float32, True, 200),
        (0.0, torch.float32, False, 200),
        (0.0, torch.bfloat16, True, 1500),
    ],
)
def test_so_do_those_of_other_settings(
    dropout: float, dtype: torch.dtype, checkpointing: bool, logit_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU keeps the masks of dropout in 16 bits where a GPU keeps a byte, so there the plan is the lower one."""
    config, architecture, adapter = _shape("meta-llama/Llama-3.2-1B", layers=4)
    size = Size(logit_rows=logit_rows)
    options = {"dropout": dropout, "checkpointing": checkpointing}
    counted = count_training(config, size, monkeypatch, dtype=dtype, **options)
    planned = _planned(architecture, adapter, size, dtype.itemsize, **options | {"dropout": dropout > 0})
    assert planned == pytest.approx(counted, rel=0.10)


@pytest.mark.parametrize("shape", [(64, 64), (256, 96), (129, 65)])
def test_nf4_takes_the_bytes_that_bitsandbytes_stores(shape: tuple[int, int]) -> None:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(*shape), quant_type="nf4", compress_statistics=True)
    scales = state.absmax.nbytes + state.state2.absmax.nbytes + state.offset.nbytes
    count = shape[0] * shape[1]
    assert packed.nbytes == packed_bytes(count)
    assert scales == absmax_bytes(count)
    _, single = quantize_4bit(torch.randn(*shape), quant_type="nf4", compress_statistics=False)
    assert single.absmax.nbytes == absmax_bytes(count, double=False)


def test_the_weights_of_llama_2_7b_in_nf4() -> None:
    """Half a byte a weight of the linear layers, and 0.127 bits a weight for scales (the QLoRA paper, section 3)."""
    _, architecture, _ = _shape(LLAMA2)
    packed, scales = quantised_bytes(architecture)
    assert packed == 6_476_005_376 // 2
    assert scales * 8 / architecture.linear_weights == pytest.approx(0.127, abs=0.001)


def test_a_peak_is_the_sum_of_its_components() -> None:
    _, architecture, adapter = _shape(LLAMA2)
    stack = our_stack(quantised=True, compute=2)
    peak = training_peak(architecture, adapter, stack, Load(2048, 200), checkpointing=True)
    assert peak.total == sum(peak.components.values())
    assert peak.tensors < peak.total
    assert peak.components["optimizer states"] == 8 * adapter.parameters
    scoring = scoring_peak(architecture, adapter, stack, Load(2048, 200), training=False)
    assert scoring.total < scoring_peak(architecture, adapter, stack, Load(2048, 200), training=True).total < peak.total


def test_checkpointing_and_quantisation_save_memory_and_more_tokens_take_more() -> None:
    _, architecture, adapter = _shape(LLAMA2)

    def total(quantised: bool, checkpointing: bool, tokens: int) -> int:
        stack = our_stack(quantised=quantised, compute=2)
        return training_peak(architecture, adapter, stack, Load(tokens, 100), checkpointing=checkpointing).total

    assert total(True, True, 2048) < total(True, False, 2048) < total(False, False, 2048)
    assert total(True, True, 1024) < total(True, True, 2048)


def test_plain_trainers_keep_logits_of_every_position() -> None:
    _, architecture, adapter = _shape("meta-llama/Llama-3.1-8B")
    ours = training_peak(
        architecture, adapter, our_stack(quantised=True, compute=2), Load(2048, 200), checkpointing=True
    )
    plain = training_peak(
        architecture, adapter, plain_stack(quantised=True, compute=2), Load.padded(1, 2048), checkpointing=True
    )
    assert plain.when == "the loss"
    assert plain.total > ours.total + 4 * 10**9
