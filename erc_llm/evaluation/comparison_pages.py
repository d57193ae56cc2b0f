"""Writes a comparison: Markdown with its figures beside it, one HTML page with the figures inside, and JSON.

Input: a `Comparison`. Output: files, each of which appears whole or not at all. Text and tables are those of
`comparison_report`; the layout is in `templates/`, and text from a table is escaped so that it is never read as markup.
Does not depend on: predictions tables, the terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING

import jinja2

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.comparison_report import CALIBRATION, sections, title
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.sections import Drawing, ReportTable
from erc_llm.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "comparison"
MARKDOWN, HTML = f"{NAME}.md.jinja", f"{NAME}.html.jinja"  # in `templates/`
# GitHub reads text between two dollar signs as a formula, and its documentation advises this escape.
_DOLLAR = "<span>$</span>"


@dataclass(frozen=True, slots=True)
class _Figure:
    title: str
    file: str
    svg: str


# For each section its heading and blocks.
_Page = Sequence[tuple[str, Sequence[str | ReportTable | _Figure]]]


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write `comparison.md`, `.html`, `.json`, and the figures of the first as `comparison-1.svg` and so on.

    Returns:
        The paths, in that order; the folder is created.

    Raises:
        PredictionsError: A file cannot be written.
    """
    page = _page(comparison)
    contents = {
        f"{NAME}.md": _render(MARKDOWN, title(comparison), page),
        f"{NAME}.html": _render(HTML, title(comparison), page),
        f"{NAME}.json": json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False) + "\n",
        **{block.file: block.svg for _, blocks in page for block in blocks if isinstance(block, _Figure)},
    }
    # A table's name may hold bytes that are no text, so everything is encoded before the first file is written.
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
    """The whole report in Markdown, with the names of figures that `write_comparison` gives."""
    return _render(MARKDOWN, title(comparison), _page(comparison))


def as_html(comparison: Comparison) -> str:
    """The whole report as one HTML page that loads no other file."""
    return _render(HTML, title(comparison), _page(comparison))


def _page(comparison: Comparison) -> _Page:
    """The sections with their figures as SVG."""
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


def _render(template: str, heading: str, page: _Page) -> str:
    return _environment().get_template(template).render(heading=heading, page=page)


@cache
def _environment() -> jinja2.Environment:
    """Escapes every expression in HTML; in both formats, an expression that is not markup is put on one line."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("erc_llm.evaluation"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") else _one_line(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = _in_markdown
    environment.tests["figure"] = lambda block: isinstance(block, _Figure)
    return environment


def _in_markdown(words: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", _one_line(words)).replace("&", "&amp;").replace("<", "&lt;")
    return escaped.replace("$", _DOLLAR)


def _one_line(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words)
