"""The token tree of a scene, and the rule that cuts a scene too long for one.

A `TokenTree` is `token_ids` and `parent`; everything else follows from them: a node's position is its depth, a node
attends to its ancestors and itself, and the prompt it sees is its root path. Nodes are ordered trunk first, then one
block per question. This module knows token ids only: nothing of text, tokenizers, models or emotions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Span:
    """A run of consecutive nodes that came from one piece of text, for display: its kind and node range."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Question:
    """The branch that asks about one target.

    Attributes:
        target: Position of the utterance in its dialogue.
        start: First node of the branch.
        stop: One past the last node of the branch, answers included.
        last: The node after which an answer begins.
        labels: Label index of each answer.
        answers: The nodes of each answer, first to last; answers that begin alike share nodes.
        weight: Weight of this target in a training loss.
        gold: Label index of the answer that is right; None where that is not known or not needed.
    """

    target: int
    start: int
    stop: int
    last: int
    labels: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    weight: float = 1.0
    gold: int | None = None


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A scene (or one window of it) as a tree of tokens.

    Attributes:
        token_ids: (nodes,) vocabulary ids.
        parent: (nodes,) index of each node's parent, always smaller than its own; -1 for the root.
        trunk: How many leading nodes form the trunk, a single chain.
        questions: One per target, in order.
        spans: What the nodes came from, for display.
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

    @cached_property
    def ancestors(self) -> BoolArray:
        """(nodes, nodes) whether row may attend to column: column is an ancestor of row, or row itself.

        The readable reference. Real forwards use only its branch rows, see `erc_llm.prompting.forest`.
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
        """Extend the trunk; returns its last node, where a question may hang."""
        assert self._trunk is None, "the trunk is finished once a question hangs on it"
        return self._chain(kind, ids, len(self._ids) - 1)

    def add_question(
        self,
        target: int,
        after: int,
        pieces: Iterable[tuple[str, Sequence[int]]],
        answers: Iterable[tuple[int, Sequence[int]]],
        weight: float = 1.0,
        gold: int | None = None,
    ) -> None:
        """Hang a question after node `after`, with its answers as (label index, token ids)."""
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
        self._questions.append(Question(target, start, stop, last, tuple(labels), tuple(paths), weight, gold))

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


@dataclass(frozen=True, slots=True)
class Window:
    """Lines `start` to `stop` of a scene as one trunk, of which those from `first_target` on are asked about."""

    start: int
    stop: int
    first_target: int


@dataclass(frozen=True, slots=True)
class LineCost:
    """What a line takes in a trunk.

    Attributes:
        length: Tokens of the line.
        introduced: Who is introduced before it, once in a window, and how many tokens that takes.
    """

    length: int
    introduced: Mapping[str, int] = field(default_factory=dict)

    def within(self, present: Collection[str]) -> int:
        """Tokens it takes in a window in which some are introduced already."""
        return self.length + sum(tokens for who, tokens in self.introduced.items() if who not in present)


class WindowCutter:
    """Cuts a scene that exceeds the token budget into overlapping windows, one line at a time.

    When a line no longer fits, a new window opens with that line and as many lines before it as fill half the
    budget. The rule looks at no later line, so a target's window never depends on what is said after it, and a live
    session cuts exactly as batch scoring does.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.start = 0
        self._costs: list[LineCost] = []
        self._present: set[str] = set()
        self._used = 0

    def add(self, cost: LineCost) -> bool:
        """Take the next line; returns whether it opened a new window."""
        self._costs.append(cost)
        if self._take(cost, self.budget, forced=len(self._costs) == 1):
            return False
        self.start, self._used, self._present = len(self._costs) - 1, 0, set()
        self._take(cost, self.budget, forced=True)
        while self.start > 0 and self._take(self._costs[self.start - 1], self.budget // 2):
            self.start -= 1
        return True

    def _take(self, cost: LineCost, budget: int, forced: bool = False) -> bool:
        """Count a line in, if it fits."""
        used = self._used + cost.within(self._present)
        if used > budget and not forced:
            return False
        self._used = used
        self._present |= cost.introduced.keys()
        return True


def cut_windows(costs: Sequence[LineCost], budget: int) -> tuple[Window, ...]:
    """The windows of a scene whose lines take `costs`; every line is asked about in exactly one."""
    cutter, windows, start, first = WindowCutter(budget), [], 0, 0
    for line, cost in enumerate(costs):
        if cutter.add(cost):
            windows.append(Window(start, line, first))
            start, first = cutter.start, line
    windows.append(Window(start, len(costs), first))
    return tuple(windows)
