"""Packing: several token trees in one row without padding.

Input: token trees. Output: a `Forest` of tensors, with the rows and edges from which the likelihoods of answers are
computed.
Does not depend on: text, the meaning of labels, models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from erc_llm.trees.masks import ForestMasks, depth_first
from erc_llm.trees.tree import IntArray, TokenTree


@dataclass(frozen=True, eq=False)
class TreeLayout:
    """Position of one tree in the packed row.

    Attributes:
        start: First row of the tree.
        trunk: Number of its trunk rows.
        stop: One past its last row.
    """

    start: int
    trunk: int
    stop: int


@dataclass(frozen=True, eq=False)
class Forest:
    """Packed trees, ready for a forward pass.

    The nodes of the trees are the rows, except the last token of each answer, which is predicted and never read.

    Attributes:
        input_ids: (1, rows), token ids.
        position_ids: (1, rows), each node's depth in its tree.
        enter: (rows,) int32, depth-first number of each row over all trees.
        leave: (rows,) int32, one past the largest number among a row's descendants and itself.
        layouts: One per tree.
        logit_rows: (logit rows,) the rows whose logits predict an answer token.
        edge_row: (edges,) index into `logit_rows` of each answer token's parent.
        edge_token: (edges,) the answer token's id.
        pair_edge: (pairs,) edges, answer by answer; answers that begin alike share edges.
        pair_answer: (pairs,) index of the answer of each pair; answers are counted over trees, questions and labels.
        answers: Number of answers.
        weights: (answers,) weight of each answer's question.
        question: (answers,) index of the question of each answer, counted over trees.
        label: (answers,) label index of each answer, as its question counts them.
        about_label: (questions,) whether the question is about its target's label; else it is an auxiliary one.
        gold: (questions,) index of the right answer; -1 if a question has none or it is unknown.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    enter: torch.Tensor
    leave: torch.Tensor
    layouts: tuple[TreeLayout, ...]
    logit_rows: torch.Tensor
    edge_row: torch.Tensor
    edge_token: torch.Tensor
    pair_edge: torch.Tensor
    pair_answer: torch.Tensor
    answers: int
    weights: torch.Tensor
    question: torch.Tensor
    label: torch.Tensor
    about_label: torch.Tensor
    gold: torch.Tensor

    @property
    def rows(self) -> int:
        """Number of tokens the model reads."""
        return self.input_ids.shape[1]

    @cached_property
    def asked_rows(self) -> torch.Tensor:
        """(questions,) index into `logit_rows` of each question's last token, which predicts its answers' first."""
        first_pair = torch.searchsorted(self.pair_answer, torch.arange(self.answers, device=self.pair_answer.device))
        questions = torch.arange(len(self.gold), device=self.question.device)
        first_answer = torch.searchsorted(self.question, questions)
        return self.edge_row[self.pair_edge[first_pair[first_answer]]]

    @cached_property
    def masks(self) -> ForestMasks:
        """What its rows may attend to; built once, on the device of the forest."""
        return ForestMasks(self.enter, self.leave, self.layouts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Forest:
        """The same forest with its tensors on `device`; the masks are built there.

        Args:
            device: The device.
            non_blocking: Do not wait for the copy of a pinned forest to a GPU.
        """
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Forest:
        """The same forest in memory from which a GPU copies by itself; dataloaders call this by its name."""
        return self._mapped(torch.Tensor.pin_memory)

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Forest:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(v) for name, v in values.items() if isinstance(v, torch.Tensor)}
        return replace(self, **changed)


def read_nodes(tree: TokenTree) -> IntArray:
    """Nodes that a forward pass reads: all but the last token of each answer (unless another answer continues it)."""
    has_child = np.zeros(len(tree), dtype=np.bool_)
    has_child[tree.parent[tree.parent >= 0]] = True
    unread = [path[-1] for q in tree.questions for path in q.answers if not has_child[path[-1]]]
    keep = np.ones(len(tree), dtype=np.bool_)
    keep[unread] = False
    return np.flatnonzero(keep)


def rows_of(tree: TokenTree) -> int:
    """Number of rows of the tree in a forest."""
    return len(read_nodes(tree))


@dataclass(frozen=True, slots=True)
class TreeRows:
    """Number of rows of a tree in a forest, by part.

    Attributes:
        trunk: Rows of its trunk.
        questions: Target to the rows of its questions, answers included.
    """

    trunk: int
    questions: Mapping[int, int]

    def asking(self, targets: Collection[int]) -> int:
        """Number of rows if only these targets are queried; 0 if the tree contains none of them."""
        asked = [rows for target, rows in self.questions.items() if target in targets]
        return self.trunk + sum(asked) if asked else 0


def rows_by_part(tree: TokenTree) -> TreeRows:
    """The rows that `rows_of` counts, split into trunk and questions."""
    nodes = read_nodes(tree)

    def between(start: int, stop: int) -> int:
        return int(np.searchsorted(nodes, stop) - np.searchsorted(nodes, start))

    questions: dict[int, int] = {}
    for question in tree.questions:
        questions[question.target] = questions.get(question.target, 0) + between(question.start, question.stop)
    return TreeRows(between(0, tree.trunk), questions)


class _Edges:
    """Collects answer tokens with the rows that predict them, over all trees."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.tokens: list[int] = []
        self.pair_edge: list[int] = []
        self.pair_answer: list[int] = []
        self.weights: list[float] = []
        self.question: list[int] = []
        self.label: list[int] = []
        self.about_label: list[bool] = []
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
            self.label += question.labels
            self.about_label.append(question.task == "label")
            gold = question.gold
            known = gold is not None and gold in question.labels
            self.gold.append(first + question.labels.index(gold) if known else -1)


def pack(trees: Sequence[TokenTree]) -> Forest:
    """Pack trees side by side into one row."""
    ids, positions, above, layouts, edges, start = [], [], [], [], _Edges(), 0
    for tree in trees:
        nodes = read_nodes(tree)
        row = np.full(len(tree), -1, dtype=np.int64)
        row[nodes] = start + np.arange(len(nodes))
        ids.append(tree.token_ids[nodes])
        positions.append(tree.depth[nodes])
        parent = tree.parent[nodes]
        above.append(np.where(parent >= 0, row[parent], -1))
        layouts.append(TreeLayout(start, tree.trunk, start + len(nodes)))
        edges.add(tree, row)
        start += len(nodes)
    enter, leave = depth_first(np.concatenate(above))
    logit_rows, edge_row = np.unique(np.array(edges.parents, dtype=np.int64), return_inverse=True)
    return Forest(
        input_ids=torch.from_numpy(np.concatenate(ids))[None],
        position_ids=torch.from_numpy(np.concatenate(positions))[None],
        enter=torch.from_numpy(enter.astype(np.int32)),
        leave=torch.from_numpy(leave.astype(np.int32)),
        layouts=tuple(layouts),
        logit_rows=torch.from_numpy(logit_rows),
        edge_row=torch.from_numpy(edge_row.astype(np.int64)),
        edge_token=torch.tensor(edges.tokens, dtype=torch.int64),
        pair_edge=torch.tensor(edges.pair_edge, dtype=torch.int64),
        pair_answer=torch.tensor(edges.pair_answer, dtype=torch.int64),
        answers=len(edges.weights),
        weights=torch.tensor(edges.weights, dtype=torch.float32),
        question=torch.tensor(edges.question, dtype=torch.int64),
        label=torch.tensor(edges.label, dtype=torch.int64),
        about_label=torch.tensor(edges.about_label, dtype=torch.bool),
        gold=torch.tensor(edges.gold, dtype=torch.int64),
    )
