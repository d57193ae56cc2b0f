"""Subgroups: divides the targets of a comparison by speaker, position in the scene, emotion shift and history.

Input: tables with their rows lined up. Output: for each factor the level of every target, and a sentence that defines
the levels by columns of the tables. A factor whose columns are missing is left out, with a sentence.
Does not depend on: metrics, files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from erc_llm.errors import InternalError
from erc_llm.evaluation.matching import Matched
from erc_llm.metrics import Integers

LEAD_SHARE = 0.05  # in EmoryNLP's dev splits all six leads are above 9 %, and nobody else above 1.5 %
LATER_LINES = (4, 9)  # cuts EmoryNLP's dev targets into three parts of about the same size
MOST_NAMES = 12  # more names make a long table of groups too small to compare
HISTORY = (100, 1000)  # lines; no line at all is `unseen` already


@dataclass(frozen=True)
class Factor:
    """One way to divide targets.

    Attributes:
        name: Name, such as `speaker`.
        definition: Definition of its levels, by columns of the table.
        levels: Names of the levels.
        level: (targets,) index of the level, -1 for none.
    """

    name: str
    definition: str
    levels: tuple[str, ...]
    level: Integers


def factors(matched: Matched) -> tuple[tuple[Factor, ...], tuple[str, ...]]:
    """The factors that the tables have columns for, and sentences about the others."""
    found, missing = [], []
    for make, what, columns in (
        (_by_speaker, "speaker", ("speakers", "first_seen")),
        (_by_position, "position in the scene", ("position",)),
        (_by_shift, "emotion shift", ("previous_gold_same_speaker",)),
        (_by_history, "history length", ("history_length",)),
    ):
        lacking = [name for name in columns if matched.with_column(name) is None]
        if lacking:
            missing.append(f"No column '{lacking[0]}': nothing is said by {what}.")
        else:
            found.append(make(matched))
    return tuple(found), tuple(missing)


def most_frequent_speakers(matched: Matched) -> Factor | None:
    """Each of the most frequent first speakers by name, and all others together; None without the column."""
    if matched.with_column("speakers") is None:
        return None
    names = [speakers[0] if speakers else "" for speakers in _column(matched, "speakers")]
    counts = Counter(name for name in names if name)
    chosen = {name: i for i, (name, _) in enumerate(counts.most_common(MOST_NAMES))}
    others = f"all {len(counts) - len(chosen):,} others"
    level = np.array([chosen.get(name, len(chosen)) for name in names], dtype=np.int64)
    definition = f"the line's first speaker (column speakers), at most {MOST_NAMES} by name"
    return Factor("name", definition, (*chosen, others), level)


def _by_speaker(matched: Matched) -> Factor:
    names = [speakers[0] if speakers else "" for speakers in _column(matched, "speakers")]
    unseen = np.array(list(_column(matched, "first_seen")), dtype=bool)
    counts = Counter(names)
    leads = {name for name, count in counts.items() if count >= LEAD_SHARE * len(names)}
    level = np.where(unseen, 2, np.where([name in leads for name in names], 0, 1))
    definition = (
        "unseen = the line's first speaker has no line in any earlier scene of the corpus (column first_seen); lead = "
        f"any other who speaks at least {100 * LEAD_SHARE:g} % of the targets compared here; minor = the rest"
    )
    return Factor("speaker", definition, ("lead", "minor", "unseen"), level)


def _by_position(matched: Matched) -> Factor:
    level = np.digitize(_numbers(matched, "position"), LATER_LINES)
    a, b = LATER_LINES
    levels = (f"line 1 to {a}", f"line {a + 1} to {b}", f"line {b + 1} on")
    return Factor(
        "position in the scene", "the number of the line in its scene (column position, from 0)", levels, level
    )


def _by_shift(matched: Matched) -> Factor:
    order: dict[str | None, int] = {name: i for i, name in enumerate(matched.first.info.labels)}
    before = np.array([order.get(name, -1) for name in _column(matched, "previous_gold_same_speaker")], dtype=np.int64)
    level = np.where(before < 0, 2, np.where(before == matched.gold, 0, 1))
    definition = (
        "shift = the gold label differs from that of the same speaker's previous line in the scene (column "
        "previous_gold_same_speaker); first line = there is none, or it has no label"
    )
    return Factor("emotion shift", definition, ("no shift", "shift", "first line"), level)


def _by_history(matched: Matched) -> Factor:
    level = np.digitize(_numbers(matched, "history_length"), HISTORY)
    first, second = HISTORY
    levels = (f"below {first:,} lines", f"{first:,} to {second - 1:,} lines", f"{second:,} lines on")
    definition = "lines of the line's first speaker in earlier scenes of the corpus (column history_length)"
    return Factor("history length", definition, levels, level)


def _column(matched: Matched, name: str) -> Iterator[Any]:
    values, rows = _found(matched, name)
    return (values[i] for i in rows.tolist())


def _numbers(matched: Matched, name: str) -> Integers:
    values, rows = _found(matched, name)
    numbers: Integers = values[rows]
    return numbers


def _found(matched: Matched, name: str) -> tuple[Any, Integers]:
    found = matched.with_column(name)
    if found is None:
        raise InternalError(f"no table has the column '{name}'")
    return getattr(found[0], name), found[1]
