"""The masks of a forest: every form of them allows exactly a row's ancestors and the row itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.trees import attention as attention_module
from erc_llm.trees.attention import _gpu_attention, _tree_by_tree
from erc_llm.trees.forest import Forest, pack, read_nodes
from erc_llm.trees.masks import depth_first
from erc_llm.trees.tree import TokenTree
from tests.trees.random_trees import random_tree


def dense(trees: list[TokenTree]) -> torch.Tensor:
    """(rows, rows) the mask of a forest by the readable reference."""
    parts = [torch.from_numpy(t.ancestors[np.ix_(read_nodes(t), read_nodes(t))]) for t in trees]
    return torch.block_diag(*[part.float() for part in parts]).bool()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 3))
def test_a_rows_descendants_have_consecutive_numbers(seed: int, count: int) -> None:
    trees = [random_tree(seed + i) for i in range(count)]
    forest = pack(trees)
    assert sorted(forest.enter.tolist()) == list(range(forest.rows))
    allowed = (forest.enter[None] <= forest.enter[:, None]) & (forest.enter[:, None] < forest.leave[None])
    assert torch.equal(allowed, dense(trees))


def test_depth_first_by_hand() -> None:
    enter, leave = depth_first(np.array([-1, 0, 1, 1, 0, 3, -1]))
    assert enter.tolist() == [0, 1, 2, 3, 5, 4, 6]
    assert leave.tolist() == [6, 5, 3, 5, 6, 5, 7]


def test_masks_are_built_once_for_all_layers() -> None:
    forest = pack([random_tree(1), random_tree(2)])
    assert forest.masks.branches is forest.masks.branches
    assert forest.masks.biases(torch.float32) is forest.masks.biases(torch.float32)
    assert forest.masks.blocks is forest.masks.blocks
    assert forest.to("cpu").masks is not forest.masks, "those of another device are its own"


def test_a_forest_moves_and_is_pinned_with_all_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = pack([random_tree(1), random_tree(2)])
    assert forest.masks.branches
    tensors = {name for name, value in vars(forest).items() if isinstance(value, torch.Tensor)}
    moved = vars(forest.to("meta", non_blocking=True))
    assert {name for name, value in moved.items() if isinstance(value, torch.Tensor) and value.is_meta} == tensors
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    assert vars(forest.pin_memory())["layouts"] == forest.layouts
    assert len(pinned) == len(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_bias_is_the_mask_in_rows_that_kernels_need_not_copy(dtype: torch.dtype) -> None:
    forest = pack([random_tree(3), random_tree(4)])
    for bias, mask in zip(forest.masks.biases(dtype), forest.masks.branches, strict=True):
        assert bias is not None
        assert mask is not None
        assert bias.dtype == dtype
        assert torch.equal(bias == 0, mask)
        assert bool(bias[~mask].isneginf().all())
        assert all(stride % 16 == 0 for stride in bias.stride()[:3])
        assert bias.stride(3) == 1


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("flash", [False, True])
def test_attention_for_gpus_is_that_of_the_cpu(key_heads: int, flash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that share keys, by a view and by the kernel, with a bias in place of the mask; results and gradients."""
    forest = pack([random_tree(5), random_tree(6)])
    monkeypatch.setattr(attention_module, "_flash_shares_keys", lambda *_: flash)
    inputs = drawn(forest, 4, key_heads)
    reference = _tree_by_tree(*inputs, 0.0, 0.3, forest)

    def gpu(scaling: Any, dropout: float, query: Any, key: Any, value: Any, mask: Any) -> torch.Tensor:
        if mask is not None:
            number = next(i for i, m in enumerate(forest.masks.branches) if m is mask)
            mask = forest.masks.biases(query.dtype)[number]
        return _gpu_attention(scaling, dropout, query, key, value, mask)

    monkeypatch.setattr(attention_module, "_fused_attention", gpu)
    found = _tree_by_tree(*inputs, 0.0, 0.3, forest)
    assert torch.allclose(found, reference, atol=1e-5)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(reference, inputs, slope)
    for one, other in zip(torch.autograd.grad(found, inputs, slope), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def drawn(forest: Forest, heads: int, key_heads: int, width: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, count, forest.rows, width) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
