"""The token tree of a scene: a shared trunk with one branch per question, stored as `token_ids` and `parent`.

Everything else follows from these two: a node's position is its depth, a node attends to its ancestors and itself, and
the prompt it sees is its root path. The nodes of the trunk (the prefix shared by all questions) come first, then one
block per question (the query branch about one utterance).

Input: pieces of token ids. Output: a `TokenTree`.
Does not depend on: text, tokenizers, models, labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive nodes that come from one piece of text: its kind and node range, for display."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Question:
    """The query branch about one target, answers included.

    Attributes:
        target: Position of the utterance in its dialogue.
        start: First node of the branch.
        stop: One past the last node of the branch, answers included.
        last: The node after which an answer begins.
        labels: Label index of each answer.
        answers: The nodes of each answer, first to last; answers with a common beginning share nodes.
        weight: Weight of this target in a training loss.
        gold: Label index of the right answer; None if it is unknown or not needed.
        task: What is asked; `label` for the target's label, else the name of an auxiliary task.
    """

    target: int
    start: int
    stop: int
    last: int
    labels: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    weight: float = 1.0
    gold: int | None = None
    task: str = "label"


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A scene (or one window of it) as a tree of tokens.

    Attributes:
        token_ids: (nodes,) vocabulary ids.
        parent: (nodes,) index of each node's parent, always smaller than its own; -1 for the root.
        trunk: Number of leading nodes that form the trunk, a single chain.
        questions: One per target, in order; in training each may be followed by auxiliary ones.
        spans: The pieces of text that the nodes come from, for display.
    """

    token_ids: IntArray
    parent: IntArray
    trunk: int
    questions: tuple[Question, ...]
    spans: tuple[Span, ...] = ()

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def depth(self) -> IntArray:
        """(nodes,) distance from the root: each node's position id."""
        depth = np.zeros(len(self), dtype=np.int64)
        depth[: self.trunk] = np.arange(self.trunk)
        for node in range(self.trunk, len(self)):
            above = self.parent[node]
            depth[node] = depth[above] + 1 if above >= 0 else 0
        return depth

    def root_path(self, node: int) -> IntArray:
        """Nodes from the root to `node`, both included: the prompt this node sees."""
        path = []
        while node >= 0:
            path.append(node)
            node = int(self.parent[node])
        return np.array(path[::-1], dtype=np.int64)

    def prompt_of(self, question: Question) -> tuple[Span, ...]:
        """The pieces that a question's prompt consists of, in order; its answers are left out."""
        above = int(self.parent[question.start]) + 1
        trunk = [span for span in self.spans if span.stop <= min(self.trunk, above)]
        branch = [s for s in self.spans if question.start <= s.start < question.stop and s.kind != "answer"]
        return (*trunk, *branch)

    @cached_property
    def ancestors(self) -> BoolArray:
        """(nodes, nodes) whether row may attend to column: column is an ancestor of row, or row itself.

        This is the readable reference; forward passes use only its branch rows, see `erc_llm.trees.forest`.
        """
        seen = np.zeros((len(self), len(self)), dtype=np.bool_)
        for node in range(len(self)):
            above = self.parent[node]
            if above >= 0:
                seen[node] = seen[above]
            seen[node, node] = True
        return seen


class TreeBuilder:
    """Grows a `TokenTree`: first the trunk, piece by piece, then the questions."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._parent: list[int] = []
        self._trunk: int | None = None
        self._spans: list[Span] = []
        self._questions: list[Question] = []

    def _chain(self, kind: str, ids: Sequence[int], parent: int) -> int:
        start = len(self._ids)
        for token in ids:
            self._parent.append(parent)
            parent = len(self._ids)
            self._ids.append(int(token))
        if ids:
            self._spans.append(Span(kind, start, len(self._ids)))
        return parent

    def add_trunk(self, kind: str, ids: Sequence[int]) -> int:
        """Extend the trunk; returns its last node, to which a question can be attached."""
        assert self._trunk is None, "the trunk is complete once a question is attached"
        return self._chain(kind, ids, len(self._ids) - 1)

    def add_question(
        self,
        target: int,
        after: int,
        pieces: Iterable[tuple[str, Sequence[int]]],
        answers: Iterable[tuple[int, Sequence[int]]],
        weight: float = 1.0,
        gold: int | None = None,
        task: str = "label",
    ) -> None:
        """Attach a question after node `after`, with its answers as (label index, token ids)."""
        if self._trunk is None:
            self._trunk = len(self._ids)
        start, last = len(self._ids), after
        for kind, ids in pieces:
            last = self._chain(kind, ids, last)
        child: dict[tuple[int, int], int] = {}
        labels, paths = [], []
        for label, ids in answers:
            labels.append(label)
            paths.append(self._add_answer(last, ids, child))
        stop = len(self._ids)
        self._questions.append(Question(target, start, stop, last, tuple(labels), tuple(paths), weight, gold, task))

    def add_trunk_words(self, target: int, last: int, length: int, weight: float) -> None:
        """Make nodes of the trunk, the `length` ones up to `last`, an answer to be trained; adds no node."""
        nodes = tuple(range(last - length + 1, last + 1))
        here = len(self._ids)
        self._questions.append(Question(target, here, here, nodes[0] - 1, (0,), (nodes,), weight, 0, "words"))

    def _add_answer(self, last: int, ids: Sequence[int], child: dict[tuple[int, int], int]) -> tuple[int, ...]:
        path, above = [], last
        for token in ids:
            node = child.get((above, token))
            if node is None:
                node = len(self._ids)
                child[(above, token)] = node
                self._chain("answer", [token], above)
            path.append(node)
            above = node
        return tuple(path)

    def build(self) -> TokenTree:
        """The finished tree."""
        trunk = len(self._ids) if self._trunk is None else self._trunk
        ids, parent = np.array(self._ids, dtype=np.int64), np.array(self._parent, dtype=np.int64)
        return TokenTree(ids, parent, trunk, tuple(self._questions), tuple(self._spans))
