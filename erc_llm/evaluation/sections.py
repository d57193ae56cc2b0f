"""The parts of a report: sections of sentences, tables and drawings.

Input: text and estimates. Output: frozen records, which `cli.sections_view` prints and `comparison_pages` writes as
Markdown and HTML. A style repeats what the words say, so that no meaning is lost without colour.
Does not depend on: how the report is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from erc_llm.metrics import Estimate

Style = Literal["", "strong", "good", "bad", "unsure"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and its style."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table: column names and rows of cells; the first `left` columns are words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int = 1


@dataclass(frozen=True, slots=True)
class Drawing:
    """Differences, in fractions, with their intervals, for pages that can show a plot; `unit` names a hundredth."""

    title: str
    rows: tuple[tuple[str, Estimate], ...]
    unit: str


Block = str | ReportTable | Drawing


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: tuple[Block, ...]


def grouped(columns: Sequence[str], groups: Iterable[tuple[str, Sequence[Sequence[Cell]]]]) -> ReportTable:
    """A table in which each group of rows is below its name, so that long names widen no column."""
    rows: list[tuple[Cell, ...]] = []
    for name, members in groups:
        rows.append((Cell(name, "strong"), *(Cell("") for _ in columns[1:])))
        rows.extend((replace(first, text=f"  {first.text}"), *numbers) for first, *numbers in members)
    return ReportTable(tuple(columns), tuple(rows))
