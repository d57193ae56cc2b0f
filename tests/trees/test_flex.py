"""Attention of a whole forest in one kernel: the same as tree by tree, and used only where it works.

torch's kernel for CPUs has no backward. Gradients are compared through torch's readable implementation of the same
operator, which has one; those of the kernel for GPUs by the trial before its first use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from erc_llm.trees import attention, flex
from erc_llm.trees.attention import ATTENTION, _tree_by_tree, forest_logits
from erc_llm.trees.forest import Forest, pack
from erc_llm.trees.likelihoods import answer_log_likelihoods
from tests.tiny_models import TinyModel
from tests.trees.random_trees import random_tree

# The kernel says that it is slow when it is not compiled, which takes a C++ compiler and most of a minute.
uncompiled = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile:UserWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)


@pytest.fixture(autouse=True)
def no_memory() -> Iterator[None]:
    """Trials and compiled kernels of one test are not those of the next."""
    for known in (flex._works, flex._compiled):
        known.cache_clear()
    yield
    for known in (flex._works, flex._compiled):
        known.cache_clear()


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)


def drawn(forest: Forest, key_heads: int = 2, heads: int = 4, width: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, forest.rows, count, width) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).transpose(1, 2) for shape in shapes]


@uncompiled
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_one_kernel_gives_what_attention_tree_by_tree_gives(key_heads: int) -> None:
    for forest in (pack([random_tree(seed) for seed in (1, 2, 3)]), flex._example()):
        inputs = drawn(forest, key_heads)
        expected = _tree_by_tree(*inputs, 0.0, 0.3, forest)
        assert torch.allclose(flex.flex_forest_attention(*inputs, 0.3, forest), expected, atol=1e-5)


@uncompiled
@pytest.mark.usefixtures("interpreted")
def test_a_model_gives_the_same_answers_with_one_kernel(tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama.folder, attn_implementation=ATTENTION).eval()
    forest, seen = pack([random_tree(seed) for seed in (4, 5)]), []
    with torch.no_grad():
        expected = answer_log_likelihoods(forest_logits(model, forest), forest)
        monkeypatch.setattr(attention, "takes_flex", lambda *_: seen.append(1) or True)
        found = answer_log_likelihoods(forest_logits(model, forest), forest)
    assert len(seen) == 2, "one call per layer"
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.fixture
def differentiable(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the check that refuses gradients on a CPU."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)


@uncompiled
@pytest.mark.usefixtures("differentiable")
def test_its_gradients_are_those_of_plain_attention() -> None:
    assert flex._largest_difference(torch.device("cpu"), torch.float32, (4, 2, 16), 0.3, True) <= 1e-5


@uncompiled
@pytest.mark.usefixtures("differentiable")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_is_trained_by_the_same_gradients_with_one_kernel(
    checkpointing: bool, tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forest, gradients = pack([random_tree(seed) for seed in (8, 9)]), []
    for used in (False, True):
        monkeypatch.setattr(attention, "takes_flex", lambda *_, used=used: used)
        model = AutoModelForCausalLM.from_pretrained(tiny_llama.folder, attn_implementation=ATTENTION).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        answer_log_likelihoods(forest_logits(model, forest), forest).mean().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    expected, found = gradients
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max() / gradient.abs().max()) <= 1e-4, name


@pytest.mark.slow
def test_the_compiled_kernel_serves_forests_of_all_sizes() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.inference_mode():
        for seeds in ([1, 2], range(4), range(9), [3, 4, 5], range(14)):
            forest = pack([random_tree(seed) for seed in seeds] + [random_tree(99)] * 6)
            inputs = drawn(forest, width=32)
            expected = _tree_by_tree(*inputs, 0.0, 0.3, forest)
            assert torch.allclose(flex.flex_forest_attention(*inputs, 0.3, forest), expected, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.fixture
def gpu_tensors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes stand-ins for a GPU's tensors; `torch.cuda` says that the GPU is an A100."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(flex, "_works", lambda *_: True)

    class Stand:
        device, requires_grad = torch.device("cuda:0"), False

        def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
            self.shape, self.dtype = shape, dtype

    return lambda rows=500, width=64, dtype=torch.bfloat16: [Stand((1, 4, rows, width), dtype)] * 3


def test_it_is_used_on_gpus_of_ampere_and_later_in_16_bits(gpu_tensors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def takes(dropout: float = 0.0, **changes: Any) -> bool:
        return flex.takes_flex(*gpu_tensors(**changes), 0.3, dropout)

    assert takes()
    assert takes(dtype=torch.float16)
    assert not takes(dtype=torch.float32), "it would round to TF32"
    assert not takes(dropout=0.1)
    assert not takes(width=8)
    assert not takes(width=512)
    assert not takes(rows=128), "a single block"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not takes(dtype=torch.float16)
    cpu = torch.zeros(1, 4, 500, 64, dtype=torch.bfloat16)
    assert not flex.takes_flex(cpu, cpu, cpu, 0.3, 0.0)


CPU = (torch.device("cpu"), torch.float32, 4, 2, 16, 0.3)


@uncompiled
@pytest.mark.usefixtures("interpreted")
def test_a_kernel_that_works_passes_its_trial(caplog: pytest.LogCaptureFixture) -> None:
    assert flex._works(*CPU, False)
    assert not [record for record in caplog.records if record.name == flex.__name__]


@pytest.mark.usefixtures("interpreted")
def test_a_kernel_that_cannot_run_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not flex._works(*CPU, True)  # on a CPU it has no backward
        assert not flex._works(*CPU, True)
    [record] = [record for record in caplog.records if record.name == flex.__name__]
    assert "does not support backward on CPU" in record.message
    assert "tree by tree" in record.message


@pytest.mark.parametrize("trained", [False, True])
def test_a_kernel_with_other_results_is_not_used(
    trained: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_the_first_row(query: Any, key: Any, value: Any, scaling: Any, forest: Forest) -> torch.Tensor:
        hidden = torch.ones_like(key[:, :1, :, :1])
        hidden[:, :, 0] = 0
        return flex._plain_attention(query, key, value * hidden, scaling, forest)

    monkeypatch.setattr(flex, "flex_forest_attention", without_the_first_row)
    assert not flex._works(*CPU, trained)
    assert "differ from those of plain attention by" in caplog.text


def test_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert not flex._works(*CPU, False)


def test_a_trial_within_a_checkpointed_layer_leaves_it_alone(
    tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpointing counts the tensors that a layer saves; the trial runs in the first of its two forwards only."""
    monkeypatch.setattr(flex, "flex_forest_attention", flex._plain_attention)
    monkeypatch.setattr(attention, "flex_forest_attention", flex._plain_attention)
    gradients = []
    for tried in (False, True):
        model = AutoModelForCausalLM.from_pretrained(tiny_llama.folder, attn_implementation=ATTENTION).train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        monkeypatch.setattr(attention, "takes_flex", lambda *_, tried=tried: tried and flex._works(*CPU, True))
        forest = pack([random_tree(seed) for seed in (6, 7)])
        answer_log_likelihoods(forest_logits(model, forest), forest).sum().backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    assert flex._works.cache_info().misses == 1
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-5 * float(gradients[0].abs().max()))
