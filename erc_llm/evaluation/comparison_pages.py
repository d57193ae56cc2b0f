"""A comparison as files: Markdown with its figures beside it, one HTML page with them inside, JSON.

Goes in: a `Comparison`. Comes out: files that appear whole or not at all. The words and tables are those of
`comparison_report`; only here is known how Markdown and HTML write them, and how words of a file are kept from becoming
markup.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.comparison_report import CALIBRATION, sections, title
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.sections import Cell, Drawing, ReportTable
from erc_llm.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "comparison"
# Else GitHub reads what stands between two of them as a formula; its documentation of formulas advises this.
_DOLLAR = "<span>$</span>"
_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .15rem .7rem .15rem 0; text-align: right; vertical-align: top; }
th { font-weight: 400; color: #57606a; border-bottom: 1px solid #d0d7de; } .left { text-align: left; }
.strong { font-weight: 600; } .good { color: #116329; font-weight: 600; } .unsure { color: #7d4e00; }
.bad { color: #b3001b; font-weight: 600; } svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True, slots=True)
class _Figure:
    title: str
    file: str
    svg: str


# A heading and what stands below it.
_Page = Sequence[tuple[str, Sequence[str | ReportTable | _Figure]]]


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write `comparison.md`, `.html`, `.json`, and the figures of the first as `comparison-1.svg` and so on.

    Returns:
        The paths, in that order; the folder is made.

    Raises:
        PredictionsError: A file cannot be written.
    """
    page = _page(comparison)
    contents = {
        f"{NAME}.md": _markdown(title(comparison), page),
        f"{NAME}.html": _html(title(comparison), page),
        f"{NAME}.json": json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False) + "\n",
        **{block.file: block.svg for _, blocks in page for block in blocks if isinstance(block, _Figure)},
    }
    # A file's name may hold bytes that are no text; all is encoded before the first file is there.
    encoded = {folder / name: content.encode("utf-8", "replace") for name, content in contents.items()}
    for path, content in encoded.items():
        write_whole(path, partial(_write, content), PredictionsError)
    for path in set(folder.glob(f"{NAME}-*.svg")) - encoded.keys():
        if path.stem.removeprefix(f"{NAME}-").isdecimal():  # of an earlier comparison that had more figures
            path.unlink()
    return tuple(encoded)


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def as_markdown(comparison: Comparison) -> str:
    """The whole report; figures are named as `write_comparison` names them."""
    return _markdown(title(comparison), _page(comparison))


def as_html(comparison: Comparison) -> str:
    """The whole report as one page that loads nothing from anywhere."""
    return _html(title(comparison), _page(comparison))


def _page(comparison: Comparison) -> _Page:
    """The sections, their figures drawn."""
    from erc_llm.evaluation.plots import as_svg, differences_figure, reliabilities_figure

    numbers = count(1)

    def figure(caption: str, drawn: Figure) -> _Figure:
        return _Figure(caption, f"{NAME}-{next(numbers)}.svg", as_svg(drawn))

    page: list[tuple[str, list[str | ReportTable | _Figure]]] = []
    for section in sections(comparison):
        blocks = [
            figure(block.title, differences_figure(block.title, block.rows, block.unit))
            if isinstance(block, Drawing)
            else block
            for block in section.blocks
        ]
        if section.title == CALIBRATION:
            bins = [(s.name, s.calibration.reliability) for s in comparison.systems if s.calibration]
            blocks.append(figure("How often the likeliest label is right", reliabilities_figure(bins)))
        page.append((section.title, blocks))
    return page


def _markdown(heading: str, page: _Page) -> str:
    lines = [f"# {_in_markdown(heading)}"]
    for name, blocks in page:
        lines.append(f"## {_in_markdown(name)}")
        for block in blocks:
            if isinstance(block, _Figure):
                lines.append(f"![{_in_markdown(block.title)}]({block.file})")
            else:
                lines.append(_markdown_table(block) if isinstance(block, ReportTable) else _in_markdown(block))
    return "\n\n".join(lines) + "\n"


def _html(heading: str, page: _Page) -> str:
    body = [f"<h1>{_in_html(heading)}</h1>"]
    for name, blocks in page:
        body.append(f"<h2>{_in_html(name)}</h2>")
        body += [_html_block(block) for block in blocks]
    head = f"<title>{_in_html(heading)}</title><style>{_CSS}</style>"
    viewport = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{viewport}{head}</head><body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html_block(block: str | ReportTable | _Figure) -> str:
    if isinstance(block, str):
        return f"<p>{_in_html(block)}</p>"
    return block.svg if isinstance(block, _Figure) else _html_table(block)


def _html_table(sheet: ReportTable) -> str:
    sides = ['class="left"' if i < sheet.left else "" for i in range(len(sheet.columns))]
    head = "".join(f"<th {side}>{_in_html(name)}</th>" for name, side in zip(sheet.columns, sides, strict=True))
    rows = ["".join(_html_cell(cell, i < sheet.left) for i, cell in enumerate(row)) for row in sheet.rows]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>'


def _html_cell(cell: Cell, left: bool) -> str:
    return f'<td class="{"left " if left else ""}{cell.style}">{_in_html(cell.text)}</td>'


def _markdown_table(sheet: ReportTable) -> str:
    rule = ["---" if i < sheet.left else "---:" for i in range(len(sheet.columns))]
    rows = [[_markdown_cell(cell) for cell in row] for row in sheet.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (map(_in_markdown, sheet.columns), rule, *rows))


def _markdown_cell(cell: Cell) -> str:
    text = _in_markdown(cell.text)
    return f"**{text}**" if cell.style in ("strong", "good", "bad") and text else text


def _in_html(words: str) -> str:
    return html.escape(_one_line(words))


def _in_markdown(words: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", _one_line(words)).replace("&", "&amp;").replace("<", "&lt;")
    return escaped.replace("$", _DOLLAR)


def _one_line(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words)
