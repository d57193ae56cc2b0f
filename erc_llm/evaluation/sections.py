"""The parts of a report: sections of sentences, tables and drawings.

Input: text and estimates. Output: frozen records, which `cli.sections_view` prints and `page` lays out as Markdown and
HTML. A style repeats what the words say, so that no meaning is lost without colour.
Does not depend on: how the report is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from erc_llm.evaluation.calibration_report import CalibrationReport, ReliabilityBin
from erc_llm.metrics import Estimate

Style = Literal["", "strong", "good", "bad", "unsure"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and its style; on a page also a drawing of its number.

    Attributes:
        text: The text.
        style: The style.
        bar: Length of a bar below the text, from 0 to 1; None for no bar.
        heat: Strength of a coloured background, from 0 to 1; None for none. It is blue if the style is `strong`, orange
            otherwise.
    """

    text: str
    style: Style = ""
    bar: float | None = None
    heat: float | None = None


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table: column names and rows of cells; the first `left` columns are words, the others numbers.

    `sortable`: whether the order of the rows says nothing, so that a page may offer others.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int = 1
    sortable: bool = False


@dataclass(frozen=True, slots=True)
class Differences:
    """A drawing of differences, in fractions, with their intervals; `unit` names a hundredth."""

    title: str
    rows: tuple[tuple[str, Estimate], ...]
    unit: str


@dataclass(frozen=True, slots=True)
class Reliabilities:
    """A drawing of how often the most probable label is right, by its probability, system by system."""

    title: str
    systems: tuple[tuple[str, tuple[ReliabilityBin, ...]], ...]


@dataclass(frozen=True, slots=True)
class CalibrationPlot:
    """A drawing of one table: its `reliability` with the number of targets, or its `risk` by coverage."""

    title: str
    report: CalibrationReport
    kind: Literal["reliability", "risk"]


@dataclass(frozen=True, slots=True)
class Curve:
    """A named curve through (x, y) points."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """A drawing of curves over one pair of axes; `x` and `y` name them with their units."""

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]


Drawing = Differences | Reliabilities | CalibrationPlot | Curves  # for pages that can show a plot
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


def estimate_cells(name: str, estimate: Estimate, factor: float = 100, digits: int = 2) -> tuple[Cell, Cell, Cell]:
    """Name, value and interval; the interval is empty if there is none."""
    low, high = estimate.low, estimate.high
    interval = "" if low is None or high is None else f"{factor * low:.{digits}f} to {factor * high:.{digits}f}"
    return Cell(name), Cell(f"{factor * estimate.value:.{digits}f}"), Cell(interval)


def shortened(words: str, most: int) -> str:
    """Text of a file, cut after `most` characters with the number of those left out."""
    return words if len(words) <= most else f"{words[:most]} … ({len(words) - most:,} more characters)"


def capitalised(words: str) -> str:
    """A sentence or title with its first letter in upper case; the others stay, as in `Weighted F1`."""
    return words[:1].upper() + words[1:]
