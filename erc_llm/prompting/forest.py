"""Several token trees in one row without padding, and the attention that keeps them apart.

In: token trees. Out: a `Forest` of tensors, and the logits of a model's forward over it. The projections
of the model run packed over the whole row; attention runs tree by tree (a causal trunk; branches attend to their trunk
prefix and to their own ancestors), never over the square of the row. Knows nothing of text and labels' meaning.

The attention is registered with transformers as `erc_tree`. Called without a forest it is transformers' own `sdpa`, so
the same loaded model also serves plain batches, caches and `generate`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from erc_llm.errors import InternalError, ModelError
from erc_llm.prompting.tree import IntArray, TokenTree

ATTENTION = "erc_tree"


@dataclass(frozen=True, eq=False)
class TreeLayout:
    """Where one tree lies in the packed row, and which columns its branch rows may attend to.

    Attributes:
        start: First row of the tree.
        trunk: Number of its trunk rows.
        stop: One past its last row.
        mask: (1, 1, branch rows, rows of this tree) True where attention is allowed; None without branches.
    """

    start: int
    trunk: int
    stop: int
    mask: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Forest:
    """Packed trees, ready for a forward.

    A tree's nodes are rows here, except the last token of each answer: it is predicted, never read.

    Attributes:
        input_ids: (1, rows).
        position_ids: (1, rows), each node's depth in its tree.
        layouts: One per tree.
        logit_rows: (logit rows,) the rows whose logits predict an answer token.
        edge_row: (edges,) index into `logit_rows` of each answer token's parent.
        edge_token: (edges,) the answer token's id.
        pair_edge: (pairs,) edges, answer by answer; answers that begin alike share edges.
        pair_answer: (pairs,) which answer each pair belongs to; answers counted over trees, questions, labels.
        answers: Number of answers.
        weights: (answers,) weight of each answer's question.
        question: (answers,) which question each answer belongs to, counted over trees.
        gold: (questions,) which answer is the right one; -1 where a question has none or it is not known.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    layouts: tuple[TreeLayout, ...]
    logit_rows: torch.Tensor
    edge_row: torch.Tensor
    edge_token: torch.Tensor
    pair_edge: torch.Tensor
    pair_answer: torch.Tensor
    answers: int
    weights: torch.Tensor
    question: torch.Tensor
    gold: torch.Tensor

    @property
    def rows(self) -> int:
        """Number of tokens the model reads."""
        return self.input_ids.shape[1]

    def to(self, device: torch.device | str) -> Forest:
        """The same forest with its tensors on `device`."""
        layouts = tuple(
            TreeLayout(t.start, t.trunk, t.stop, None if t.mask is None else t.mask.to(device)) for t in self.layouts
        )
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return Forest(**(vars(self) | moved | {"layouts": layouts}))


def read_nodes(tree: TokenTree) -> IntArray:
    """The nodes a forward must read: all but the last token of each answer (unless another answer goes on there)."""
    has_child = np.zeros(len(tree), dtype=np.bool_)
    has_child[tree.parent[tree.parent >= 0]] = True
    unread = [path[-1] for q in tree.questions for path in q.answers if not has_child[path[-1]]]
    keep = np.ones(len(tree), dtype=np.bool_)
    keep[unread] = False
    return np.flatnonzero(keep)


def rows_of(tree: TokenTree) -> int:
    """How many rows the tree takes in a forest."""
    return len(read_nodes(tree))


@dataclass(frozen=True, slots=True)
class TreeRows:
    """How many rows of a forest a tree takes, by part.

    Attributes:
        trunk: Rows of its trunk.
        questions: Target to the rows of its question, answers included.
    """

    trunk: int
    questions: Mapping[int, int]

    def asking(self, targets: Collection[int]) -> int:
        """Rows it takes with the questions about these targets only; 0 where none of them is its own."""
        asked = [rows for target, rows in self.questions.items() if target in targets]
        return self.trunk + sum(asked) if asked else 0


def rows_by_part(tree: TokenTree) -> TreeRows:
    """The same rows as `rows_of`, by trunk and questions."""
    nodes = read_nodes(tree)

    def between(start: int, stop: int) -> int:
        return int(np.searchsorted(nodes, stop) - np.searchsorted(nodes, start))

    return TreeRows(between(0, tree.trunk), {q.target: between(q.start, q.stop) for q in tree.questions})


