"""What was found odd while reading, gathered into a few sentences for people.

Something is odd when the corpus can still be used but its owner would want to know. What cannot be used is a
`CorpusError` instead. Knows nothing of files and formats.
"""

from __future__ import annotations

import reprlib

EXAMPLES = 3  # places named for each kind; the rest is counted
SHOWN_CHARACTERS = 60


def show(value: object) -> str:
    """A piece of somebody's data, quoted, shortened and safe to print in a message (one line, no control codes)."""
    if not isinstance(value, str):
        return reprlib.repr(value)
    return repr(value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "...")


class ReadWarnings:
    """Collects places by kind of oddity; one sentence a kind, in the order in which the kinds were met."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        """Note that `kind` was met at `place`."""
        self._places.setdefault(kind, []).append(place)

    def sentences(self) -> tuple[str, ...]:
        """One sentence a kind: how often, and the first few places."""
        return tuple(_sentence(kind, places) for kind, places in self._places.items())


def _sentence(kind: str, places: list[str]) -> str:
    more = len(places) - EXAMPLES
    shown = ", ".join(places[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")
    return f"{kind}: {shown}"
