"""What a baseline reads for each target: its dialogue so far, and what its speaker said before.

In: a corpus, a tokenizer, EmoNet's switches. Out: an `Example` per target, in token ids. Two rules are kept here: a
context holds lines up to the target's own; a memory holds earlier lines of this dialogue, and of other dialogues only
those of strictly earlier scenes (`erc_llm.corpus.history`). No label is ever read but the target's own. Knows no model.

As in CoMPM's code, a marker `<s1>`, `<s2>`, ... stands before each line, in plain text rather than as a new token, so
that any pretrained encoder reads it and an identity that is new in dev needs no untrained embedding.
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

# All that becomes an angle bracket when a tokenizer normalises it (NFKD, without accents).
_BRACKETS = str.maketrans("<\u226e\ufe64\uff1c>\u226f\ufe65\uff1e", "(((())))")


@dataclass(frozen=True, slots=True)
class Example:
    """One target as a model reads it.

    Attributes:
        dialogue_id: Its scene.
        utterance_id: The target within its scene.
        context: Ids of the dialogue up to and with the target's line, the class token first.
        memory: Ids of each remembered utterance, oldest first.
        label: Index of the gold label; None where there is none.
    """

    dialogue_id: str
    utterance_id: str
    context: Ids
    memory: tuple[Ids, ...]
    label: int | None


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """How far a model looks.

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
    """Makes the examples of dialogues of a corpus.

    Args:
        corpus: The whole corpus: its earlier scenes are the past of the later ones.
        tokenizer: Of the encoder.
        reach: How far the model looks.
        numbers: Of each speaker, where the reach has a global identity; by default `corpus_numbers`.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        reach: ContextLimits,
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        self._corpus = corpus
        self._reach = reach
        self._tokenizer = tokenizer
        self._start = int(tokenizer.cls_token_id)
        self._history = History(corpus)
        self._numbers: Mapping[str, int] = {}
        if reach.global_identity:
            self._numbers = corpus_numbers(corpus) if numbers is None else numbers
        self._ids = lru_cache(maxsize=None)(self._encode)
        self._remembered = lru_cache(maxsize=None)(self._cut)

    def examples(self, dialogues: Iterable[Dialogue]) -> list[Example]:
        """One example per target, in order; a dialogue need not be part of the corpus."""
        return [example for dialogue in dialogues for example in self._of_dialogue(dialogue)]

    def _of_dialogue(self, dialogue: Dialogue) -> list[Example]:
        labels = self._corpus.labels
        local = dialogue_numbers(dialogue.utterances)
        targets, most = set(dialogue.targets), self._reach.context_tokens - 1
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
                        self._memory(dialogue, utterance, said) if self._reach.remembers else (),
                        None if utterance.label is None else labels.index(utterance.label),
                    )
                )
            if utterance.text.strip():
                # As `History` counts: a line of all is everybody's.
                for speaker in local if EVERYONE in utterance.speakers else set(utterance.speakers):
                    said[speaker].append(self._remembered(utterance.text))
        return found

    def _marked(self, utterance: Utterance, dialogue: Dialogue, local: Mapping[str, int]) -> Ids:
        """Ids of a line behind the markers of who speaks it; nothing for a line without text."""
        if not utterance.text.strip():
            return ()
        numbers = [self._number(speaker, dialogue, local) for speaker in utterance.speakers]
        markers = [token for number in numbers for token in self._ids(f"<s{number}>")]
        return (*markers, *self._ids(_plain(utterance.text)))

    def _number(self, speaker: str, dialogue: Dialogue, local: Mapping[str, int]) -> int:
        if not self._reach.global_identity:
            return local[speaker]
        # Whoever the corpus does not know, as in a dialogue that is not part of it, is nobody in particular.
        return self._numbers.get(identity(speaker, dialogue, self._corpus.generic), 0)

    def _memory(self, dialogue: Dialogue, utterance: Utterance, said: Mapping[str, list[Ids]]) -> tuple[Ids, ...]:
        if not utterance.speakers:
            return ()
        speaker = utterance.speakers[0]
        if not self._reach.across:
            return tuple(said[speaker])
        window = self._reach.window
        here = said[speaker][-window:]
        person = self._history.person(speaker, dialogue)
        scenes = self._history.before(dialogue, person, most=window - len(here))
        earlier = [self._remembered(u.text) for scene in reversed(scenes) for u in scene.lines]
        return tuple([*earlier, *here][-window:])

    def _cut(self, text: str) -> Ids:
        """Ids of a remembered utterance behind the class token."""
        return (self._start, *self._ids(_plain(text))[-(self._reach.memory_tokens - 1) :])

    def _encode(self, text: str) -> Ids:
        """Ids of a text behind a space, special tokens written in it being plain text."""
        found = self._tokenizer(f" {text}", add_special_tokens=False, split_special_tokens=True, verbose=False)
        return tuple(found["input_ids"])


def dialogue_numbers(utterances: Sequence[Utterance]) -> dict[str, int]:
    """Speaker to number within a dialogue, from 1 in the order of first lines; a later line changes no earlier one."""
    names = dict.fromkeys(speaker for utterance in utterances for speaker in utterance.speakers)
    return {name: number for number, name in enumerate(names, start=1)}


def corpus_numbers(corpus: Corpus, known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Identity to number over a whole corpus, from 1 in the order of first lines in time, over all splits.

    Names only, no labels. A later line changes no number of whoever spoke before it.

    Args:
        corpus: The corpus.
        known: Numbers given already, 1 and up; they stay, and newcomers follow. So a model keeps the numbers that it
            was trained with when splits are added to its corpus.
    """
    scenes = list(corpus.dialogues())
    if all(scene.time is not None for scene in scenes):
        scenes.sort(key=lambda scene: scene.time or ())
    people = dict.fromkeys(
        identity(speaker, scene, corpus.generic) for scene in scenes for u in scene.utterances for speaker in u.speakers
    )
    known = known or {}
    newcomers = (person for person in people if person not in known)
    return {**known, **{person: number for number, person in enumerate(newcomers, start=len(known) + 1)}}


def _plain(text: str) -> str:
    """Text on one line that cannot forge a speaker's marker: without angle brackets."""
    return " ".join(text.split()).translate(_BRACKETS)