class _Edges:
    """Collects answer tokens with the rows that predict them, over all trees."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.tokens: list[int] = []
        self.pair_edge: list[int] = []
        self.pair_answer: list[int] = []
        self.weights: list[float] = []
        self.question: list[int] = []
        self.gold: list[int] = []

    def add(self, tree: TokenTree, row: IntArray) -> None:
        for question in tree.questions:
            edge_of: dict[int, int] = {}
            first = len(self.weights)
            for path in question.answers:
                for node in path:
                    if node not in edge_of:
                        edge_of[node] = len(self.parents)
                        self.parents.append(int(row[tree.parent[node]]))
                        self.tokens.append(int(tree.token_ids[node]))
                    self.pair_edge.append(edge_of[node])
                    self.pair_answer.append(len(self.weights))
                self.weights.append(question.weight)
                self.question.append(len(self.gold))
            gold = question.gold
            known = gold is not None and gold in question.labels
            self.gold.append(first + question.labels.index(gold) if known else -1)


def pack(trees: Sequence[TokenTree]) -> Forest:
    """Lay trees side by side in one row."""
    ids, positions, layouts, edges, start = [], [], [], _Edges(), 0
    for tree in trees:
        nodes = read_nodes(tree)
        row = np.full(len(tree), -1, dtype=np.int64)
        row[nodes] = start + np.arange(len(nodes))
        ids.append(tree.token_ids[nodes])
        positions.append(tree.depth[nodes])
        mask = None
        if len(nodes) > tree.trunk:
            mask = torch.from_numpy(_branch_mask(tree, nodes))[None, None]
        layouts.append(TreeLayout(start, tree.trunk, start + len(nodes), mask))
        edges.add(tree, row)
        start += len(nodes)
    logit_rows, edge_row = np.unique(np.array(edges.parents, dtype=np.int64), return_inverse=True)
    return Forest(
        input_ids=torch.from_numpy(np.concatenate(ids))[None],
        position_ids=torch.from_numpy(np.concatenate(positions))[None],
        layouts=tuple(layouts),
        logit_rows=torch.from_numpy(logit_rows),
        edge_row=torch.from_numpy(edge_row.astype(np.int64)),
        edge_token=torch.tensor(edges.tokens, dtype=torch.int64),
        pair_edge=torch.tensor(edges.pair_edge, dtype=torch.int64),
        pair_answer=torch.tensor(edges.pair_answer, dtype=torch.int64),
        answers=len(edges.weights),
        weights=torch.tensor(edges.weights, dtype=torch.float32),
        question=torch.tensor(edges.question, dtype=torch.int64),
        gold=torch.tensor(edges.gold, dtype=torch.int64),
    )


def _branch_mask(tree: TokenTree, nodes: IntArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(branch rows, rows): what each branch row may attend to, without building the trunk's square."""
    row = np.full(len(tree), -1, dtype=np.int64)
    row[nodes] = np.arange(len(nodes))
    branch = nodes[tree.trunk :]
    mask = np.zeros((len(branch), len(nodes)), dtype=np.bool_)
    for i, node in enumerate(branch):
        above = int(tree.parent[node])
        if above < tree.trunk:
            mask[i, : above + 1] = True
        else:
            mask[i] = mask[row[above] - tree.trunk]
        mask[i, tree.trunk + i] = True
    return mask


