"""Prints the sections of a report.

Input: a heading and sections. Output: text on a rich console; plain ASCII without colour in a file or a pipe. Drawings
are left out: a terminal cannot show them.
Does not depend on: what the sections are about.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from erc_llm.cli.page import Page
from erc_llm.evaluation.sections import ReportTable, Section, Style

_NARROWEST = 14  # least width of a column of words, whatever the width of the terminal
_COLOURS: dict[Style, str] = {"": "", "strong": "bold", "good": "bold green", "bad": "bold red", "unsure": "yellow"}


def print_sections(heading: str, sections: Iterable[Section], console: Console) -> None:
    """Print the heading and all sections."""
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
