"""Which past lines have to do with what is being said: similarities between texts.

In: one query and some texts. Out: a similarity of each, -1 to 1. Lexical by default: words shared, rare words counting
more, without any model; an encoder's embeddings may be handed in instead. Knows nothing of speakers and time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import log, sqrt

Similarity = Callable[[str, Sequence[str]], list[float]]

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
