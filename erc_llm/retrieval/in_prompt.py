"""Labelled lines of train for prompts: finds, for a line, its nearest neighbours or their label distribution.

Neighbours are lines of the train split that the run itself is trained on: what is held out (the selection split, a fold
of a cross-fitting) is not in the index. Their text is not stored with the run; in use it is read from the same corpus.
Lines of the query's own episode are never neighbours, in training as in use.

Two controls break a rule on purpose, to show what the leak would seem to bring. `own_episode` also allows the other
lines of the query's own episode, held out or not. `gold_label` allows only lines of the query's own gold label, as in
published procedures that choose demonstrations by it.

    retriever = open_retriever(config.retrieval, corpus, run.manifest)
    retriever(dialogue, [0, 1], None)

Input: the `retrieval` section, a corpus, a run's manifest. Output: a `Retriever`, which the prompter calls.
Does not depend on: tokenizers, prompts' wording, language models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from erc_llm.config import RetrievalConfig
from erc_llm.corpus.dialogues import PARTS_OF_TRAIN, Corpus, Dialogue
from erc_llm.corpus.splits import episode_of
from erc_llm.errors import ConfigError, ModelError, RunError
from erc_llm.prompting.retrieved import Found
from erc_llm.prompting.templates import load_retrieval
from erc_llm.retrieval.index import Bools, Index, build_index, labelled_lines
from erc_llm.retrieval.vectors import WORDS
from erc_llm.runs.manifest import Manifest, Retrieval

_TEMPERATURE = 0.1  # of the weights of similar lines in a distribution; calibrations choose among 0.05, 0.1 and 0.2
_MOST_KEPT = 100_000  # queries whose results are kept
_GIVE = "give that of the run: `erc-llm predict RUN CORPUS`, or `erc_llm.load(run, past=erc_llm.read_corpus(CORPUS))`"


class Query(NamedTuple):
    """A line whose neighbours are wanted; `label` and `place` only under the control that needs them."""

    text: str
    episode: str
    label: str | None = None
    place: tuple[str, str] | None = None  # ids of the dialogue and the utterance


class Retriever:
    """Finds the nearest labelled lines of train, or their label distribution; keeps what it has found.

    Args:
        index: The index over the labelled lines of `train` and, under `own_episode`, of what is held out from it.
        train: The dialogues that neighbours of every line may come from.
        held_out: Under `own_episode`, the dialogues whose lines are neighbours within their own episode only.
        config: What is retrieved: `use`, `neighbours` and `leak`.
    """

    def __init__(
        self, index: Index, train: Sequence[Dialogue], held_out: Sequence[Dialogue], config: RetrievalConfig
    ) -> None:
        lines = labelled_lines([*train, *held_out])
        self.index = index
        self.texts = [u.text for _, u in lines]
        self._places = {(d.id, u.id): row for row, (d, u) in enumerate(lines)}
        self._in_train = np.arange(len(lines)) < len(labelled_lines(train))
        self._k = config.neighbours
        self._shows_lines = config.use == "demonstrations"
        self._leak = config.leak
        self._known: dict[Query, Found] = {}

    def __call__(self, dialogue: Dialogue, lines: Sequence[int], episode: str | None) -> list[Found]:
        """What is found for some lines of a dialogue, by one search for all that were not asked for before.

        Args:
            dialogue: The dialogue.
            lines: Numbers of its lines, from 0.
            episode: Its episode, where the dialogue does not state it.
        """
        if len(self._known) > _MOST_KEPT:
            self._known.clear()
        asked = [self._query(dialogue, k, episode or episode_of(dialogue)) for k in lines]
        if new := [*dict.fromkeys(query for query in asked if query not in self._known)]:
            self._known.update(zip(new, self._search(new), strict=True))
        return [self._known[query] for query in asked]

    def _query(self, dialogue: Dialogue, k: int, episode: str) -> Query:
        said = dialogue.utterances[k]
        label = said.label if self._leak == "gold_label" else None
        return Query(said.text, episode, label, (dialogue.id, said.id) if self._leak == "own_episode" else None)

    def _search(self, queries: Sequence[Query]) -> Iterator[Found]:
        vectors = self.index.embed([query.text for query in queries])
        near = self.index.nearest(vectors, [query.episode for query in queries], self._k, self._barred(queries))
        if not self._shows_lines:
            for shares in self.index.distributions(near, self._k, _TEMPERATURE).tolist():
                yield Found(shares=tuple(shares))
            return
        for rows, similar in zip(near.rows, near.similarities, strict=True):
            found = rows[np.isfinite(similar)].tolist()
            yield Found(lines=tuple((self.texts[row], int(self.index.label[row])) for row in found))

    def _barred(self, queries: Sequence[Query]) -> Bools | None:
        """(queries, lines) what a control bars as neighbours; None for the rule."""
        if self._leak == "none":
            return None
        own = self.index.episode[None, :] == self.index.numbers_of([q.episode for q in queries])[:, None]
        if self._leak == "own_episode":
            barred: Bools = ~(self._in_train[None, :] | own)
            for i, query in enumerate(queries):
                if (row := self._places.get(query.place or ("", ""))) is not None:
                    barred[i, row] = True
            return barred
        gold = np.array([self.index.labels.index(q.label) if q.label else -1 for q in queries])[:, None]
        other: Bools = own | ((gold >= 0) & (self.index.label[None, :] != gold))
        return other


def open_retriever(config: RetrievalConfig, corpus: Corpus, made: Manifest | None) -> Retriever:
    """The retriever that a configuration describes, over the train split of a corpus.

    Args:
        config: The section of the configuration; `use` is not `none`.
        corpus: The corpus as training sees it, with what is held out in splits of its own.
        made: The manifest of the run in use; None in training, and for a base model alone.

    Raises:
        ConfigError: The corpus has no train split.
        RunError: Its train, or the wording, is not that of the run.
        ModelError: The encoder is missing, or is not that of the run.
        CorpusError: No line of train is labelled.
    """
    if made is not None:
        _check_same(config, corpus, made)
    if "train" not in corpus.splits:
        raise ConfigError(
            f"retrieval.use={config.use}: prompts contain labelled lines of train, which are not stored with a run, "
            f"and no corpus with a train split is given; {_GIVE}"
        )
    train = corpus.split("train")
    held_out: tuple[Dialogue, ...] = ()
    if config.leak == "own_episode":
        held_out = tuple(d for part in PARTS_OF_TRAIN[1:] for d in corpus.splits.get(part, ()))
    index = build_index([*train, *held_out], corpus.labels, config.encoder, corpus.train_sha256)
    return Retriever(index, train, held_out, config)


def retrieval_of(config: RetrievalConfig) -> Retrieval | None:
    """What a manifest states of retrieval; None if nothing is retrieved.

    Raises:
        ModelError: The encoder is missing.
    """
    if config.use == "none":
        return None
    encoder = None
    if config.encoder != WORDS:
        from erc_llm.models.hashes import weights_sha256
        from erc_llm.models.loading import encoder_folder

        encoder = weights_sha256(encoder_folder(config.encoder))
    leak = None if config.leak == "none" else config.leak
    return Retrieval(template_sha256=load_retrieval().sha256, encoder_sha256=encoder, leak=leak)


def _check_same(config: RetrievalConfig, corpus: Corpus, made: Manifest) -> None:
    """Refuse another train, encoder or wording than those of a run."""
    if corpus.splits and corpus.train_sha256 != made.train_sha256:
        raise RunError(
            f"run {made.run_id}: its prompts contain lines of the train it was trained on (hash "
            f"{str(made.train_sha256)[:12]}), and corpus '{corpus.name}' has another one ({corpus.train_sha256[:12]}); "
            f"{_GIVE}"
        )
    now, began = retrieval_of(config), made.retrieval
    if now is None or began is None:
        raise RunError(f"run {made.run_id}: manifest.json and config.yaml disagree about retrieval; train again")
    if now.template_sha256 != began.template_sha256:
        raise RunError(
            f"run {made.run_id}: was trained with another wording of retrieved lines (retrieval template "
            f"{began.template_sha256[:12]}, here {now.template_sha256[:12]}); use version "
            f"{made.versions.get('erc-llm')} of erc-llm"
        )
    if now.encoder_sha256 != began.encoder_sha256:
        raise ModelError(
            f"run {made.run_id}: retrieves lines with an encoder of hash {str(began.encoder_sha256)[:12]}, "
            f"'{config.encoder}' here has {str(now.encoder_sha256)[:12]}; name the right one with retrieval.encoder="
        )
