"""Speaker profiles: what is known of a person before a scene, in a few sentences.

In: a `History` and a writer. Out: for each scene, a `Profile` for each of its speakers, made strictly from the past. A
profile is sentences; how many of them fit into a prompt is decided where their tokens are counted. Knows no tokenizer
and no language model.
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
_FORGOTTEN = 0.02  # a scene that weighs less is not looked at, which keeps the cost of a profile constant
_PRECEDING = 3  # lines before a profile's place that retrieval compares with
_STALE = 3  # half-lives that the stale control lags behind
_NEAREST = 5  # persons of a similar past that the shuffled control draws from


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of one speaker before a scene, and what that was made from.

    Attributes:
        speaker: The name it is about, as in the corpus.
        sentences: Its text, most important first.
        scenes: Ids of the scenes it was made from, latest first. What a writer passed over is not among them.
        label_scenes: Ids of those whose labels were used.
        lines: How many of the person's lines it was made from.
        labels: How many labels.
    """

    speaker: str
    sentences: tuple[str, ...]
    scenes: tuple[str, ...] = ()
    label_scenes: tuple[str, ...] = ()
    lines: int = 0
    labels: int = 0

    @property
    def text(self) -> str:
        """All sentences."""
        return " ".join(self.sentences)


@dataclass(frozen=True, slots=True)
class ProfileContext:
    """What a writer gets to see.

    Attributes:
        scenes: The person's earlier scenes, latest first; never empty.
        weights: Of each scene, fading with its distance.
        everyone: How often each label was seen on anybody, by label name.
        preceding: The lines of the scene that stand before the profile's place.
        person: Who it is about, as an identity.
        speaker: The name behind it.
    """

    person: str
    speaker: str
    scenes: tuple[PastScene, ...]
    weights: tuple[float, ...]
    everyone: Mapping[str, int]
    preceding: tuple[Utterance, ...]


class ProfileWriter(Protocol):
    """Writes what is known of a person as sentences; uses nothing that is not of the context or before it."""

    def write(self, context: ProfileContext) -> Profile:
        """The profile of `context.speaker`, with its sources; no sentences where there is nothing to say."""
        ...


class Profiler:
    """Profiles of a scene's speakers, each as of the place where it stands: before its speaker's first line.

    Args:
        history: Everybody's past.
        writer: What turns a past into sentences.
        half_life: Own scenes after which a scene counts half.
        control: `shuffled`: the profile of another person with about as long a past; `stale`: as it was some
            half-lives earlier. Both are there to find out whether a profile's content matters.
        seed: Draws the other person.
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
        """Speaker name to profile, in the order of first lines."""
        labels = self._history.label_counts(dialogue)
        everyone = dict(zip(self._history.label_names, labels, strict=True))
        found = {}
        for position, speakers in first_lines(dialogue.utterances).items():
            preceding = dialogue.utterances[max(0, position - _PRECEDING) : position]
            for speaker in speakers:
                found[speaker] = self._profile(dialogue, speaker, everyone, preceding)
        return found

    def sentences(self, dialogue: Dialogue) -> dict[str, tuple[str, ...]]:
        """Speaker name to the sentences of a profile."""
        return {speaker: profile.sentences for speaker, profile in self.profiles(dialogue).items()}

    def _profile(
        self, dialogue: Dialogue, speaker: str, everyone: Mapping[str, int], preceding: tuple[Utterance, ...]
    ) -> Profile:
        person = self._history.person(speaker, dialogue)
        if self._control == "shuffled":
            person = self._somebody_else(dialogue, person)
        scenes = self._history.before(dialogue, person, self._window)
        if self._control == "stale":
            scenes = self._as_it_was(dialogue, person)
        if not scenes:
            return Profile(speaker, (NOT_SEEN,))
        weights = tuple(fading(scene.distance, self._half_life) for scene in scenes)
        told = self._writer.write(
            ProfileContext(person, self._history.speaker(person), scenes, weights, everyone, preceding)
        )
        return replace(told, speaker=speaker)

    def _somebody_else(self, dialogue: Dialogue, person: str) -> str:
        if not self._history.count(dialogue, person):
            return person  # a new face stays one
        nearest = self._history.similar(dialogue, person, _NEAREST)
        return random.Random(f"{self._seed}/{dialogue.id}/{person}").choice(nearest) if nearest else person

    def _as_it_was(self, dialogue: Dialogue, person: str) -> tuple[PastScene, ...]:
        """The past as the person's scene some half-lives ago had it; the oldest scene where it does not reach back."""
        ago = ceil(_STALE * self._half_life)
        scenes = self._history.before(dialogue, person, self._window + ago)
        old = scenes[ago:] or scenes[-1:]
        return tuple(replace(scene, distance=i + 1) for i, scene in enumerate(old))
