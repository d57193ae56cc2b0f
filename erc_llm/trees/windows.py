"""Windowing: cuts a scene that is too long for one tree into overlapping windows.

Input: the number of tokens of each line, a budget, and a limit on the number of lines. Output: windows; each line is
queried in exactly one.
Does not depend on: text, tokenizers, models.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Window:
    """Lines `start` to `stop` of a scene as one trunk; the lines from `first_target` on are queried in it."""

    start: int
    stop: int
    first_target: int


@dataclass(frozen=True, slots=True)
class LineCost:
    """Tokens that a line adds to a trunk.

    Attributes:
        length: Tokens of the line.
        introduced: Speaker to the tokens of the profile that stands before the line, once in each window.
    """

    length: int
    introduced: Mapping[str, int] = field(default_factory=dict)

    def within(self, present: Collection[str]) -> int:
        """Tokens that the line adds to a window in which the speakers `present` are introduced already."""
        return self.length + sum(tokens for who, tokens in self.introduced.items() if who not in present)


class WindowCutter:
    """Cuts a scene that exceeds the token budget into overlapping windows, one line at a time.

    When a line no longer fits, a new window opens with that line and as many lines before it as fit half the budget.
    A limit on the number of lines works in the same way. The rule uses no later line, so the window of a target never
    depends on what follows it, and a live session cuts exactly as batch scoring does.

    Args:
        budget: Most tokens of a window.
        most: Most lines of a window; None for no limit.
    """

    def __init__(self, budget: int, most: int | None = None) -> None:
        self.budget = budget
        self._most = most
        self.start = 0
        self._costs: list[LineCost] = []
        self._present: set[str] = set()
        self._used = 0

    def add(self, cost: LineCost) -> bool:
        """Add the next line; returns whether it opened a new window."""
        self._costs.append(cost)
        room = self._most is None or len(self._costs) - self.start <= self._most
        if room and self._take(cost, self.budget, forced=len(self._costs) == 1):
            return False
        last = len(self._costs) - 1
        self.start, self._used, self._present = last, 0, set()
        self._take(cost, self.budget, forced=True)
        earliest = 0 if self._most is None else max(0, last + 1 - max(self._most // 2, 1))
        while self.start > earliest and self._take(self._costs[self.start - 1], self.budget // 2):
            self.start -= 1
        return True

    def _take(self, cost: LineCost, budget: int, forced: bool = False) -> bool:
        """Add a line's tokens to the window if it fits; returns whether it did."""
        used = self._used + cost.within(self._present)
        if used > budget and not forced:
            return False
        self._used = used
        self._present |= cost.introduced.keys()
        return True


def cut_windows(costs: Sequence[LineCost], budget: int, most: int | None = None) -> tuple[Window, ...]:
    """The windows of a scene whose lines add `costs`; every line is queried in exactly one."""
    cutter, windows, start, first = WindowCutter(budget, most), [], 0, 0
    for line, cost in enumerate(costs):
        if cutter.add(cost):
            windows.append(Window(start, line, first))
            start, first = cutter.start, line
    windows.append(Window(start, len(costs), first))
    return tuple(windows)
