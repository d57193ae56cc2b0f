"""Breakdown of one table: F1 of each label, and weighted F1 by subgroup and by speaker, with intervals.

Input: a predictions table. Output: plain records; fractions between 0 and 1. Intervals resample whole dialogues. What
lacks its columns is left out, with a sentence.
Does not depend on: files, how a report shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from erc_llm.evaluation.contrasts import sides
from erc_llm.evaluation.matching import Matched, NamedTable
from erc_llm.evaluation.subgroups import factors, most_frequent_speakers
from erc_llm.evaluation.systems import System
from erc_llm.evaluation.tallies import tally
from erc_llm.metrics import Estimate
from erc_llm.predictions import Predictions


@dataclass(frozen=True, slots=True)
class Group:
    """A part of the targets: its name, its size, and its weighted F1, or the F1 of a label."""

    name: str
    targets: int
    f1: Estimate


@dataclass(frozen=True, slots=True)
class Division:
    """One way to divide the targets, with its definition by columns of the table."""

    name: str
    definition: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The result.

    Attributes:
        labels: F1 of each label, in the order of the table's labels; `targets` are those with this gold label.
        divisions: Weighted F1 by subgroup; groups without targets are left out.
        missing: Sentences about columns that the table lacks.
    """

    labels: tuple[Group, ...]
    divisions: tuple[Division, ...]
    missing: tuple[str, ...]


def break_down(table: Predictions, draws: int = 10_000, seed: int = 0) -> Breakdown:
    """Break the metrics of a table down; rows without a gold label are left out.

    Args:
        table: The table; at least one row has a gold label.
        draws: Number of resamples of whole dialogues.
        seed: Seed of the resampling.
    """
    matched = Matched((NamedTable(table.info.system, table),), (np.flatnonzero(table.gold_index >= 0),))
    ways, missing = factors(matched)
    by_name = most_frequent_speakers(matched)
    if by_name is not None:
        ways = (by_name, *ways)
    labels = table.info.labels
    levels = [(way.level, len(way.levels)) for way in ways]
    tallies = tally(matched.gold, [matched.answers(0)], matched.dialogue, levels, len(labels))
    (side,) = sides(tallies, [System(table.info.system, (0,), True)], draws, seed)
    support = tallies.support.sum(axis=0)

    def group(name: str, place: int, targets: int) -> Group:
        return Group(name, int(targets), side.estimate(place))

    divisions, start = [], 1
    for way in ways:
        places = range(start, start + len(way.levels))
        rows = [group(name, i, support[i].sum()) for name, i in zip(way.levels, places, strict=True)]
        divisions.append(Division(way.name, way.definition, tuple(row for row in rows if row.targets)))
        start += len(way.levels)
    of_labels = (group(name, tallies.layout.label(i), support[0, i]) for i, name in enumerate(labels))
    return Breakdown(tuple(of_labels), tuple(divisions), missing)
