"""Display names: how a prompt calls the speakers of a scene.

The name of a speaker never depends on a later line.

Input: utterances with global speaker names. Output: the names that the prompt shows.
Does not depend on: tokenizers, templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from typing import Literal, Protocol

from erc_llm.corpus.dialogues import EVERYONE, Utterance
from erc_llm.corpus.speakers import is_generic

Names = Literal["first", "full", "invented"]

# Titles and descriptions that begin a name of two words and are no first names.
_NOT_FIRST_NAMES = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "miss",
        "dr",
        "prof",
        "aunt",
        "uncle",
        "the",
        "sir",
        "lady",
        "officer",
        "judge",
        "father",
        "sister",
        "fake",
        "young",
        "old",
        "little",
        "big",
        "other",
        "casting",
    ]
)


class Renaming(Protocol):
    """Replaces the names of persons, in speaker names and in running text."""

    def name(self, name: str) -> str:
        """The name to show in place of a speaker's name."""
        ...

    def text(self, text: str) -> str:
        """The text with every mention of a person replaced."""
        ...


def first_name(speaker: str) -> str:
    """First name of a full name; other names unchanged ("Mrs. Geller", "Fake Monica", "Woman On Train")."""
    words = speaker.split()
    described = len(words) != 2 or not all(w.isalpha() and w.istitle() for w in words)
    if described or words[0].casefold() in _NOT_FIRST_NAMES or any(is_generic(word) for word in words):
        return speaker
    return words[0]


def called(utterances: Sequence[Utterance], names: Names) -> dict[str, str]:
    """Speaker to display name: the first name, or the full name if an earlier speaker has the same first name."""
    shown: dict[str, str] = {EVERYONE: "All"}
    taken: set[str] = set()
    for speaker in (s for u in utterances for s in u.speakers):
        if speaker not in shown:
            numbered = (f"{speaker} {number}" for number in count(2))
            free = (n for n in chain((first_name(speaker), speaker), numbered) if n not in taken)
            shown[speaker] = speaker if names == "full" else next(free)
            taken.add(shown[speaker])
    return shown


def line_names(utterances: Sequence[Utterance], names: Names) -> list[str]:
    """The display name before each line; several speakers are joined by `and`."""
    shown = called(utterances, names)
    return [_join([shown[s] for s in u.speakers] or ["Someone"]) for u in utterances]


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
