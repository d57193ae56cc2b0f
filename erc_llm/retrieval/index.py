"""An index over the labelled lines of train, and the label distribution of a line's nearest neighbours in it.

Lines of the query's own episode are never neighbours, in training as in use, because a new episode has no labels. The
distribution is that of nearest-neighbour language models, on labels: p(y) is proportional to the sum of
exp(similarity / temperature) over the k nearest lines with label y. U. Khandelwal, O. Levy, D. Jurafsky,
L. Zettlemoyer, M. Lewis, "Generalization through Memorization: Nearest Neighbor Language Models" (ICLR 2020).

    index = build_index(corpus.split("train"), corpus.labels, "words", corpus.train_sha256)
    Neighbours(index, k=64, temperature=0.1).of(dialogues)

Input: dialogues of train, and the name of an encoder. Output: an `Index`; label distributions of other lines.
Does not depend on: language models, runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.labels import LabelSet
from erc_llm.corpus.splits import episode_of
from erc_llm.errors import CorpusError, ModelError
from erc_llm.predictions import Prediction
from erc_llm.retrieval.vectors import (
    WORDS,
    Rarity,
    Vectors,
    encoder_vectors,
    rarity,
    similarities,
    word_counts,
    word_vectors,
)

_AT_ONCE = 512  # queries of one matrix product: 512 x 10,000 similarities are 20 MB

Floats = npt.NDArray[np.float64]


class Nearest(NamedTuple):
    """Rows of the index nearest to each query, most similar first, and their similarities: (queries, k) each.

    Similarities are minus infinity where there are fewer neighbours than k.
    """

    rows: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Index:
    """Vectors and labels of the labelled lines of train.

    Attributes:
        encoder: `words`, or the name of an encoder.
        encoder_sha256: Hash of its weights; None for `words`.
        train_sha256: Hash of the train split of which the lines are.
        labels: Label names.
        vectors: (lines, dimensions) unit vectors.
        label: (lines,) index of each line's label.
        episodes: Names of the episodes.
        episode: (lines,) number of each line's episode.
        rarity: Weights of the words; None for an encoder.
    """

    encoder: str
    encoder_sha256: str | None
    train_sha256: str
    labels: tuple[str, ...]
    vectors: Vectors
    label: npt.NDArray[np.int64]
    episodes: tuple[str, ...]
    episode: npt.NDArray[np.int64]
    rarity: Rarity | None = None
    _embed: list[Callable[[Sequence[str]], Vectors]] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.label)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(texts, dimensions) unit vectors, by the encoder of the index, which is loaded at first use.

        Raises:
            ModelError: The encoder is missing, or has other weights than the one the index was made with.
        """
        if not self._embed:
            self._embed.append(self._encoder())
        return self._embed[0](texts)

    def _encoder(self) -> Callable[[Sequence[str]], Vectors]:
        if (weights := self.rarity) is not None:
            return lambda texts: word_vectors(word_counts(texts), weights)
        embed, sha256 = encoder_vectors(self.encoder)
        if sha256 != self.encoder_sha256:
            raise ModelError(
                f"neighbours: the index was made with an encoder of hash {str(self.encoder_sha256)[:12]}, "
                f"'{self.encoder}' here has {sha256[:12]}; `erc-llm calibrate RUN --neighbours {self.encoder}` makes "
                "a new one"
            )
        return embed

    def nearest(self, queries: Vectors, episodes: Sequence[str], k: int) -> Nearest:
        """The nearest lines of other episodes.

        Args:
            queries: (queries, dimensions) unit vectors, at least one.
            episodes: Episode of each query.
            k: Number of neighbours; where other episodes have fewer lines, all of them.
        """
        numbers = {name: i for i, name in enumerate(self.episodes)}
        own = np.array([numbers.get(name, -1) for name in episodes], dtype=np.int64)
        k = min(k, len(self))
        rows, found = zip(*self._nearest(queries, own, k), strict=True)
        return Nearest(np.concatenate(rows), np.concatenate(found))

    def _nearest(self, queries: Vectors, own: npt.NDArray[np.int64], k: int) -> Iterator[Nearest]:
        for start in range(0, queries.shape[0], _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            similar = similarities(queries[part], self.vectors)
            similar[self.episode[None, :] == own[part, None]] = -np.inf
            rows = np.argpartition(-similar, k - 1, axis=1)[:, :k]
            found = np.take_along_axis(similar, rows, axis=1)
            # Ties in the order of the index, so that the result does not depend on the partition.
            order = np.lexsort((rows, -found), axis=1)
            yield Nearest(np.take_along_axis(rows, order, 1), np.take_along_axis(found, order, 1))

    def distributions(self, nearest: Nearest, k: int, temperature: float) -> Floats:
        """(queries, labels) label distributions of the first k neighbours of each query.

        A query without any similar neighbour (a line without words) gets the label distribution of the index.

        Args:
            nearest: Neighbours of each query, of which there may be more than k.
            k: Number of neighbours.
            temperature: Temperature of their weights, in units of cosine similarity.
        """
        similar = nearest.similarities[:, :k].astype(np.float64)
        label = self.label[nearest.rows[:, :k]]
        known = (similar > 0).any(axis=1)
        weights = np.zeros_like(similar)
        top = similar[known].max(axis=1, keepdims=True)
        weights[known] = np.exp((similar[known] - top) / temperature)
        mass = np.stack([(weights * (label == i)).sum(axis=1) for i in range(len(self.labels))], axis=1)
        mass[~known] = np.bincount(self.label, minlength=len(self.labels))
        distributions: Floats = mass / mass.sum(axis=1, keepdims=True)
        return distributions

    def of_targets(self, dialogues: Sequence[Dialogue], k: int) -> Nearest:
        """The nearest lines of other episodes, for every target of dialogues, in order."""
        targets = [(d.utterances[i].text, episode_of(d)) for d in dialogues for i in d.targets]
        if not targets:
            return _none(min(k, len(self)))
        return self.nearest(self.embed([text for text, _ in targets]), [episode for _, episode in targets], k)


@dataclass(frozen=True, eq=False, slots=True)
class Neighbours:
    """The label distributions that the neighbours of lines give.

    Attributes:
        index: The lines of train.
        k: Number of neighbours.
        temperature: Temperature of their weights, in units of cosine similarity.
    """

    index: Index
    k: int
    temperature: float

    def of(self, dialogues: Sequence[Dialogue]) -> Floats:
        """(targets, labels) distributions of every target of dialogues, in order.

        Raises:
            ModelError: The encoder is missing, or is another one.
        """
        return self.index.distributions(self.index.of_targets(dialogues, self.k), self.k, self.temperature)

    def of_line(self, text: str, episode: str) -> Floats:
        """(labels,) distribution of a single line."""
        nearest = self.index.nearest(self.index.embed([text]), [episode], self.k)
        distribution: Floats = self.index.distributions(nearest, self.k, self.temperature)[0]
        return distribution

    def added_to(self, predictions: Sequence[Prediction], dialogues: Sequence[Dialogue]) -> list[Prediction]:
        """Predictions of every target of dialogues, with the distributions of its neighbours."""
        found = self.of(dialogues).tolist()
        return [replace(prediction, neighbours=row) for prediction, row in zip(predictions, found, strict=True)]


def build_index(train: Sequence[Dialogue], labels: LabelSet, encoder: str, train_sha256: str) -> Index:
    """An index over the labelled targets of train.

    Args:
        train: Dialogues of train, and of no other split.
        labels: The label set.
        encoder: `words`, or the name of an encoder (see `erc_llm.models.loading.encoder_folder`).
        train_sha256: Hash of train.

    Raises:
        CorpusError: No target is labelled.
        ModelError: The encoder is missing or cannot be loaded.
    """
    lines = [(u.text, u.label, episode_of(d)) for d in train for k in d.targets if (u := d.utterances[k]).label]
    if not lines:
        raise CorpusError("neighbours: train has no labelled line, so there is nothing to retrieve")
    texts = [text for text, _, _ in lines]
    weights: Rarity | None = None
    known: list[Callable[[Sequence[str]], Vectors]] = []
    sha256: str | None = None
    if encoder == WORDS:
        counts = word_counts(texts)
        weights = rarity(counts)
        vectors = word_vectors(counts, weights)
    else:
        embed, sha256 = encoder_vectors(encoder)
        vectors, known = embed(texts), [embed]
    episodes = tuple(dict.fromkeys(episode for _, _, episode in lines))
    number = {name: i for i, name in enumerate(episodes)}
    return Index(
        encoder,
        sha256,
        train_sha256,
        labels.names,
        vectors,
        np.array([labels.index(str(label)) for _, label, _ in lines], dtype=np.int64),
        episodes,
        np.array([number[episode] for _, _, episode in lines], dtype=np.int64),
        weights,
        known,
    )


def _none(k: int) -> Nearest:
    return Nearest(np.zeros((0, k), dtype=np.int64), np.zeros((0, k), dtype=np.float32))