def forest_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    forest: Forest | None = None,
    tree: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a forest, tree by tree; without a forest, transformers' `sdpa`.

    `tree` says that the mask of a call without a forest is a tree's, as in scoring on a KV cache.

    Shapes: `query` (1, heads, rows, width), `key` and `value` (1, key heads, rows, width).

    Raises:
        ModelError: The model asks for something a tree cannot express (a sliding window, capped scores, sinks).
    """
    for name in ("sliding_window", "softcap", "s_aux"):
        if (forest is not None or tree) and kwargs.get(name) is not None:
            raise ModelError(f"the model's attention uses '{name}', which a token tree cannot express; use another")
    if forest is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if query.shape[2] != forest.rows:
        raise InternalError(f"attention got {query.shape[2]} rows for a forest of {forest.rows}")
    # split, not slices: the backward of a slice writes zeros over the whole row, that of split is one concatenation.
    branch_sizes = [size for t in forest.layouts for size in (t.trunk, t.stop - t.start - t.trunk)]
    tree_sizes = [t.stop - t.start for t in forest.layouts]
    queries = query.split(branch_sizes, dim=2)
    keys, values = key.split(tree_sizes, dim=2), value.split(tree_sizes, dim=2)
    if _fused_is_slow(query) and not dropout:
        attend = partial(_textbook_attention, scaling)
    else:
        attend = partial(_fused_attention, scaling, dropout)
    parts = []
    for i, layout in enumerate(forest.layouts):
        trunk, branches = queries[2 * i], queries[2 * i + 1]
        parts.append(attend(trunk, keys[i][:, :, : layout.trunk], values[i][:, :, : layout.trunk], None))
        if layout.mask is not None:
            parts.append(attend(branches, keys[i], values[i], layout.mask))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _fused_is_slow(query: torch.Tensor) -> bool:
    """torch's fused kernel takes three times as long backwards on a CPU in bf16; everywhere else it is the fastest."""
    return query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu"


def _fused_attention(
    scaling: float | None,
    dropout: float,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """One tree's trunk (no mask: causal) or branches; shapes as in `forest_attention`."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling
    )


_BLOCK = 256  # query rows whose weights are in the cache together; a causal block needs only the keys up to its end


def _textbook_attention(
    scaling: float | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """The same as `_fused_attention` without dropout, by its formula."""
    kv_heads, (heads, rows, width) = key.shape[1], query.shape[1:]
    query = query * (width**-0.5 if scaling is None else scaling)
    parts = []
    for start in range(0, rows, _BLOCK):
        stop = min(start + _BLOCK, rows)
        columns = stop if mask is None else key.shape[2]
        if mask is None:
            allowed = torch.ones(stop - start, columns, dtype=torch.bool).tril(start)
        else:
            allowed = mask[0, 0, start:stop]
        bias = torch.zeros(allowed.shape, dtype=query.dtype).masked_fill_(~allowed, -torch.inf)
        block = query[0, :, start:stop].reshape(kv_heads, -1, width)  # the heads that share keys, one after the other
        scores = torch.bmm(block, key[0, :, :columns].mT).view(kv_heads, -1, stop - start, columns) + bias
        weights = scores.softmax(dim=-1).view(kv_heads, -1, columns)
        parts.append(torch.bmm(weights, value[0, :, :columns]).view(1, heads, stop - start, width))
    return torch.cat(parts, dim=2)


AttentionInterface.register(ATTENTION, forest_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def require_tree_attention(model: torch.nn.Module) -> None:
    """Refuse a model whose attention is not ours: others would silently ignore or misread the forest.

    Raises:
        ModelError: The model was loaded with another attention implementation.
    """
    bare = getattr(model, "module", model)  # inside the wrapper of distributed training
    found = getattr(getattr(bare, "config", None), "_attn_implementation", None)
    if found != ATTENTION:
        raise ModelError(
            f"the model runs attention '{found}', which would be silently wrong on a token tree; "
            f"load it with attention='{ATTENTION}'"
        )


# A 4-d mask is returned as it is by transformers' mask building; ours carries nothing, since the layout rides along as
# `forest`. Without it, restarting position ids would be taken for packed documents.
_NO_MASK = torch.zeros(1, 1, 1, 1, dtype=torch.bool)


def forest_logits(model: torch.nn.Module, forest: Forest) -> torch.Tensor:
    """(logit rows, vocabulary) logits, in the model's precision, at the rows that predict an answer token."""
    require_tree_attention(model)
    output = model(
        input_ids=forest.input_ids,
        position_ids=forest.position_ids,
        attention_mask=_NO_MASK.to(forest.input_ids.device),
        logits_to_keep=forest.logit_rows,
        use_cache=False,
        forest=forest,
    )
    logits: torch.Tensor = output.logits.squeeze(0)  # not `[0]`: its gradient would be copied into zeros
    return logits
