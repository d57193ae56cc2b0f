"""The plan's memory against the tensors of real forward and backward passes, and against bitsandbytes' own bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.plan_counts import Size, count_scoring, count_training, planned_scoring, planned_training
from erc_llm.planning.architecture import AdapterShape, Architecture, adapter_shape, parse_architecture
from erc_llm.planning.bases import shipped_shapes
from erc_llm.planning.memory import Load, dequantised_bytes, our_stack, scoring_peak, training_peak
from erc_llm.planning.quantised import absmax_bytes, packed_bytes, quantised_bytes

LLAMA2 = "meta-llama/Llama-2-7b-hf"


def _shape(name: str) -> tuple[Architecture, AdapterShape]:
    architecture = parse_architecture(shipped_shapes()[name], name)
    return architecture, adapter_shape(architecture, 16, "all-linear")


def _shortened(name: str) -> dict[str, Any]:
    return dict(shipped_shapes()[name]) | {"num_hidden_layers": 4}


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("name", [LLAMA2, "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-0.5B"])
def test_activations_agree_with_the_tensors_of_a_real_pass(name: str, checkpointing: bool) -> None:
    """Four layers of the true width."""
    config = _shortened(name)
    counted = count_training(config, Size(), checkpointing=checkpointing)
    assert planned_training(config, Size(), checkpointing=checkpointing) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("name", [LLAMA2, "Qwen/Qwen2.5-0.5B"])
def test_so_do_those_of_qlora(name: str) -> None:
    """The plan is the higher one: it counts a dequantised weight at the peak, which is at another moment here."""
    counted = count_training(_shortened(name), Size(), quantised=True)
    assert planned_training(_shortened(name), Size(), quantised=True) == pytest.approx(counted, rel=0.10)


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("logit_rows", [200, 1600])
@pytest.mark.parametrize("name", [LLAMA2, "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-0.6B"])
def test_so_do_those_of_scoring(name: str, logit_rows: int, quantised: bool) -> None:
    """A GPU dequantises whole weights above 1,536 rows, which the plan counts and the pass without data does not."""
    config, size = _shortened(name), Size(logit_rows=logit_rows)
    architecture, _ = _shape(name)
    dequantised = dequantised_bytes(architecture, our_stack(quantised=quantised, compute=2))
    counted = count_scoring(config, size, quantised=quantised)
    assert 0.95 * counted < planned_scoring(config, size, quantised=quantised) < 1.15 * (counted + dequantised)


@pytest.mark.parametrize(
    ("options", "logit_rows"),
    [
        ({"dropout": 0.1}, 200),
        ({"dropout": 0.1, "checkpointing": False}, 200),
        ({"dtype": torch.float32}, 200),
        ({"dtype": torch.float32, "checkpointing": False}, 200),
        ({"rank": 64}, 1500),
    ],
)
def test_so_do_those_of_other_settings(options: dict[str, Any], logit_rows: int) -> None:
    """A CPU keeps the masks of dropout in 16 bits where a GPU keeps a byte, so there the plan is the lower one."""
    config, size = _shortened("meta-llama/Llama-3.2-1B"), Size(logit_rows=logit_rows)
    assert planned_training(config, size, **options) == pytest.approx(count_training(config, size, **options), rel=0.12)


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
    architecture, _ = _shape(LLAMA2)
    packed, scales = quantised_bytes(architecture)
    assert packed == 6_476_005_376 // 2
    assert scales * 8 / architecture.linear_weights == pytest.approx(0.127, abs=0.001)


def test_a_peak_is_the_sum_of_its_components() -> None:
    architecture, adapter = _shape(LLAMA2)
    stack = our_stack(quantised=True, compute=2)
    peak = training_peak(architecture, adapter, stack, Load(2048, 200), checkpointing=True)
    assert peak.total == sum(peak.components.values())
    assert peak.tensors < peak.total
    assert peak.components["optimizer states"] == 8 * adapter.parameters
    scoring = scoring_peak(architecture, adapter, stack, Load(2048, 200), training=False)
    assert scoring.total < scoring_peak(architecture, adapter, stack, Load(2048, 200), training=True).total < peak.total


def test_checkpointing_and_quantisation_save_memory_and_more_tokens_take_more() -> None:
    architecture, adapter = _shape(LLAMA2)

    def total(quantised: bool, checkpointing: bool, tokens: int) -> int:
        stack = our_stack(quantised=quantised, compute=2)
        return training_peak(architecture, adapter, stack, Load(tokens, 100), checkpointing=checkpointing).total

    assert total(True, True, 2048) < total(True, False, 2048) < total(False, False, 2048)
    assert total(True, True, 1024) < total(True, True, 2048)
