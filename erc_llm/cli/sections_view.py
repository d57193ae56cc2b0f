"""Prints the sections of a report.

Input: a heading and sections. Output: text on a rich console; plain ASCII without colour in a file or a pipe. Plots are
left out, because a terminal cannot show them.
Does not depend on: the content of the sections.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from erc_llm.cli.page import Page
from erc_llm.evaluation.sections import ReportTable, Section, Style

_NARROWEST = 14  # minimum width of a text column, whatever the width of the terminal
_COLOURS: dict[Style, str] = {"": "", "strong": "bold", "good": "bold green", "bad": "bold red", "unsure": "yellow"}


def print_sections(heading: str, sections: Iterable[Section], console: Console) -> None:
    """Print the heading and all sections."""
    page = Page(console)
    page.print(heading, style="bold")
    for section in sections:
        console.print()
        page.print(section.title, style="bold underline" if page.colour else "bold")
        for block in section.blocks:
            if isinstance(block, ReportTable):
                page.table(_table(block, page))
            elif isinstance(block, str):
                page.print(block)


def _table(source: ReportTable, page: Page) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(source.columns):
        words = i < source.left
        table.add_column(page.text(column), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in source.rows:
        table.add_row(*(page.text(cell.text, _COLOURS[cell.style]) for cell in row))
    columns = [[name, *(row[i].text for row in source.rows)] for i, name in enumerate(source.columns)]
    longest = [max(map(cell_len, texts)) for texts in columns]
    least = sum(min(n, _NARROWEST) if i < source.left else n for i, n in enumerate(longest)) + 2 * (len(longest) - 1)
    if least > page.console.width:
        table.width = least
    return table
