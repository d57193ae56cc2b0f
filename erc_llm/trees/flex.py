"""Attention over a whole forest in one kernel: torch's `flex_attention` with the block mask of the forest.

It is used on GPUs that multiply bf16 (Ampere and later), in 16 bits. The kernel is compiled at its first use, which
needs Triton and a C compiler. So it is first tried on a small forest: if it cannot be compiled, or gives another result
than torch's plain attention, the per-tree attention of `erc_llm.trees.attention` is used instead, and a warning says
why. `TORCH_COMPILE_DISABLE=1` in the environment switches it off.

Input: queries, keys and values of a forest. Output: attention of every row to its ancestors and itself.
Does not depend on: models, text.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from erc_llm.trees.forest import Forest, pack
from erc_llm.trees.tree import TreeBuilder

_BLOCK = 128  # rows of one block of a block mask, by default in torch; a forest of one block has nothing to skip
_WIDTHS = range(16, 257)  # of heads; torch's kernel takes no smaller ones, and larger ones exceed the shared memory
_DIFFERENCE = 0.02  # relative, of the norms; rounding to bf16 gives a quarter of it, a wrong mask many times as much

_log = logging.getLogger(__name__)


def takes_flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, dropout: float
) -> bool:
    """Whether `flex_forest_attention` is to be used: on this GPU, for this dtype and these shapes.

    Shapes: as for `forest_attention`.
    """
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16) or dropout:
        return False
    if query.shape[2] <= _BLOCK or query.shape[3] not in _WIDTHS or query.shape[3] != value.shape[3]:
        return False
    if torch.cuda.get_device_capability(query.device) < (8, 0):
        return False
    trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    return _works(query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3], scaling, trained)


def flex_forest_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, forest: Forest
) -> torch.Tensor:
    """(1, heads, rows, width) attention of every row of a forest; other shapes as for `forest_attention`."""
    shared = query.shape[1] != key.shape[1]
    result: torch.Tensor = _compiled()(
        query, key, value, block_mask=forest.masks.blocks, scale=scaling, enable_gqa=shared
    )
    return result


@cache
def _compiled() -> Callable[..., Any]:
    """The kernel, compiled for forests of all sizes.

    With fixed sizes torch would compile it again for each size, and after eight sizes run it uncompiled, with the
    scores of all pairs of rows in memory. `fullgraph` makes that an error.
    """
    from torch.nn.attention.flex_attention import flex_attention

    # Training and scoring, each with its trial, are kernels of their own for each shape of heads; by default torch
    # compiles a function eight times in a process, and with `fullgraph` ends the next call with an error.
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, 64)
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


@cache
def _works(
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    key_heads: int,
    width: int,
    scaling: float | None,
    trained: bool,
) -> bool:
    """Whether the kernel can be compiled here and gives what plain attention gives, gradients included if trained."""
    if "1" in (os.environ.get(name) for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")):
        return False  # torch would run the kernel uncompiled
    shapes = (heads, key_heads, width)
    # A thread of its own has none of the caller's modes: inference, autocast, and the hooks of gradient checkpointing,
    # which would count the tensors that are saved here among those of the layer.
    with ThreadPoolExecutor(1) as thread:
        trial = thread.submit(_largest_difference, device, dtype, shapes, scaling, trained)
    try:
        found = trial.result()
    # Whatever the compiler, the driver or the kernel may raise: attention tree by tree needs none of them.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    else:
        if found <= _DIFFERENCE:
            return True
        reason = f"its results differ from those of plain attention by {found:.1%}"
    _log.warning("flex_attention cannot be used (%s); attention is computed tree by tree", reason)
    return False


def _largest_difference(
    device: torch.device, dtype: torch.dtype, shapes: tuple[int, int, int], scaling: float | None, trained: bool
) -> float:
    """Largest relative difference of flex from plain attention on a small forest, over result and gradients.

    Args:
        device: The device.
        dtype: The dtype of all tensors.
        shapes: Number of heads, of key heads, and the width of a head.
        scaling: Factor of the scores.
        trained: Whether to compare gradients too.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread
    heads, key_heads, width = shapes
    forest = _example().to(device)
    generator = torch.Generator(device).manual_seed(0)

    def drawn(count: int) -> torch.Tensor:
        shape = (1, forest.rows, count, width)
        values = torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype).transpose(1, 2)
        return values.requires_grad_(trained)

    inputs, slope = (drawn(heads), drawn(key_heads), drawn(key_heads)), drawn(heads).detach()
    outputs = [[attend(*inputs, scaling, forest)] for attend in (flex_forest_attention, _plain_attention)]
    if trained:
        outputs = [[output, *torch.autograd.grad(output, inputs, slope)] for [output] in outputs]
    pairs = zip(*outputs, strict=True)
    return max(float(((one - other).float().norm() / other.float().norm()).detach()) for one, other in pairs)


def _plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, forest: Forest
) -> torch.Tensor:
    """The same result with a dense mask over the square of the row, for a small forest."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    mask = (forest.enter[None] <= forest.enter[:, None]) & (forest.enter[:, None] < forest.leave[None])
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def _example() -> Forest:
    """A forest of two trees and five blocks, whose branches hang at different places of the trunk."""
    trees = []
    for length in (300, 150):
        builder = TreeBuilder()
        builder.add_trunk("lines", [0] * length)
        for target, after in enumerate(range(9, length, 40)):
            builder.add_question(target, after, [("question", [0] * 8)], [(0, [1, 2]), (1, [1, 3])])
        trees.append(builder.build())
    return pack(trees)
