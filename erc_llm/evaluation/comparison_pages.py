"""Writes a comparison: Markdown with its figures beside it, one HTML page with the figures inside, and JSON.

Input: a `Comparison`. Output: files, each of which appears whole or not at all. Text and tables are those of
`comparison_report`; `page` lays them out.
Does not depend on: predictions tables, the terminal.
"""

from __future__ import annotations

import json
from pathlib import Path

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.comparison_report import sections, title
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.page import Figure, as_text, draw, render_html, render_markdown
from erc_llm.files import write_text

NAME = "comparison"


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write `comparison.md`, `.html`, `.json`, and the figures of the first as `comparison-1.svg` and so on.

    Returns:
        The paths, in that order; the folder is created.

    Raises:
        PredictionsError: A file cannot be written.
    """
    page = draw(sections(comparison), NAME)
    contents = {
        f"{NAME}.md": render_markdown(title(comparison), page),
        f"{NAME}.html": render_html(title(comparison), page),
        f"{NAME}.json": json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False) + "\n",
        **{block.file: block.svg for _, blocks in page for block in blocks if isinstance(block, Figure)},
    }
    encoded = {folder / name: as_text(content) for name, content in contents.items()}
    for path, content in encoded.items():
        write_text(path, content, PredictionsError)
    for path in set(folder.glob(f"{NAME}-*.svg")) - encoded.keys():
        if path.stem.removeprefix(f"{NAME}-").isdecimal():  # of an earlier comparison that had more figures
            path.unlink()
    return tuple(encoded)


def as_markdown(comparison: Comparison) -> str:
    """The whole report in Markdown, with the names of figures that `write_comparison` gives."""
    return render_markdown(title(comparison), draw(sections(comparison), NAME))


def as_html(comparison: Comparison) -> str:
    """The whole report as one HTML page that loads no other file."""
    return render_html(title(comparison), draw(sections(comparison), NAME))
