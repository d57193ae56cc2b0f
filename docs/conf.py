"""The documentation site: how Sphinx builds it from the pages of this folder and the docstrings of the package.

Input: docs/**/*.md, erc_llm. Output: HTML that loads nothing from the network; `make docs` writes it to build/site.
Does not depend on: the evidence under docs/results, but for the reports, pictures and files that pages link to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent

project = "erc-llm"
author = "the erc-llm authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = "erc-llm"
html_copy_source = False
html_show_sphinx = False

highlight_language = "none"  # a block without a language is commands and what they print
myst_heading_anchors = 4  # links to sections are written as GitHub reads them

default_role = "literal"  # docstrings have code in single backticks, as Markdown has
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

_LINK = re.compile(r"(?<!!)\[([^]]*)\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def setup(app: Sphinx) -> None:
    """Adapt the pages, which are written for the repository, where every file and folder can be linked to."""
    from pygments.lexers.special import TextLexer

    app.add_lexer("csv", TextLexer)
    app.connect("source-read", _adapt)


def _adapt(app: Any, name: str, source: list[str]) -> None:
    """Sphinx's event `source-read`: the text of the page is the only item of `source`."""
    if name.startswith("results/") and not source[0].startswith("# "):  # what a benchmark printed
        source[0] = f"# Printed by `python -m benchmarks`: {Path(name).name}\n\n{source[0]}"
    source[0] = with_links_into_the_site(source[0], (DOCS / name).parent)


def with_links_into_the_site(text: str, folder: Path) -> str:
    """A page of `folder` in which every link to a folder, or to a page outside of docs/, is its path instead.

    These are in the repository, but not in the site. Other files are copied into it by Sphinx.
    """

    def linked(found: re.Match[str]) -> str:
        words, target = found.groups()
        path = (folder / target).resolve()
        outside = path.suffix == ".md" and DOCS not in path.parents
        if "://" in target or not (path.is_dir() or outside):
            return found[0]
        place = f"`{path.relative_to(DOCS.parent)}`"
        return place if words.strip("`/") == place.strip("`") else f"{words} ({place} in the repository)"

    return _LINK.sub(linked, text)
