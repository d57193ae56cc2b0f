"""Packing: several token trees in one row without padding.

Input: token trees. Output: a `Forest` of tensors, with the rows and edges from which answers' likelihoods are read.
Does not depend on: text, labels' meaning, models. `erc_llm.trees.attention` reads a forest with a model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from erc_llm.trees.tree import IntArray, TokenTree


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
