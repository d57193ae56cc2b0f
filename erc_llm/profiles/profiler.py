"""Speaker profiles: writes what is known about each speaker before a scene, strictly from the past.

A profile is a list of sentences; the prompter decides how many of them fit its token budget.

Input: a `History`, a writer, a dialogue. Output: one `Profile` for each speaker of the dialogue.
Does not depend on: tokenizers, language models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Literal, Protocol

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.corpus.history import History, PastScene, fading, first_lines

Control = Literal["none", "shuffled", "stale"]

NOT_SEEN = "Not seen before."
_FORGOTTEN = 0.02  # scenes of a lower weight are ignored, which keeps the cost of a profile constant
_PRECEDING = 3  # lines before the profile's place with which retrieval compares
_STALE = 3  # half-lives by which the stale control lags behind
_NEAREST = 5  # persons with a similarly long past from whom the shuffled control draws


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known about one speaker before a scene, and its sources.

    Attributes:
        speaker: Name of the speaker, as in the corpus.
        sentences: Text of the profile, most important sentence first.
        scenes: Ids of the scenes that were used, latest first; scenes that the writer skipped are left out.
        label_scenes: Ids of the scenes whose labels were used.
        lines: Number of the person's lines that were used.
        labels: Number of labels that were used.
    """

    speaker: str
    sentences: tuple[str, ...]
    scenes: tuple[str, ...] = ()
    label_scenes: tuple[str, ...] = ()
    lines: int = 0
    labels: int = 0

    @property
    def text(self) -> str:
        """All sentences, joined by spaces."""
        return " ".join(self.sentences)


@dataclass(frozen=True, slots=True)
class ProfileContext:
    """Input of a profile writer.

    Attributes:
        person: Identity of the person that the profile is about.
        speaker: Name of that person.
        scenes: The person's earlier scenes, latest first; never empty.
        weights: Weight of each scene, decaying with its distance.
        everyone: Label name to the number of its visible occurrences, over all persons.
        preceding: The lines of the scene that stand before the profile's place.
    """

    person: str
    speaker: str
    scenes: tuple[PastScene, ...]
    weights: tuple[float, ...]
    everyone: Mapping[str, int]
    preceding: tuple[Utterance, ...]


class ProfileWriter(Protocol):
    """Writes what is known about a person as sentences, from nothing but the context and what precedes it."""

    def write(self, context: ProfileContext) -> Profile:
        """The profile of `context.speaker`, with its sources; without sentences if nothing is known."""
        ...


class Profiler:
    """Writes the profiles of a scene's speakers, each as of its place: before the speaker's first line.

    Args:
        history: The past of all persons.
        writer: Turns a person's past into sentences.
        half_life: Number of the person's own scenes after which a scene counts half.
        control: `shuffled`: the profile of another person with about as long a past; `stale`: the profile as it was
            some half-lives earlier. Both controls measure whether the content of a profile matters.
        seed: Seed for drawing the other person.
    """

    def __init__(
        self, history: History, writer: ProfileWriter, half_life: float = 8.0, control: Control = "none", seed: int = 13
    ) -> None:
        self._history = history
        self._writer = writer
        self._half_life = half_life
        self._control = control
        self._seed = seed
        self._window = ceil(half_life * log2(1 / _FORGOTTEN))

    def profiles(self, dialogue: Dialogue) -> dict[str, Profile]:
        """Speaker name to profile, in the order of the speakers' first lines."""
        labels = self._history.label_counts(dialogue)
        everyone = dict(zip(self._history.label_names, labels, strict=True))
        found = {}
        for position, speakers in first_lines(dialogue.utterances).items():
            preceding = dialogue.utterances[max(0, position - _PRECEDING) : position]
            for speaker in speakers:
                found[speaker] = self._profile(dialogue, speaker, everyone, preceding)
        return found

    def sentences(self, dialogue: Dialogue) -> dict[str, tuple[str, ...]]:
        """Speaker name to the sentences of the profile."""
        return {speaker: profile.sentences for speaker, profile in self.profiles(dialogue).items()}

    def _profile(
        self, dialogue: Dialogue, speaker: str, everyone: Mapping[str, int], preceding: tuple[Utterance, ...]
    ) -> Profile:
        person = self._history.person(speaker, dialogue)
        if self._control == "shuffled":
            person = self._somebody_else(dialogue, person)
        if self._control == "stale":
            scenes = self._as_it_was(dialogue, person)
        else:
            scenes = self._history.before(dialogue, person, self._window)
        if not scenes:
            return Profile(speaker, (NOT_SEEN,))
        weights = tuple(fading(scene.distance, self._half_life) for scene in scenes)
        written = self._writer.write(
            ProfileContext(person, self._history.speaker(person), scenes, weights, everyone, preceding)
        )
        return replace(written, speaker=speaker)

    def _somebody_else(self, dialogue: Dialogue, person: str) -> str:
        if not self._history.count(dialogue, person):
            return person  # a person without a past keeps none
        nearest = self._history.similar(dialogue, person, _NEAREST)
        return random.Random(f"{self._seed}/{dialogue.id}/{person}").choice(nearest) if nearest else person

    def _as_it_was(self, dialogue: Dialogue, person: str) -> tuple[PastScene, ...]:
        """The past as it was some half-lives ago; only the oldest scene if the past does not reach back that far."""
        ago = ceil(_STALE * self._half_life)
        scenes = self._history.before(dialogue, person, self._window + ago)
        old = scenes[ago:] or scenes[-1:]
        return tuple(replace(scene, distance=i + 1) for i, scene in enumerate(old))
