"""Inputs of baselines: for each target its dialogue so far, and its speaker's earlier utterances.

This module keeps two rules. A context holds lines up to the target's own. A memory holds earlier lines of this
dialogue, and of other dialogues only those of strictly earlier scenes (`erc_llm.corpus.history`). The only label that
is read is the target's own.

As in CoMPM's code, a marker `<s1>`, `<s2>`, ... stands before each line. It is plain text rather than a new token, so
any pretrained encoder can read it, and an identity that is new in dev needs no untrained embedding.

Input: a corpus, a tokenizer, `ContextLimits`. Output: an `Example` in token ids for each target.
Does not depend on: models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from erc_llm.corpus.dialogues import EVERYONE, Corpus, Dialogue, Utterance
from erc_llm.corpus.history import History
from erc_llm.corpus.speakers import identity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]

# All characters that become an angle bracket when a tokenizer normalises them (NFKD, without accents).
_BRACKETS = str.maketrans("<\u226e\ufe64\uff1c>\u226f\ufe65\uff1e", "(((())))")


@dataclass(frozen=True, slots=True)
class Example:
    """The input of one target.

    Attributes:
        dialogue_id: Id of its dialogue.
        utterance_id: Id of the target within its dialogue.
        context: Token ids of the dialogue up to and including the target's line, the class token first.
        memory: Token ids of each remembered utterance, oldest first.
        label: Index of the gold label; None if there is none.
    """

    dialogue_id: str
    utterance_id: str
    context: Ids
    memory: tuple[Ids, ...]
    label: int | None


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """How much context and memory a model reads.

    Attributes:
        context_tokens: Most tokens of a context, class token included.
        memory_tokens: Most tokens of a remembered utterance, class token included.
        remembers: Whether there is a memory at all.
        global_identity: Speakers are numbered over the whole corpus instead of by dialogue.
        across: The memory reaches across dialogues instead of within the target's own.
        window: Most utterances that a memory across dialogues holds; within a dialogue it holds all.
    """

    context_tokens: int
    memory_tokens: int
    remembers: bool
    global_identity: bool
    across: bool
    window: int


class InputWriter:
    """Builds the examples of dialogues.

    Args:
        corpus: The whole corpus; its earlier scenes are the past of the later ones.
        tokenizer: Tokenizer of the encoder.
        limits: How much context and memory the model reads.
        numbers: Number of each speaker, used with `global_identity`; by default `corpus_numbers`.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        limits: ContextLimits,
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        self._corpus = corpus
        self._limits = limits
        self._tokenizer = tokenizer
        self._start = int(tokenizer.cls_token_id)
        self._history = History(corpus)
        self._numbers: Mapping[str, int] = {}
        if limits.global_identity:
            self._numbers = corpus_numbers(corpus) if numbers is None else numbers
        self._ids = lru_cache(maxsize=None)(self._encode)
        self._remembered = lru_cache(maxsize=None)(self._cut)

    def examples(self, dialogues: Iterable[Dialogue]) -> list[Example]:
        """Return one example per target, in order; a dialogue need not be part of the corpus."""
        return [example for dialogue in dialogues for example in self._of_dialogue(dialogue)]

    def _of_dialogue(self, dialogue: Dialogue) -> list[Example]:
        labels = self._corpus.labels
        local = dialogue_numbers(dialogue.utterances)
        targets, most = set(dialogue.targets), self._limits.context_tokens - 1
        context: list[int] = []
        said: dict[str, list[Ids]] = {speaker: [] for speaker in local}  # by each speaker in the dialogue so far
        found = []
        for position, utterance in enumerate(dialogue.utterances):
            context = [*context, *self._marked(utterance, dialogue, local)][-most:]
            if position in targets:
                found.append(
                    Example(
                        dialogue.id,
                        utterance.id,
                        (self._start, *context),
                        self._memory(dialogue, utterance, said) if self._limits.remembers else (),
                        None if utterance.label is None else labels.index(utterance.label),
                    )
                )
            if utterance.text.strip():
                # As in `History`, a line that everybody speaks counts for each speaker.
                for speaker in local if EVERYONE in utterance.speakers else set(utterance.speakers):
                    said[speaker].append(self._remembered(utterance.text))
        return found

    def _marked(self, utterance: Utterance, dialogue: Dialogue, local: Mapping[str, int]) -> Ids:
        """Ids of a line after the markers of its speakers; nothing for a line without text."""
        if not utterance.text.strip():
            return ()
        numbers = [self._number(speaker, dialogue, local) for speaker in utterance.speakers]
        markers = [token for number in numbers for token in self._ids(f"<s{number}>")]
        return (*markers, *self._ids(_plain(utterance.text)))

    def _number(self, speaker: str, dialogue: Dialogue, local: Mapping[str, int]) -> int:
        if not self._limits.global_identity:
            return local[speaker]
        # Speakers that the corpus lacks, as in a dialogue that is not part of it, share the number 0.
        return self._numbers.get(identity(speaker, dialogue, self._corpus.generic), 0)

    def _memory(self, dialogue: Dialogue, utterance: Utterance, said: Mapping[str, list[Ids]]) -> tuple[Ids, ...]:
        if not utterance.speakers:
            return ()
        speaker = utterance.speakers[0]
        if not self._limits.across:
            return tuple(said[speaker])
        window = self._limits.window
        here = said[speaker][-window:]
        person = self._history.person(speaker, dialogue)
        scenes = self._history.before(dialogue, person, most=window - len(here))
        earlier = [self._remembered(u.text) for scene in reversed(scenes) for u in scene.lines]
        return tuple([*earlier, *here][-window:])

    def _cut(self, text: str) -> Ids:
        """Ids of a remembered utterance after the class token."""
        return (self._start, *self._ids(_plain(text))[-(self._limits.memory_tokens - 1) :])

    def _encode(self, text: str) -> Ids:
        """Ids of a text after a space; special tokens that are written in it count as plain text."""
        found = self._tokenizer(f" {text}", add_special_tokens=False, split_special_tokens=True, verbose=False)
        return tuple(found["input_ids"])


def dialogue_numbers(utterances: Sequence[Utterance]) -> dict[str, int]:
    """Number of each speaker within a dialogue, from 1 in the order of first lines; later lines change no number."""
    names = dict.fromkeys(speaker for utterance in utterances for speaker in utterance.speakers)
    return {name: number for number, name in enumerate(names, start=1)}


def corpus_numbers(corpus: Corpus, known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Number of each identity over all splits of a corpus, from 1 in the order of first lines in time.

    It reads names only, no labels. A later line does not change the numbers of those who spoke before it.

    Args:
        corpus: The corpus.
        known: Numbers that are given already, from 1; they are kept, and new identities get the next ones. So a model
            keeps the numbers that it was trained with when splits are added to its corpus.
    """
    people = dict.fromkeys(
        identity(speaker, scene, corpus.generic)
        for scene in corpus.dialogues()
        for u in scene.utterances
        for speaker in u.speakers
    )
    known = known or {}
    newcomers = (person for person in people if person not in known)
    return {**known, **{person: number for number, person in enumerate(newcomers, start=len(known) + 1)}}


def _plain(text: str) -> str:
    """Text on one line without angle brackets, so that it cannot forge a speaker's marker."""
    return " ".join(text.split()).translate(_BRACKETS)
