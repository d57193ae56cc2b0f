"""Speaker profiles: what is known of a person before a scene, in a few sentences.

In: a `History` and a writer. Out: for each scene, a `Profile` for each of its speakers, made strictly from the past. A
profile is sentences; how many of them fit into a prompt is decided where their tokens are counted. Knows no tokenizer
and no language model.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, log, log2, sqrt
from statistics import NormalDist
from typing import Literal, Protocol

from erc_llm.corpus.dialogues import EVERYONE, Dialogue, Utterance
from erc_llm.corpus.history import History, PastScene, fading, first_lines, speakers_of
from erc_llm.prompting.names import first_name
from erc_llm.prompting.retrieval import Similarity, lexical_similarity

Control = Literal["none", "shuffled", "stale"]

NOT_SEEN = "Not seen before."
_FORGOTTEN = 0.02  # a scene that weighs less is not looked at, which keeps the cost of a profile constant
_CHANCE = 0.05  # share of profiles that may tell what is chance
_ALIKE = 0.15  # intraclass correlation of a person's labels in a scene; 0.14 on EmoryNLP's train, mean of the labels
_LEAST = 5  # labels that a leaning's evidence must be worth
_FEWEST_SCENES = 2  # that a label must have been seen in to be told of; one scene's mood is not the person
_LATELY = 3  # scenes that are lately, at most
_LEAST_RECENT, _LEAST_USUAL = 3, 10  # labels that a shift's evidence must be worth, lately and before
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

    A leaning or a shift is told only where chance would tell one in twenty profiles at most, all labels together, with
    the number of labels that its evidence is worth. The sentences are about nobody by name; the prompt puts the name
    before them.
    """

    name = "statistics"

    def write(self, moment: Moment) -> tuple[str, ...]:
        """The sentences that the evidence carries."""
        said = [*_shift(moment), *_leanings(moment), _talk(moment)]
        return tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said)


@dataclass(frozen=True, slots=True)
class _Tally:
    """Labels of some scenes.

    Attributes:
        shares: Label name to its share, by weight; a label that was never seen is missing.
        scenes: Label name to how many scenes have it.
        count: How many independent labels of equal weight would tell as much.
    """

    shares: Mapping[str, float]
    scenes: Mapping[str, int]
    count: float


def _tally(scenes: Sequence[tuple[PastScene, float]]) -> _Tally:
    """Of scenes with their weights. What fades counts less, and so do labels that share a scene and thus its mood."""
    weighed, seen, spread = defaultdict[str, float](float), Counter[str](), 0.0
    for scene, weight in scenes:
        labels = [label for label in scene.labels if label is not None]
        seen.update(set(labels))
        for label in labels:
            weighed[label] += weight
        spread += weight * weight * len(labels) * (1 + (len(labels) - 1) * _ALIKE)
    total = sum(weighed.values())
    if not total:
        return _Tally({}, {}, 0.0)
    # Kish's effective sample size, of weights and of clusters (Survey Sampling, 1965)
    return _Tally({label: weight / total for label, weight in weighed.items()}, seen, total * total / spread)


def _leanings(moment: Moment) -> list[str]:
    own = _tally(list(zip(moment.scenes, moment.weights, strict=True)))
    everyone = sum(moment.everyone.values())
    if own.count < _LEAST or not everyone:
        return []
    found = []
    for label, count in moment.everyone.items():
        z = _deviation(own.shares.get(label, 0.0), count / everyone, own.count, everyone)
        told = z < 0 or own.scenes[label] >= _FEWEST_SCENES
        if told and abs(z) >= _strong(len(moment.everyone)):
            found.append((-abs(z), f"{'more' if z > 0 else 'less'} {label.lower()}"))
    if not found:
        return []
    return [f"{' and '.join(text for _, text in sorted(found)[:2])} than most (worth {own.count:.0f} labels)"]


def _shift(moment: Moment) -> list[str]:
    """The label that the last few labelled scenes have unusually often, by this person's own measure."""
    pairs = zip(moment.scenes, moment.weights, strict=True)
    labelled = [(scene, weight) for scene, weight in pairs if any(label is not None for label in scene.labels)]
    lately = [(scene, weight) for scene, weight in labelled[:_LATELY] if weight >= 0.5]  # within the half-life
    now, then = _tally(lately), _tally([(scene, 1.0) for scene, _ in labelled[len(lately) :]])
    if now.count < _LEAST_RECENT or then.count < _LEAST_USUAL:
        return []
    kinds = len(moment.everyone)
    found = [(_strong(kinds), "")]
    for label, share in now.shares.items():
        usual = (then.shares.get(label, 0.0) * then.count + 1) / (then.count + kinds)
        if now.scenes[label] >= _FEWEST_SCENES:
            found.append((_deviation(share, usual, now.count, then.count), label))
    label = max(found)[1]
    return [f"lately more {label.lower()} than usual (worth {now.count:.0f} labels)"] if label else []


def _deviation(share: float, usual: float, count: float, usual_count: float) -> float:
    """How far a share among `count` is from the usual one among `usual_count`, in standard normal deviates.

    The signed root of twice the log-likelihood ratio (Wilks 1938), which keeps its level for rare labels and few of
    them, where a difference divided by its standard error does not.
    """
    if not 0 < usual < 1:
        return 0.0
    surprise = sum(p * log(p / q) for p, q in ((share, usual), (1 - share, 1 - usual)) if p > 0)
    deviation = sqrt(2 * max(surprise, 0.0) / (1 / count + 1 / usual_count))
    return deviation if share > usual else -deviation


@cache
def _strong(kinds: int) -> float:
    """Deviates that chance exceeds in one profile of twenty, so many labels being looked at (Bonferroni): 2.69 of 7."""
    return NormalDist().inv_cdf(1 - _CHANCE / (2 * kinds))


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
