"""Speaker profiles: what is known of a person before a scene, in a few sentences.

In: a `History` and a writer. Out: for each scene, a `Profile` for each of its speakers, made strictly from the past. A
profile is sentences; how many of them fit into a prompt is decided where their tokens are counted. Knows no tokenizer
and no language model.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, log2, sqrt
from typing import Literal, Protocol

from erc_llm.corpus.dialogues import EVERYONE, Dialogue, Utterance
from erc_llm.corpus.history import History, PastScene, fading, first_lines, speakers_of
from erc_llm.prompting.names import first_name
from erc_llm.prompting.retrieval import Similarity, lexical_similarity

Control = Literal["none", "shuffled", "stale"]

NOT_SEEN = "Not seen before."
_FORGOTTEN = 0.02  # a scene that weighs less is not looked at, which keeps the cost of a profile constant
_STRONG = 2.0  # standard errors from what is usual
_LEAST_LABELS = 5  # below, a share says nothing
_RECENT, _LEAST_RECENT, _LEAST_USUAL = 3, 5, 20  # scenes that are recent; labels a shift is told from
_PRECEDING = 3  # lines before a profile's place that retrieval compares with
_SHORTEST = 4  # words of a line worth recalling
_BASE = 0.3  # what recency alone counts for beside a similarity between 0 and 1
_STALE = 3  # half-lives that the stale control lags behind
_NEAREST = 5  # persons of a similar past that the shuffled control draws from


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of one speaker before a scene.

    Attributes:
        speaker: The name it is about, as in the corpus.
        sentences: Its text, most important first.
        scenes: Ids of the scenes it was made from, latest first.
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
class Moment:
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
    """Writes what is known of a person as sentences; uses nothing but the `Moment`."""

    def write(self, moment: Moment) -> tuple[str, ...]:
        """The sentences, most important first; none where there is nothing to say."""
        ...


class StatisticsWriter:
    """Decayed counts in plain English: leanings relative to everybody, a recent shift, how much and to whom one talks.

    A leaning is told only where it is at least two standard errors from what is usual, with the number of labels that
    it stands on. The sentences are about nobody by name; the prompt puts the name before them.
    """

    name = "statistics"

    def write(self, moment: Moment) -> tuple[str, ...]:
        """The sentences that the evidence carries."""
        said = [*_shift(moment), *_leanings(moment), _talk(moment)]
        return tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said)


def _leanings(moment: Moment) -> list[str]:
    everyone = sum(moment.everyone.values())
    weighed, square, labels = defaultdict[str, float](float), 0.0, 0
    for scene, weight in zip(moment.scenes, moment.weights, strict=True):
        for label in scene.labels:
            if label is not None:
                weighed[label] += weight
                square += weight * weight
                labels += 1
    total = sum(weighed.values())
    if labels < _LEAST_LABELS or not everyone:
        return []
    effective = total * total / square  # Kish's effective sample size
    found = []
    for label, count in moment.everyone.items():
        z = _deviation(weighed[label] / total, count / everyone, effective)
        if abs(z) >= _STRONG:
            found.append((-abs(z), f"{'more' if z > 0 else 'less'} {label.lower()}"))
    if not found:
        return []
    return [f"{' and '.join(text for _, text in sorted(found)[:2])} than most ({labels} labels)"]


def _shift(moment: Moment) -> list[str]:
    """The label that the last few labelled scenes have unusually often, by this person's own measure."""
    labelled = [[label for label in scene.labels if label is not None] for scene in moment.scenes]
    labelled = [labels for labels in labelled if labels]
    recent = Counter(label for labels in labelled[:_RECENT] for label in labels)
    usual = Counter(label for labels in labelled[_RECENT:] for label in labels)
    now, then = recent.total(), usual.total()
    if now < _LEAST_RECENT or then < _LEAST_USUAL:
        return []
    deviations = {
        label: _deviation(count / now, (usual[label] + 1) / (then + len(moment.everyone)), now)
        for label, count in recent.items()
    }
    label = max(deviations, key=lambda name: (deviations[name], name))
    return [f"lately more {label.lower()} than usual ({now} labels)"] if deviations[label] >= _STRONG else []


def _deviation(share: float, usual: float, count: float) -> float:
    """Standard errors by which a share among `count` differs from the usual one."""
    spread = usual * (1 - usual)
    return (share - usual) / sqrt(spread / count) if spread > 0 else 0.0


def _talk(moment: Moment) -> str:
    """How much of a scene is the person's, against an equal share, and whose lines they answer."""
    ratio = 0.0
    partners = defaultdict[str, float](float)
    for scene, weight in zip(moment.scenes, moment.weights, strict=True):
        said = scene.dialogue.utterances
        ratio += weight * len(scene.positions) * len(speakers_of(scene.dialogue)) / len(said)
        for k in scene.positions:
            before = said[k - 1].speakers if k else ()
            for other in set(before) - set(said[k].speakers) - {EVERYONE, moment.speaker}:
                partners[other] += weight
    ratio /= sum(moment.weights)
    much = "talks a lot" if ratio > 1.25 else "talks little" if ratio < 0.75 else "talks as much as others"
    ranked = sorted(partners, key=lambda name: (-partners[name], name))[:2]
    return f"{much}, mostly with {' and '.join(map(first_name, ranked))}" if ranked else much


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

    def write(self, moment: Moment) -> tuple[str, ...]:
        """The chosen lines in quotation marks, best first."""
        candidates = [
            (weight, utterance.text)
            for scene, weight in zip(moment.scenes, moment.weights, strict=True)
            for utterance in scene.lines
            if len(utterance.text.split()) >= _SHORTEST
        ]
        if not candidates:
            return ()
        texts = [text for _, text in candidates]
        query = " ".join(u.text for u in moment.preceding)
        related = self.similarity(query, texts) if query.strip() else [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: (-candidates[i][0] * (_BASE + max(related[i], 0.0)), i))
        chosen = list(dict.fromkeys(self._cut(texts[i]) for i in order))[: self.count]
        return tuple(f'"{text}"' for text in chosen)

    def _cut(self, text: str) -> str:
        words = text.replace('"', "'").split()
        return " ".join(words) if len(words) <= self.longest else " ".join(words[: self.longest]) + "..."


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
        sentences = self._writer.write(
            Moment(person, self._history.speaker(person), scenes, weights, everyone, preceding)
        )
        labelled = [scene.dialogue.id for scene in scenes if any(label is not None for label in scene.labels)]
        return Profile(
            speaker,
            sentences,
            tuple(scene.dialogue.id for scene in scenes),
            tuple(labelled),
            sum(len(scene.positions) for scene in scenes),
            sum(label is not None for scene in scenes for label in scene.labels),
        )

    def _somebody_else(self, dialogue: Dialogue, person: str) -> str:
        own = self._history.count(dialogue, person)
        if not own:
            return person  # a new face stays one
        known = {p: n for p in self._history.persons() if p != person and (n := self._history.count(dialogue, p))}
        nearest = sorted((abs(n - own), p) for p, n in known.items())[:_NEAREST]
        return random.Random(f"{self._seed}/{dialogue.id}/{person}").choice(nearest)[1] if nearest else person

    def _as_it_was(self, dialogue: Dialogue, person: str) -> tuple[PastScene, ...]:
        """The past as the person's scene some half-lives ago had it; the oldest scene where it does not reach back."""
        ago = ceil(_STALE * self._half_life)
        scenes = self._history.before(dialogue, person, self._window + ago)
        old = scenes[ago:] or scenes[-1:]
        return tuple(replace(scene, distance=i + 1) for i, scene in enumerate(old))
