"""The profile writer `lines`: quotes a few past lines of a person, chosen by recency and similarity to the scene.

Past lines are compared with the lines that precede the profile. The similarity is lexical by default (shared words,
rare words weigh more, no model); that of an encoder can be passed in.

Input: a `ProfileContext`. Output: quoted lines as the sentences of a `Profile`.
Does not depend on: tokenizers, models, prompts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import log, sqrt

from erc_llm.profiles.profiler import Profile, ProfileContext

Similarity = Callable[[str, Sequence[str]], list[float]]

_SHORTEST = 4  # words of a line worth recalling
_DIGITS = 5  # similarities are rounded to this; an encoder's last digits depend on the rest of its batch
_BASE = 0.3  # weight of recency alone, added to a similarity between 0 and 1
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def lexical_similarity(query: str, texts: Sequence[str]) -> list[float]:
    """Cosine of word counts weighted by how rare a word is among `texts` (tf-idf; Salton and Buckley 1988).

    Document frequencies come from these texts only, so that nothing outside them has an influence.
    """
    counts = [_words(text) for text in texts]
    found = Counter(word for words in counts for word in words)
    rarity = {word: log((1 + len(texts)) / (1 + found[word])) + 1 for word in found}
    asked = {word: n * rarity.get(word, 0.0) for word, n in _words(query).items()}
    length = _length(asked.values())
    similarities = []
    for words in counts:
        weights = {word: n * rarity[word] for word, n in words.items()}
        shared = sum(asked.get(word, 0.0) * weight for word, weight in weights.items())
        similarities.append(shared / (length * _length(weights.values())) if shared else 0.0)
    return similarities


@lru_cache(maxsize=50_000)
def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.casefold().replace("\u2019", "'")))


def _length(weights: Iterable[float]) -> float:
    return sqrt(sum(w * w for w in weights))


class LinesWriter:
    """Quotes a few past lines of the person, chosen by decaying recency and by similarity to the preceding lines.

    Args:
        count: Number of lines.
        similarity: Scores how related past lines are to the preceding ones.
        longest: Maximum words of a line; the rest is cut.
    """

    def __init__(self, count: int = 3, similarity: Similarity = lexical_similarity, longest: int = 16) -> None:
        self.count = count
        self.similarity = similarity
        self.longest = longest

    def write(self, context: ProfileContext) -> Profile:
        """The chosen lines in quotation marks, best first, with the scenes they come from; no labels are used."""
        candidates = [
            (weight, utterance.text, scene.dialogue.id)
            for scene, weight in zip(context.scenes, context.weights, strict=True)
            for utterance in scene.lines
            if len(utterance.text.split()) >= _SHORTEST
        ]
        if not candidates:
            return Profile(context.speaker, ())
        texts = [text for _, text, _ in candidates]
        query = " ".join(u.text for u in context.preceding)
        related = self.similarity(query, texts) if query.strip() else [0.0] * len(texts)
        related = [max(round(value, _DIGITS), 0.0) for value in related]
        order = sorted(range(len(texts)), key=lambda i: (-candidates[i][0] * (_BASE + related[i]), i))
        found: dict[str, str] = {}  # text to the scene it comes from
        for i in order:
            found.setdefault(self._cut(texts[i]), candidates[i][2])
        chosen = list(found.items())[: self.count]
        used = {scene for _, scene in chosen}
        scenes = tuple(scene.dialogue.id for scene in context.scenes if scene.dialogue.id in used)
        return Profile(context.speaker, tuple(f'"{text}"' for text, _ in chosen), scenes, lines=len(chosen))

    def _cut(self, text: str) -> str:
        words = text.replace('"', "'").split()
        return " ".join(words) if len(words) <= self.longest else " ".join(words[: self.longest]) + "..."
