"""The writer `lines`: a few of a person's own past lines, chosen by recency and by similarity to the preceding lines.

Similarity is lexical by default (shared words, rare words counting more, no model); an encoder's may be given instead.

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
_DIGITS = 5  # of a similarity that count; an encoder's last ones depend on what else is in its batch
_BASE = 0.3  # what recency alone counts for beside a similarity between 0 and 1
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def lexical_similarity(query: str, texts: Sequence[str]) -> list[float]:
    """Cosine of word counts weighted by how rare a word is among `texts` (tf-idf; Salton and Buckley 1988).

    Rarity is counted in these texts only, so that nothing outside them has a say.
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
    """A few of the person's own past lines, chosen by fading recency and by what the preceding lines are about.

    Args:
        count: How many lines.
        similarity: How related past lines are to the preceding ones.
        longest: Most words of a line; the rest is cut.
    """

    name = "lines"

    def __init__(self, count: int = 3, similarity: Similarity = lexical_similarity, longest: int = 16) -> None:
        self.count = count
        self.similarity = similarity
        self.longest = longest

    def write(self, context: ProfileContext) -> Profile:
        """The chosen lines in quotation marks, best first; the scenes they are from are its sources, no labels are."""
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
        found: dict[str, str] = {}  # text to the scene it is from
        for i in order:
            found.setdefault(self._cut(texts[i]), candidates[i][2])
        chosen = list(found.items())[: self.count]
        used = {scene for _, scene in chosen}
        scenes = tuple(scene.dialogue.id for scene in context.scenes if scene.dialogue.id in used)
        return Profile(context.speaker, tuple(f'"{text}"' for text, _ in chosen), scenes, lines=len(chosen))

    def _cut(self, text: str) -> str:
        words = text.replace('"', "'").split()
        return " ".join(words) if len(words) <= self.longest else " ".join(words[: self.longest]) + "..."
