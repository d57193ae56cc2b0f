"""Vectors of lines: from the words of a line, from an encoder or from a model's hidden states.

Word vectors are counts of words and pairs of words, hashed and weighted by their rarity (TF-IDF); they need no model
and do not store the vocabulary.

Hidden states have a large part in common: they are compared after the mean over train is taken off, so that unrelated
lines have a similarity near 0, as with an encoder.

Input: texts or hidden states. Output: unit vectors, dense or sparse; the similarities between two sets of them.
Does not depend on: conversations, labels, files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from erc_llm.errors import ConfigError

WORDS = "words"  # the name of word vectors, in place of an encoder's
HIDDEN = "hidden"  # the name of hidden states
Vectors = Any  # (texts, dimensions) unit vectors: a dense array of float32, or a sparse matrix of scipy
Rarity = npt.NDArray[np.float32]
States = npt.NDArray[np.float32]

_DIMENSIONS = 2**17  # EmoryNLP's lines have 40,000 different words and pairs
_TOKEN = r"\w+|[!?.]+"


def word_counts(texts: Sequence[str]) -> Vectors:
    """(texts, dimensions) 1 + ln of the counts of words and pairs of words; case does not count, `!` and `?` do."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(
        n_features=_DIMENSIONS, ngram_range=(1, 2), token_pattern=_TOKEN, norm=None, alternate_sign=False
    ).transform(texts)
    hashed.data = 1 + np.log(hashed.data)
    return hashed.astype(np.float32)


def rarity(counts: Vectors) -> Rarity:
    """(dimensions,) inverse document frequency, smoothed: ln((1 + texts) / (1 + texts with it)) + 1."""
    texts, dimensions = counts.shape
    occurs = np.bincount(counts.indices, minlength=dimensions)
    weights: Rarity = (np.log((1 + texts) / (1 + occurs)) + 1).astype(np.float32)
    return weights


def word_vectors(counts: Vectors, weights: Rarity) -> Vectors:
    """Counts weighted by rarity, as unit vectors; a text without words is the zero vector."""
    from sklearn.preprocessing import normalize

    return normalize(counts.multiply(weights).tocsr().astype(np.float32))


def state_vectors(states: States, centre: States) -> Vectors:
    """(states, width) hidden states relative to a (width,) centre, as unit vectors."""
    from sklearn.preprocessing import normalize

    return normalize(states - centre)


def encoder_vectors(name: str) -> tuple[Callable[[Sequence[str]], Vectors], str]:
    """A function that embeds texts by an encoder, and the hash of the encoder's weights.

    Raises:
        ModelError: The encoder is missing or cannot be loaded.
        ConfigError: The name is empty.
    """
    from erc_llm.models.encoders import SentenceEncoder

    if not name:
        raise ConfigError(f"neighbours: expected `{WORDS}` or the name of an encoder, found ''")
    encoder = SentenceEncoder(name)
    return encoder.embed, encoder.sha256


def similarities(queries: Vectors, vectors: Vectors) -> npt.NDArray[np.float32]:
    """(queries, vectors) cosine similarities."""
    product = queries @ vectors.T
    dense: npt.NDArray[np.float32] = product.toarray() if hasattr(product, "toarray") else product
    return dense
