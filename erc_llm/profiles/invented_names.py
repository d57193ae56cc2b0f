"""Invented names: a control that replaces every person's name, to measure what a base model remembers of a series.

Each word of a name is replaced by another word, the same one everywhere, also where a text mentions the person. Roles
such as Guy or Doctor stay, because they name nobody. A word that the corpus often writes in lower case ("will", "joy")
is replaced where it names a speaker; in running text, only after the person's first name or a title. Nicknames that are
not the beginning of a name (Pheebs) stay unless they are given.

Who is mentioned, and which words are names, is decided from train (held-out parts included), so that later texts of
other splits have no influence; a corpus without train is used whole. Within train, later scenes do count: a person is
replaced from the first mention on, even if that person's first line comes later.

Input: a corpus. Output: speaker names and texts with the names replaced.
Does not depend on: tokenizers, models, templates.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache

from erc_llm.corpus.dialogues import EVERYONE, PARTS_OF_TRAIN, Corpus
from erc_llm.corpus.speakers import is_generic
from erc_llm.prompting.names import first_name

_WORD = re.compile(r"[^\W\d_]+")
_SPELLED = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")  # "c'mon" is no "mon"
_CONSONANTS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "tr")
_VOWELS = ("a", "e", "i", "o", "u")
_SHORTEST_NICKNAME = 3
_MOSTLY = 5  # a proper word occurs at least this many times as often capitalised as in lower case
_TITLES = frozenset(["mr", "mrs", "ms", "miss", "dr", "prof", "aunt", "uncle", "sir"])


class InventedNames:
    """Replaces the names of a corpus.

    Args:
        corpus: The corpus whose names are replaced.
        nicknames: Further words that stand for a speaker in texts, such as Pheebs for Phoebe Buffay.
    """

    def __init__(self, corpus: Corpus, nicknames: Mapping[str, str] | None = None) -> None:
        spelled: Counter[str] = Counter()
        names: set[str] = set()
        fitted = [dialogue for split in PARTS_OF_TRAIN for dialogue in corpus.splits.get(split, ())]
        for dialogue in fitted or corpus.dialogues():
            for utterance in dialogue.utterances:
                spelled.update(_SPELLED.findall(utterance.text))
                names.update(s for s in utterance.speakers if s != EVERYONE and not is_generic(s, corpus.generic))
        self._spelled = spelled
        self._generic = corpus.generic
        self._names = frozenset(names)
        self._mentioned = frozenset(
            word for name in names for word in _WORD.findall(name) if _is_name(word) and self._is_proper(word)
        )
        people = [tuple(name.split()) for name in names if first_name(name) != name]  # a first and a last name
        self._people = frozenset(people)
        self._last_names = frozenset(last for _, last in people)
        self._words = self._mentioned | {word for name in people for word in name}
        self._nicknames = {nick: name.split()[0] for nick, name in (nicknames or {}).items() if name}
        self._instead = lru_cache(maxsize=None)(self._find_instead)

    def name(self, name: str) -> str:
        """A speaker's name with every word replaced, also for a person who is not in train."""
        new = name not in self._names and name != EVERYONE and not is_generic(name, self._generic)

        def instead(word: str) -> str:
            known = word in self._words or (new and _is_name(word) and self._is_proper(word))
            return invented(word) if known else word

        return _WORD.sub(lambda m: instead(m[0]), name)

    def text(self, text: str) -> str:
        """A text with every mention replaced."""
        parts, end, before = [], 0, ""
        for match in _WORD.finditer(text):
            word, gap = match[0], text[end : match.start()]
            behind = before if gap in (" ", ". ") else ""
            parts += [gap, invented(word) if self._is_last_name(word, behind) else self._instead(word)]
            end, before = match.end(), word
        return "".join([*parts, text[end:]])

    def _is_last_name(self, word: str, before: str) -> bool:
        """Whether a word that directly follows another one is a person's last name, even if it is a common word."""
        return (before, word) in self._people or (word in self._last_names and before.lower() in _TITLES)

    def _is_proper(self, word: str) -> bool:
        """Whether texts nearly always capitalise a word."""
        return self._spelled[word.lower()] * _MOSTLY <= self._spelled[word]

    def _find_instead(self, word: str) -> str:
        plain = word.capitalize() if word.isupper() else word
        if plain in self._mentioned:
            new = invented(plain)
        elif plain.endswith("s") and plain[:-1] in self._mentioned:  # the Gellers
            new = invented(plain[:-1]) + "s"
        elif plain in self._nicknames:
            new = invented(self._nicknames[plain])
        else:
            new = self._short_form(plain)
        return new.upper() if word.isupper() and new != plain else new if new != plain else word

    def _short_form(self, word: str) -> str:
        """The beginning of an invented name, if the word is the beginning of a name: Rach for Rachel."""
        if len(word) < _SHORTEST_NICKNAME or not word.istitle() or not self._is_proper(word):
            return word
        full = min((name for name in self._mentioned if name.startswith(word)), default=None)
        return word if full is None else invented(full)[: len(word)]


@cache
def invented(word: str) -> str:
    """The replacement of one word of a name: three syllables chosen by the word's hash, always the same."""
    digest = hashlib.sha256(word.casefold().encode()).digest()
    syllables = [
        _CONSONANTS[digest[2 * i] % len(_CONSONANTS)] + _VOWELS[digest[2 * i + 1] % len(_VOWELS)] for i in range(3)
    ]
    return "".join(syllables).capitalize()


def _is_name(word: str) -> bool:
    return word[0].isupper() and len(word) > 1 and word.lower() not in _TITLES and not is_generic(word)
