"""The page of a report: one self-contained HTML file, or Markdown with its figures beside it.

Input: a heading and sections. Output: HTML that loads nothing and needs no script to be read, Markdown, and the figures
as SVG. The layout is in `templates/`. Text of a table is escaped so that it is never read as markup, and right-to-left
text is kept apart from the words around it.
Does not depend on: the content of the sections, predictions tables, the terminal.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

import jinja2

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.sections import Differences, Reliabilities, ReportTable, Section
from erc_llm.files import write_text

_STYLE, _SCRIPT = "page.css", "page.js"  # in `templates/`, as is the layout
# GitHub reads text between two dollar signs as a formula, and its documentation advises this escape.
_DOLLAR = "<span>$</span>"
_LONG_WORD = re.compile(r"\S{25}")
# Letters of the scripts that are written from right to left, in the ranges that Unicode reserves for them.
_LETTER = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
_RIGHT_TO_LEFT = re.compile(rf"{_LETTER}+(?:[\W\d_]*{_LETTER}+)*")
_JOINERS = "\u200c\u200d"  # some scripts are spelt with them, and emoji are composed with them


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing as SVG.

    Attributes:
        title: Its title.
        titled: Whether the drawing shows its title itself.
        file: Name of its own file.
        svg: The drawing.
        wide: Whether it needs the width of the page.
    """

    title: str
    titled: bool
    file: str
    svg: str
    wide: bool


DrawnBlock = str | ReportTable | Figure
Page = Sequence[tuple[str, Sequence[DrawnBlock]]]  # for each section its heading and blocks


def draw(sections: Iterable[Section], stem: str) -> Page:
    """The sections with their drawings as figures, called `STEM-1.svg` and so on."""
    from erc_llm.evaluation.plots import as_svg, figure_of

    page: list[tuple[str, list[DrawnBlock]]] = []
    number = 0
    for section in sections:
        blocks: list[DrawnBlock] = []
        for block in section.blocks:
            if isinstance(block, str | ReportTable):
                blocks.append(block)
            else:
                number += 1
                titled = isinstance(block, Differences)
                wide = titled or (isinstance(block, Reliabilities) and len(block.systems) > 1)
                blocks.append(Figure(block.title, titled, f"{stem}-{number}.svg", as_svg(figure_of(block)), wide))
        page.append((section.title, blocks))
    return page


def write_page(path: Path, heading: str, sections: Iterable[Section]) -> None:
    """Write a report as one HTML file, which appears whole or not at all.

    Raises:
        PredictionsError: The file cannot be written.
    """
    write_text(path, as_text(render_html(heading, draw(sections, path.stem))), PredictionsError)


def as_text(words: str) -> str:
    """Text that can be encoded: a file's name may hold bytes that are no text."""
    return words.encode("utf-8", "replace").decode("utf-8")


def render_html(heading: str, page: Page) -> str:
    """One HTML page that loads no other file."""
    script = _source(_SCRIPT)
    # The hash of the one script that may run: of anything else a browser would refuse to run it or to load it.
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().get_template("page.html.jinja")
    return template.render(heading=heading, page=page, style=_source(_STYLE), script=script, script_sha256=digest)


def page_style() -> str:
    """The style sheet of a page, for another page with its look."""
    return _source(_STYLE)


def render_markdown(heading: str, page: Page) -> str:
    """Markdown that names the figures' files."""
    return _environment().get_template("page.md.jinja").render(heading=heading, page=page)


@cache
def _source(name: str) -> str:
    loader = _environment().loader
    assert loader is not None, "the environment below has one"
    return loader.get_source(_environment(), name)[0]


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
    environment.filters["isolated"] = _isolated
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    environment.tests["long"] = lambda words: _LONG_WORD.search(words) is not None
    return environment


def _isolated(words: str) -> str:
    """Escaped text in which each right-to-left part is isolated, so that it does not turn its neighbours round."""
    return _RIGHT_TO_LEFT.sub(r"<bdi>\g<0></bdi>", escape(_one_line(words)))


def _in_markdown(words: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", _one_line(words)).replace("&", "&amp;").replace("<", "&lt;")
    return escaped.replace("$", _DOLLAR)


def _one_line(words: str) -> str:
    return "".join(c if c.isprintable() or c in _JOINERS else " " for c in words)
