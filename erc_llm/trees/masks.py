"""Attention masks of a forest, in the form that each attention kernel takes.

A row may attend to its ancestors and to itself. With the rows of a forest numbered depth first, the descendants of a
row have consecutive numbers, so two numbers per row express the whole mask.

Input: the two numbers of each row, and the position of each tree. Output: masks, each built at its first use and then
shared by all layers.
Does not depend on: text, the meaning of labels, models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from erc_llm.trees.tree import IntArray

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from erc_llm.trees.forest import TreeLayout

# A multiple of what torch's memory-efficient kernel wants of the distance between rows of a bias; it copies any other.
_ALIGNED = 16


def depth_first(parent: IntArray) -> tuple[IntArray, IntArray]:
    """Number the nodes of trees depth first.

    Args:
        parent: (nodes,) index of each node's parent, smaller than its own; -1 for a root.

    Returns:
        (nodes,) number of each node, and (nodes,) one past the largest number among its descendants and itself.
    """
    above: list[int] = parent.tolist()
    size = [1] * len(above)
    for node in range(len(above) - 1, -1, -1):
        if above[node] >= 0:
            size[above[node]] += size[node]
    enter, following, root = [0] * len(above), [0] * len(above), 0
    for node, over in enumerate(above):
        if over < 0:
            enter[node], root = root, root + size[node]
        else:
            enter[node], following[over] = following[over], following[over] + size[node]
        following[node] = enter[node] + 1
    first = np.array(enter, dtype=np.int64)
    return first, first + np.array(size, dtype=np.int64)


class ForestMasks:
    """The masks of one forest.

    Args:
        enter: (rows,) depth-first number of each row.
        leave: (rows,) one past the largest number among its descendants and itself.
        layouts: Position of each tree in the row.
    """

    def __init__(self, enter: torch.Tensor, leave: torch.Tensor, layouts: Sequence[TreeLayout]) -> None:
        self._enter = enter
        self._leave = leave
        self._layouts = layouts
        self._biases: dict[torch.dtype, tuple[torch.Tensor | None, ...]] = {}

    @cached_property
    def branches(self) -> tuple[torch.Tensor | None, ...]:
        """One per tree: (1, 1, branch rows, rows of the tree) True where a row may attend; None without branches."""
        return tuple(self._branches_of(layout) for layout in self._layouts)

    def _branches_of(self, layout: TreeLayout) -> torch.Tensor | None:
        first = layout.start + layout.trunk
        if first == layout.stop:
            return None
        # numpy on a CPU: torch would share this little work among threads, and wait for the slowest.
        on_cpu = self._enter.device.type == "cpu"
        enter, leave = (numbers.numpy() if on_cpu else numbers for numbers in (self._enter, self._leave))
        row, columns = enter[first : layout.stop, None], slice(layout.start, layout.stop)
        return torch.as_tensor((enter[None, columns] <= row) & (row < leave[None, columns]))[None, None]

    def biases(self, dtype: torch.dtype) -> tuple[torch.Tensor | None, ...]:
        """`branches` as numbers to add to the scores: 0 where attention is allowed, else minus infinity.

        torch's kernels for GPUs add a bias in the dtype of the query, with aligned rows; from a boolean mask they make
        one in every call.
        """
        if dtype not in self._biases:
            self._biases[dtype] = tuple(None if mask is None else _bias(mask, dtype) for mask in self.branches)
        return self._biases[dtype]

    @cached_property
    def blocks(self) -> BlockMask:
        """The mask of the whole forest for `flex_attention`, which skips blocks of rows without any attention.

        While it is made there are some (rows, rows) booleans for a moment; what is kept is a few numbers a block.
        """
        from torch.nn.attention.flex_attention import create_block_mask

        enter, leave, rows = self._enter, self._leave, len(self._enter)

        def allowed(_: torch.Tensor, __: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
            return (enter[column] <= enter[row]) & (enter[row] < leave[column])

        return create_block_mask(allowed, None, None, rows, rows, device=enter.device)


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(1, 1, branch rows, rows of the tree) view of a tensor whose rows are padded to an aligned length."""
    rows, columns = mask.shape[2:]
    padded = torch.zeros((1, 1, rows, -(-columns // _ALIGNED) * _ALIGNED), dtype=dtype, device=mask.device)
    bias = padded[..., :columns]
    bias.masked_fill_(~mask, -torch.inf)
    return bias
