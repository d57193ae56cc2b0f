"""Warnings about a corpus, collected while it is read and summarised in a few sentences.

A warning concerns unusual data that can still be used; data that cannot be used raises a `CorpusError` instead.

Input: kinds of warnings and the places they apply to. Output: one sentence per kind.
Does not depend on: files, formats.
"""

from __future__ import annotations

import reprlib

EXAMPLES = 3  # places named per kind; the others are only counted
SHOWN_CHARACTERS = 60


def show(value: object) -> str:
    """User data quoted for a message: shortened, on one line, without control codes."""
    if not isinstance(value, str):
        return reprlib.repr(value)
    return repr(value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "...")


class ReadWarnings:
    """Collects the places of each kind of warning, in the order in which the kinds first occur."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        """Record that a warning of `kind` applies to `place`."""
        self._places.setdefault(kind, []).append(place)

    def sentences(self) -> tuple[str, ...]:
        """One sentence per kind: its first few places and the number of further ones."""
        return tuple(_sentence(kind, places) for kind, places in self._places.items())


def _sentence(kind: str, places: list[str]) -> str:
    more = len(places) - EXAMPLES
    shown = ", ".join(places[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")
    return f"{kind}: {shown}"
