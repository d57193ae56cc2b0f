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
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.corpus.labels import LabelSet
from erc_llm.corpus.splits import episode_of
from erc_llm.errors import CorpusError, ModelError
from erc_llm.predictions import Prediction
from erc_llm.retrieval.approximate import Cells, CellSearch, Search, check_approximate, find_cells
from erc_llm.retrieval.vectors import (
    HIDDEN,
    WORDS,
    Rarity,
    States,
    Vectors,
    encoder_vectors,
    rarity,
    similarities,
    state_vectors,
    word_counts,
    word_vectors,
)

_AT_ONCE = 512  # queries of one search
_MOST = 2**24  # similarities of one matrix product, about 500 MB with their order: 512 queries of 32,768 lines
# Similarities that differ by less are equal: rounding depends on how many queries are multiplied at once.
_EQUAL = 1e-5
_FAR = 10**6  # in units of `_EQUAL`, more than similarities can differ

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Embed = Callable[[Sequence[str]], Vectors]


class Nearest(NamedTuple):
    """The nearest lines of each query, most similar first; equally similar ones in the order of the index.

    Attributes:
        rows: (queries, k) rows of the index.
        similarities: (queries, k) their similarities, minus infinity for lines of the query's own episode.
        own: (queries,) number of the query's episode; -1 for one that is not in the index.
    """

    rows: Integers
    similarities: Floats
    own: Integers


