"""Overlap between corpora: training dialogues that share lines with dialogues that are held out elsewhere.

Two dialogues overlap if they have enough sequences of four words in common. Case, punctuation, accents and the names of
speakers do not count, and a changed word breaks four sequences of a line at most. Sequences that occur in many
dialogues (`I don't know what`) are left out.

Input: dialogues, and corpora to keep apart from them. Output: the dialogues that overlap, each with the one it matches.
Does not depend on: labels, splits, models.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from erc_llm.corpus.dialogues import Dialogue

WORDS = 4
_MOST_DIALOGUES = 10  # a sequence of words that more dialogues have is a phrase of the language
_ENOUGH = 6  # sequences in common; in shorter dialogues half of all they have, but two if they have two
_APOSTROPHES = re.compile("['\u2018\u2019\u02bc`\u00b4]")


@dataclass(frozen=True, slots=True)
class Match:
    """A dialogue that overlaps with another one.

    Attributes:
        dialogue: Id of the dialogue.
        held_out: Id of the dialogue it shares lines with.
        shared: Number of sequences of words in common.
        of: Number of sequences of words of the shorter one.
    """

    dialogue: str
    held_out: str
    shared: int
    of: int


def words_of(text: str) -> list[str]:
    """The words of a text without case, accents and punctuation; don't is one word."""
    plain = unicodedata.normalize("NFKD", _APOSTROPHES.sub("", text).casefold())
    return re.findall(r"[^\W_]+", "".join(c for c in plain if not unicodedata.combining(c)))


def sequences(dialogue: Dialogue) -> set[tuple[str, ...]]:
    """The sequences of `WORDS` words inside the lines of a dialogue; a shorter line counts as one if it has three."""
    found: set[tuple[str, ...]] = set()
    for utterance in dialogue.utterances:
        words = words_of(utterance.text)
        found.update(tuple(words[i : i + WORDS]) for i in range(max(len(words) - WORDS + 1, int(len(words) == 3))))
    return found


def overlapping(dialogues: Sequence[Dialogue], held_out: Iterable[Dialogue]) -> list[Match]:
    """The dialogues that share lines with a held-out one, in order, each with its best match."""
    others = {dialogue.id: sequences(dialogue) for dialogue in held_out}
    own = [sequences(dialogue) for dialogue in dialogues]
    where: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, found in others.items():
        for words in found:
            where[words].append(name)
    common = Counter(words for found in own for words in found)
    rare = {words: names for words, names in where.items() if max(len(names), common[words]) <= _MOST_DIALOGUES}
    return [
        match
        for dialogue, found in zip(dialogues, own, strict=True)
        for match in _best(dialogue.id, found, rare, others)
    ]


def _best(
    name: str,
    found: set[tuple[str, ...]],
    rare: Mapping[tuple[str, ...], Sequence[str]],
    others: Mapping[str, set[tuple[str, ...]]],
) -> Iterator[Match]:
    shared = Counter(other for words in found for other in rare.get(words, ()))
    for other, count in shared.most_common():
        shorter = min(len(found), len(others[other]))
        if count >= min(_ENOUGH, shorter, max(2, shorter / 2)):
            yield Match(name, other, count, shorter)
            return
