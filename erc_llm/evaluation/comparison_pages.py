"""A comparison as files: Markdown, one HTML page with its figures inside, JSON.

Goes in: a `Comparison`. Comes out: three files that appear whole or not at all. The words and tables are those of
`comparison_report`; only here is known how Markdown and HTML write them, and how words of a file are kept from becoming
markup.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.comparison_report import CALIBRATION, sections, title
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.sections import Block, Cell, Drawing, Section, Sheet
from erc_llm.files import write_text

NAME = "comparison"
_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .15rem .7rem .15rem 0; text-align: right; vertical-align: top; }
th { font-weight: 400; color: #57606a; border-bottom: 1px solid #d0d7de; } .left { text-align: left; }
.strong { font-weight: 600; } .good { color: #116329; font-weight: 600; } .unsure { color: #7d4e00; }
.bad { color: #b3001b; font-weight: 600; } svg { max-width: 100%; height: auto; }
"""


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write `comparison.md`, `comparison.html` and `comparison.json`; the folder is made.

    Raises:
        PredictionsError: A file cannot be written.
    """
    contents = {
        "md": as_markdown(comparison),
        "html": as_html(comparison),
        "json": json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False) + "\n",
    }
    paths = tuple(folder / f"{NAME}.{suffix}" for suffix in contents)
    for path, content in zip(paths, contents.values(), strict=True):
        write_text(path, content, PredictionsError)
    return paths


def as_markdown(comparison: Comparison) -> str:
    """The whole report; figures are left out."""
    lines = [f"# {_in_markdown(title(comparison))}"]
    for section in sections(comparison):
        lines.append(f"## {_in_markdown(section.title)}")
        lines += [
            _markdown_table(block) if isinstance(block, Sheet) else _in_markdown(block)
            for block in section.blocks
            if not isinstance(block, Drawing)
        ]
    return "\n\n".join(lines) + "\n"


def as_html(comparison: Comparison) -> str:
    """The whole report as one page that loads nothing from anywhere."""
    body = [f"<h1>{_in_html(title(comparison))}</h1>"]
    for section in sections(comparison):
        body.extend(_html_section(section))
        if section.title == CALIBRATION:
            body.append(_reliabilities(comparison))
    head = f"<title>{_in_html(title(comparison))}</title><style>{_CSS}</style>"
    viewport = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{viewport}{head}</head><body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html_section(section: Section) -> Iterator[str]:
    yield f"<h2>{_in_html(section.title)}</h2>"
    for block in section.blocks:
        yield _html_block(block)


def _html_block(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{_in_html(block)}</p>"
    if isinstance(block, Sheet):
        return _html_table(block)
    from erc_llm.evaluation.plots import as_svg, differences_figure

    return as_svg(differences_figure(block.title, block.rows, block.unit))


def _reliabilities(comparison: Comparison) -> str:
    from erc_llm.evaluation.plots import as_svg, reliabilities_figure

    return as_svg(
        reliabilities_figure([(s.name, s.calibration.reliability) for s in comparison.systems if s.calibration])
    )


def _html_table(sheet: Sheet) -> str:
    sides = ['class="left"' if i < sheet.left else "" for i in range(len(sheet.columns))]
    head = "".join(f"<th {side}>{_in_html(name)}</th>" for name, side in zip(sheet.columns, sides, strict=True))
    rows = ["".join(_html_cell(cell, i < sheet.left) for i, cell in enumerate(row)) for row in sheet.rows]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>'


def _html_cell(cell: Cell, left: bool) -> str:
    return f'<td class="{"left " if left else ""}{cell.style}">{_in_html(cell.text)}</td>'


def _markdown_table(sheet: Sheet) -> str:
    rule = ["---" if i < sheet.left else "---:" for i in range(len(sheet.columns))]
    rows = [[_markdown_cell(cell) for cell in row] for row in sheet.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (map(_in_markdown, sheet.columns), rule, *rows))


def _markdown_cell(cell: Cell) -> str:
    text = _in_markdown(cell.text)
    return f"**{text}**" if cell.style in ("strong", "good", "bad") and text else text


def _in_html(words: str) -> str:
    return html.escape(_one_line(words))


def _in_markdown(words: str) -> str:
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", _one_line(words)).replace("<", "&lt;")


def _one_line(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words)
