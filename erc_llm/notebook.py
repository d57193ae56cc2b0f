"""Small HTML tables for notebooks, which show a record by its method `_repr_html_`.

Input: a title, column names and cells. Output: HTML that loads nothing and runs nothing; every text is escaped.
Does not depend on: what is shown, pandas, IPython.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

SHOWN_ROWS = 20  # of a long table; the others are counted below it
_SHOWN_TEXT = 200  # characters of a cell
_TABLE = "border-collapse:collapse;font-size:90%;font-variant-numeric:tabular-nums"
_CELL = "text-align:left;vertical-align:baseline;padding:.15em 1em .15em 0"


@dataclass(frozen=True, slots=True)
class Share:
    """A number between 0 and 1, shown in percent above a bar of its length."""

    value: float


Shown = str | Share


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Shown]], note: str = "") -> str:
    """A table with a title above and a note below it; of many rows the first `SHOWN_ROWS` are shown."""
    every = list(rows)
    shown = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in every[:SHOWN_ROWS])
    head = "".join(f'<th style="{_CELL};font-weight:normal;opacity:.7">{escape(name)}</th>' for name in columns)
    left_out = f"… and {len(every) - SHOWN_ROWS:,} more rows" if len(every) > SHOWN_ROWS else ""
    below = " · ".join(filter(None, (left_out, note)))
    return (
        f'<div style="overflow-x:auto"><strong>{_text(title)}</strong>'
        f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{shown}</tbody></table>'
        f"{f'<small>{_text(below)}</small>' if below else ''}</div>"
    )


def _cell(value: Shown) -> str:
    if isinstance(value, str):
        return f'<td style="{_CELL}" dir="auto">{_text(value)}</td>'
    width = 6 * min(max(value.value, 0.0), 1.0)
    bar = f'<div style="background:#2471d6;height:3px;width:{width:.2f}em"></div>'
    return f'<td style="{_CELL}">{value.value:.0%}{bar}</td>'


def _text(words: str) -> str:
    """Escaped text on one line, shortened if it is long."""
    line = "".join(letter if letter.isprintable() else " " for letter in words)
    return escape(line if len(line) <= _SHOWN_TEXT else f"{line[:_SHOWN_TEXT]}…")