@dataclass(frozen=True, eq=False)
class Index:
    """Vectors and labels of the labelled lines of train.

    Attributes:
        encoder: `words`, the name of an encoder, or `hidden` (see `build_index`).
        encoder_sha256: Hash of its weights, those of the adapter for `hidden`; None for `words`.
        train_sha256: Hash of the train split of which the lines are.
        labels: Label names.
        vectors: (lines, dimensions) unit vectors.
        label: (lines,) index of each line's label.
        episodes: Names of the episodes.
        episode: (lines,) number of each line's episode.
        rarity: Weights of the words; None for an encoder.
        centre: (dimensions,) mean of the lines' hidden states; None for an encoder.
        cells: The cells of approximate search; None: search is exact.
        loaded: The encoder, if it is loaded already.
    """

    encoder: str
    encoder_sha256: str | None
    train_sha256: str
    labels: tuple[str, ...]
    vectors: Vectors
    label: Integers
    episodes: tuple[str, ...]
    episode: Integers
    rarity: Rarity | None = None
    centre: States | None = None
    cells: Cells | None = None
    loaded: Embed | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def embed(self) -> Embed:
        """The function from texts to (texts, dimensions) unit vectors; there is none for hidden states.

        Raises:
            ModelError: The encoder is missing, or has other weights than the one the index was made with.
        """
        if (weights := self.rarity) is not None:
            return lambda texts: word_vectors(word_counts(texts), weights)
        if self.loaded is not None:
            return self.loaded
        embed, sha256 = encoder_vectors(self.encoder)
        if sha256 != self.encoder_sha256:
            raise ModelError(
                f"neighbours: the index was made with an encoder of hash {str(self.encoder_sha256)[:12]}, "
                f"'{self.encoder}' here has {sha256[:12]}"
            )
        return embed

    def numbers_of(self, episodes: Sequence[str]) -> Integers:
        """Number of each episode; -1 for one that is not in the index."""
        numbers = {name: i for i, name in enumerate(self.episodes)}
        return np.array([numbers.get(name, -1) for name in episodes], dtype=np.int64)

    def nearest(self, queries: Vectors, episodes: Sequence[str], k: int, barred: Bools | None = None) -> Nearest:
        """The nearest lines of other episodes.

        Approximate search asks for as many further candidates as the query's own episode has lines. If it finds fewer
        than k of other episodes, the query is searched exactly.

        Args:
            queries: (queries, dimensions) unit vectors.
            episodes: Episode of each query.
            k: Number of neighbours; all lines if there are fewer.
            barred: (queries, lines) lines that are no neighbours, in place of those of the query's own episode; for
                controls.
        """
        own = self.numbers_of(episodes)
        k = min(k, len(self))
        rows, similar = np.zeros((len(own), k), np.int64), np.zeros((len(own), k))
        left = np.arange(len(own))
        if self.cells is not None and barred is None:
            for part in _parts(left, _AT_ONCE):
                rows[part], similar[part] = self._in_cells(queries[part], own[part], k)
            left = np.flatnonzero(np.isneginf(similar).any(axis=1))
        for part in _parts(left, max(1, min(_AT_ONCE, _MOST // len(self)))):
            among = np.arange(len(self))[None]
            found = similarities(queries[part], self.vectors)
            rows[part], similar[part] = self._first(
                among, found, own[part], k, None if barred is None else barred[part]
            )
        return Nearest(rows, similar, own)

    @cached_property
    def _cell_search(self) -> CellSearch:
        assert self.cells is not None, "search is exact"
        return CellSearch(self.vectors, self.cells)

    def _in_cells(self, queries: Vectors, own: Integers, k: int) -> tuple[Integers, Floats]:
        """As `_first`, among the lines in the cells near each query."""
        more = self._sizes[own].max()
        return self._first(*self._cell_search.nearest(queries, k + int(more)), own, k)

    def _first(
        self, rows: Integers, similar: npt.NDArray[np.float32], own: Integers, k: int, barred: Bools | None = None
    ) -> tuple[Integers, Floats]:
        """The first k of (1 or queries, candidates) rows, and their similarities.

        Barred lines (by default those of the query's own episode) and rows -1 come last, at similarity minus infinity.
        """
        lines = len(self)
        # One number for each line, which falls with its similarity, then rises with its row: there are no ties.
        order = -np.rint(similar / _EQUAL).astype(np.int64) * lines + rows
        dropped = ((self.episode[rows] == own[:, None]) if barred is None else barred) | (rows < 0)
        order = np.where(dropped, _FAR * lines + rows, order)
        places = np.argpartition(order, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(order, places, axis=1)
        found.sort(axis=1)
        first = found % lines
        steps = (found - first) // lines
        return first, np.where(steps > _FAR // 2, -np.inf, -steps * _EQUAL)

    def distributions(self, nearest: Nearest, k: int, temperature: float) -> Floats:
        """(queries, labels) label distributions of the first k neighbours of each query.

        Lines without similarity (0 or below) do not count. A query for which none is left gets the label distribution
        of all lines of other episodes.

        Args:
            nearest: Neighbours of each query, of which there may be more than k.
            k: Number of neighbours.
            temperature: Temperature of their weights, in units of cosine similarity.
        """
        similar, label = nearest.similarities[:, :k], self.label[nearest.rows[:, :k]]
        top = np.maximum(similar.max(axis=1, keepdims=True), 0.0)
        weights = np.where(similar > 0, np.exp((similar - top) / temperature), 0.0)
        mass = np.stack([(weights * (label == i)).sum(axis=1) for i in range(len(self.labels))], axis=1)
        alone = mass.sum(axis=1) == 0
        mass[alone] = self._others[nearest.own[alone]]
        distributions: Floats = mass / mass.sum(axis=1, keepdims=True)
        return distributions

    @cached_property
    def _sizes(self) -> Integers:
        """(episodes + 1,) number of lines of each episode; the last one: of an episode that is not in the index."""
        return np.bincount(self.episode, minlength=len(self.episodes) + 1)

    @cached_property
    def _others(self) -> Floats:
        """(episodes + 1, labels) number of lines of other episodes with each label, plus 1; the last row: of all."""
        counts = np.zeros((len(self.episodes) + 1, len(self.labels)))
        np.add.at(counts, (self.episode, self.label), 1.0)
        others: Floats = counts.sum(axis=0) - counts + 1
        return others

    def of_targets(self, dialogues: Sequence[Dialogue], k: int, states: States | None = None) -> Nearest:
        """The nearest lines of other episodes, for every target of dialogues, in order.

        Args:
            dialogues: The dialogues.
            k: Number of neighbours; all lines if there are fewer.
            states: (targets, width) hidden states of the targets, which `hidden` needs.
        """
        targets = [(d.utterances[i].text, episode_of(d)) for d in dialogues for i in d.targets]
        queries = self.queries([text for text, _ in targets], states) if targets else self.vectors[:0]
        return self.nearest(queries, [episode for _, episode in targets], k)

    def queries(self, texts: Sequence[str], states: States | None) -> Vectors:
        """(lines, dimensions) unit vectors of lines, from their texts or, for `hidden`, their (lines, width) states."""
        if self.centre is None:
            return self.embed(texts)
        assert states is not None, "the caller keeps the states that it scores from"
        return state_vectors(states, self.centre)


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

    @property
    def by_states(self) -> bool:
        """Whether lines are compared by hidden states, so that every question needs its state."""
        return self.index.encoder == HIDDEN

    def of(self, dialogues: Sequence[Dialogue], states: Sequence[States | None] = ()) -> Floats:
        """(targets, labels) distributions of every target of dialogues, in order.

        Args:
            dialogues: The dialogues.
            states: The (width,) hidden state of every target, which `by_states` needs.

        Raises:
            ModelError: The encoder is missing, or is another one.
        """
        stacked = np.array(states) if self.by_states else None
        return self.index.distributions(self.index.of_targets(dialogues, self.k, stacked), self.k, self.temperature)

    def of_line(self, text: str, episode: str, state: States | None = None) -> Floats:
        """(labels,) distribution of a single line, with its (width,) hidden state for `by_states`."""
        queries = self.index.queries([text], None if state is None else state[None])
        nearest = self.index.nearest(queries, [episode], self.k)
        distribution: Floats = self.index.distributions(nearest, self.k, self.temperature)[0]
        return distribution

    def added_to(
        self, predictions: Sequence[Prediction], dialogues: Sequence[Dialogue], states: Sequence[States | None] = ()
    ) -> list[Prediction]:
        """Predictions of every target of dialogues, with the distributions of its neighbours; states as for `of`."""
        found = self.of(dialogues, states).tolist()
        return [replace(prediction, neighbours=row) for prediction, row in zip(predictions, found, strict=True)]


def labelled_lines(train: Sequence[Dialogue]) -> list[tuple[Dialogue, Utterance]]:
    """The labelled targets of train, each with its dialogue, in the order of an index."""
    return [(d, u) for d in train for k in d.targets if (u := d.utterances[k]).label]


def _parts(rows: Integers, size: int) -> Iterator[Integers]:
    """Consecutive parts of rows."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


class HiddenStates(NamedTuple):
    """A model's last hidden states at the questions about targets, in place of an encoder.

    Attributes:
        states: (targets, width) states, one for every target, in order.
        adapter_sha256: Hash of the weights of the model's adapter.
    """

    states: States
    adapter_sha256: str


def build_index(
    train: Sequence[Dialogue],
    labels: LabelSet,
    encoder: str | HiddenStates,
    train_sha256: str,
    search: Search = "exact",
) -> Index:
    """An index over the labelled targets of train.

    Args:
        train: Dialogues of train, and of no other split.
        labels: The label set.
        encoder: `words`, the name of an encoder (see `erc_llm.models.loading.encoder_folder`), or the hidden states of
            the targets of train.
        train_sha256: Hash of train.
        search: `exact`, or `approximate` for hundreds of thousands of lines.

    Raises:
        CorpusError: No target is labelled.
        ModelError: The encoder or the library of approximate search is missing or cannot be loaded.
        ConfigError: Approximate search was asked for with `words`.
    """
    lines = [(u.text, u.label, episode_of(d)) for d, u in labelled_lines(train)]
    if not lines:
        raise CorpusError(
            "neighbours: train has no labelled line, so there is nothing to retrieve; label some, or do without them"
        )
    if search == "approximate":
        check_approximate(encoder)
    texts = [text for text, _, _ in lines]
    weights: Rarity | None = None
    loaded: Embed | None = None
    sha256: str | None = None
    centre: States | None = None
    if isinstance(encoder, HiddenStates):
        states = encoder.states[[bool(d.utterances[k].label) for d in train for k in d.targets]]
        centre, sha256, encoder = states.mean(axis=0), encoder.adapter_sha256, HIDDEN
        vectors = state_vectors(states, centre)
    elif encoder == WORDS:
        counts = word_counts(texts)
        weights = rarity(counts)
        vectors = word_vectors(counts, weights)
    else:
        loaded, sha256 = encoder_vectors(encoder)
        vectors = loaded(texts)
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
        centre,
        find_cells(vectors) if search == "approximate" else None,
        loaded,
    )
