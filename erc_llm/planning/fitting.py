"""Fitting: whether a plan fits a GPU, the largest token budgets that do, and the nearest settings that do.

Input: a `Setup`, scene sizes, bytes of memory. Output: a `Fit`.
Does not depend on: cards, configuration files, how a plan is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from erc_llm.planning.memory import Load, our_stack
from erc_llm.planning.plan import Peaks, Scenes, Setup, peaks_of, usable_bytes
from erc_llm.tuning.order import forests_of_process

_MOST_TOKENS = 2**20
_LEAST_FORESTS = 256  # tokens; smaller forests of scoring save next to nothing


@dataclass(frozen=True, slots=True)
class Change:
    """A field that a nearest setting changes: its name and its new value, as on the command line."""

    field: str
    value: str

    def __str__(self) -> str:
        return f"{self.field}={self.value}"


@dataclass(frozen=True, slots=True)
class Fit:
    """How a plan relates to an amount of memory.

    Attributes:
        memory: Bytes of the GPU.
        usable: Bytes of it that a plan may use: all but the margin.
        fits: Whether every peak is within that.
        training_tokens: Most tokens in a forest of training that fit; 0 if none do.
        scoring_tokens: The same in scoring.
        changes: Settings with which it fits, if it does not as it is; empty if none were found.
        changed: The peaks with these changes.
    """

    memory: int
    usable: int
    fits: bool
    training_tokens: int
    scoring_tokens: int
    changes: tuple[Change, ...] = ()
    changed: Peaks | None = None


def fit_of(setup: Setup, peaks: Peaks, scenes: Scenes, memory: int) -> Fit:
    """Compare the peaks of a setup with the memory of a GPU, in bytes."""
    usable = usable_bytes(memory)
    fits = peaks.largest <= usable
    changes, changed = ((), None) if fits else _nearest(setup, scenes, usable)

    def training(load: Load) -> int:
        return setup.training_peak(load).total

    def scoring(load: Load) -> int:
        return setup.scoring_peak(load, training=setup.selection).total

    return Fit(
        memory=memory,
        usable=usable,
        fits=fits,
        training_tokens=largest_tokens(training, peaks.forests.training, usable),
        scoring_tokens=largest_tokens(scoring, peaks.forests.scoring, usable),
        changes=changes,
        changed=changed,
    )


def largest_tokens(peak: Callable[[Load], int], like: Load, usable: int) -> int:
    """The most tokens of a forest as dense in logits and masks as `like` whose peak is within `usable` bytes."""
    low, high = 0, _MOST_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        if peak(like.scaled(middle)) <= usable:
            low = middle
        else:
            high = middle - 1
    return low


def _nearest(setup: Setup, scenes: Scenes, usable: int) -> tuple[tuple[Change, ...], Peaks | None]:
    """The first of the candidate settings that fits, with its changes."""
    for candidate in dict.fromkeys(_candidates(setup, len(scenes.training))):
        peaks = peaks_of(candidate, scenes)
        if peaks.largest <= usable:
            return _changes(setup, candidate), peaks
    return (), None


def _candidates(setup: Setup, scenes: int) -> Iterator[Setup]:
    """Other settings, those first that change the least: neither results nor speed, then speed, then the weights."""
    bases = [setup]
    if not setup.stack.quantised:
        bases.append(replace(setup, stack=our_stack(quantised=True, compute=min(setup.stack.compute, 2))))
    for base in bases:
        for checkpointing in sorted({base.checkpointing, True}):
            for halvings in range(6):
                parts = forests_of_process(base.accumulation * 2**halvings, base.processes, scenes)
                forest = max(base.tokens_per_forest // 2**halvings, min(base.tokens_per_forest, _LEAST_FORESTS))
                changed = replace(base, checkpointing=checkpointing)
                yield replace(changed, tokens_per_forest=forest)
                yield replace(changed, accumulation=parts)
                yield replace(changed, accumulation=parts, tokens_per_forest=forest)


def _changes(before: Setup, after: Setup) -> tuple[Change, ...]:
    changes = []
    if after.stack != before.stack:
        changes.append(Change("model.quantisation", "nf4"))
        if before.stack.compute != after.stack.compute:
            changes.append(Change("model.precision", "auto"))
    if after.checkpointing != before.checkpointing:
        changes.append(Change("training.gradient_checkpointing", "true"))
    if after.accumulation != before.accumulation:
        changes.append(Change("training.accumulation", str(after.accumulation)))
    if after.tokens_per_forest != before.tokens_per_forest:
        changes.append(Change("scoring.tokens_per_forest", str(after.tokens_per_forest)))
    return tuple(changes)
