"""What a report is made of, whatever it is shown on: sections of sentences, tables and drawings; and their print.

Goes in: sections. Comes out: a terminal's lines, plain ASCII without colour where it is no terminal. `comparison_pages`
shows the same sections as Markdown and HTML. A style never carries a meaning of its own: what is red also says so in
words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from erc_llm.evaluation.page import Page
from erc_llm.metrics import Estimate

Style = Literal["", "strong", "good", "bad", "unsure"]
_NARROWEST = 14  # columns that words of a table keep, however narrow the terminal
_COLOURS: dict[Style, str] = {"": "", "strong": "bold", "good": "bold green", "bad": "bold red", "unsure": "yellow"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and how it looks."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table: column names, and rows of cells; the first `left` columns are words, the others figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int = 1


@dataclass(frozen=True, slots=True)
class Drawing:
    """For pages that can show one: differences, in fractions, with their intervals; `unit` is that of a hundredth."""

    title: str
    rows: tuple[tuple[str, Estimate], ...]
    unit: str


Block = str | ReportTable | Drawing


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


def grouped(columns: Sequence[str], groups: Iterable[tuple[str, Sequence[Sequence[Cell]]]]) -> ReportTable:
    """A table in which each group of rows stands below its name, so that long names break no column."""
    rows: list[tuple[Cell, ...]] = []
    for name, members in groups:
        rows.append((Cell(name, "strong"), *(Cell("") for _ in columns[1:])))
        rows.extend((replace(first, text=f"  {first.text}"), *figures) for first, *figures in members)
    return ReportTable(tuple(columns), tuple(rows))


def print_sections(heading: str, sections: Iterable[Section], console: Console) -> None:
    """Print them one after the other."""
    page = Page(console)
    page.say(heading, style="bold")
    for section in sections:
        console.print()
        page.say(section.title, style="bold underline" if page.colour else "bold")
        for block in section.blocks:
            if isinstance(block, ReportTable):
                page.table(_table(block, page))
            elif isinstance(block, str):
                page.say(block)


def _table(sheet: ReportTable, page: Page) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(sheet.columns):
        words = i < sheet.left
        table.add_column(page.text(column), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in sheet.rows:
        table.add_row(*(page.text(cell.text, _COLOURS[cell.style]) for cell in row))
    columns = [[name, *(row[i].text for row in sheet.rows)] for i, name in enumerate(sheet.columns)]
    longest = [max(map(cell_len, texts)) for texts in columns]
    least = sum(min(n, _NARROWEST) if i < sheet.left else n for i, n in enumerate(longest)) + 2 * (len(longest) - 1)
    if least > page.console.width:
        table.width = least
    return table
